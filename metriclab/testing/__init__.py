"""The conformance kit: what every loss, miner, memory and method must keep, built in or not.

A plugin's tests are a line a component:

    from metriclab.api import build
    from metriclab.testing import check_loss

    def test_mine():
        check_loss(build("loss", "mine"))

A check that fails raises an AssertionError that says what is wrong with the component and how to see it.
"""

from __future__ import annotations

from metriclab.testing.loss import check_loss
from metriclab.testing.memory import check_memory
from metriclab.testing.meter import Meter, measure
from metriclab.testing.method import check_method
from metriclab.testing.miner import check_miner
from metriclab.testing.ranks import Share, on_ranks, two_ranks

__all__ = [
    "Meter",
    "Share",
    "check_loss",
    "check_memory",
    "check_method",
    "check_miner",
    "measure",
    "on_ranks",
    "two_ranks",
]
