"""The conformance kit: what every component must keep, built in or not.

A plugin's tests are a line a component, which gives a test for each check (see `metriclab.testing.pytest`):

    from metriclab.testing.pytest import conformance

    test_mine = conformance("loss", "mine")

The same by hand, for a component in a variable:

    from metriclab.api import build
    from metriclab.testing import check_loss

    def test_mine():
        check_loss(build("loss", "mine", temperature=0.1), gradcheck=False)

And from the command line, for all that a package or a file brings: `metriclab check-plugin NAME`.

There is one function a kind. Losses, miners, memories, methods, encoders, heads, views and evaluators are given to it
as they are; of data sets, samplers, optimizers, schedules and trackers the checks build several, so what is given is
how: `check_sampler(functools.partial(build, "sampler", "mine"))`. A check that fails raises an AssertionError that says
what is wrong with the component and how to see it. A component need not be registered to be checked by hand. Where
several ranks are compared with one process, it is sent to others by pickle: write it as functions and classes of a
module, with `functools.partial` in place of nested functions.
"""

from __future__ import annotations

from metriclab.testing.checks import Check
from metriclab.testing.components import component_checks
from metriclab.testing.dataset import check_dataset
from metriclab.testing.encoder import check_encoder, check_head
from metriclab.testing.evaluator import check_evaluator
from metriclab.testing.loss import check_loss
from metriclab.testing.memory import check_memory
from metriclab.testing.meter import Meter, measure
from metriclab.testing.method import check_method
from metriclab.testing.miner import check_miner
from metriclab.testing.optimizer import check_optimizer, check_schedule
from metriclab.testing.ranks import Share, on_ranks, two_ranks
from metriclab.testing.sampler import check_sampler
from metriclab.testing.tracker import check_tracker
from metriclab.testing.views import check_views

__all__ = [
    "Check",
    "Meter",
    "Share",
    "check_dataset",
    "check_encoder",
    "check_evaluator",
    "check_head",
    "check_loss",
    "check_memory",
    "check_method",
    "check_miner",
    "check_optimizer",
    "check_sampler",
    "check_schedule",
    "check_tracker",
    "check_views",
    "component_checks",
    "measure",
    "on_ranks",
    "two_ranks",
]
