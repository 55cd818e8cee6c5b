"""Anybody's loss against what every loss should keep: `metriclab check-loss`.

The checks go through the same small door as those of registered losses: a callable, a `Case` of rows, and a `Call` that
says how the one is given the other. Here the call is one of three conventions, and a check measures by how much a loss
falls short, as nobody promised anything.
"""

from __future__ import annotations

from metriclab.testing.any_loss.findings import Finding
from metriclab.testing.any_loss.table import CHECKS, check_any_loss
from metriclab.testing.any_loss.target import Target
from metriclab.testing.any_loss.trial import Trial

__all__ = ["CHECKS", "Finding", "Target", "Trial", "check_any_loss"]
