"""Pretext tasks for metriclab: labels that images have of themselves."""

from __future__ import annotations

from metriclab_pretext.rotation import Rotation

__all__ = ["Rotation"]
