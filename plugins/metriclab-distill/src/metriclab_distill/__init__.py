"""Distillation for metriclab: a student learns the similarities of a frozen teacher."""

from metriclab_distill.method import Distill

__all__ = ["Distill"]
