"""Barlow Twins and VICReg for metriclab: views agree while the dimensions of the embedding tell different things."""

from __future__ import annotations

from metriclab_barlow.barlow_twins import BarlowTwins
from metriclab_barlow.vicreg import VICReg

__all__ = ["BarlowTwins", "VICReg"]
