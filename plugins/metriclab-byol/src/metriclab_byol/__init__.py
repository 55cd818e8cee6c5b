"""BYOL and SimSiam for metriclab: views of an image predict each other, and nothing is pushed apart."""

from __future__ import annotations

from metriclab_byol.byol import BYOL
from metriclab_byol.prediction import Outputs
from metriclab_byol.simsiam import SimSiam

__all__ = ["BYOL", "Outputs", "SimSiam"]
