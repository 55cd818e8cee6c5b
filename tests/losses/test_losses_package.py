"""What importing a loss costs, and the examples of what `metriclab.losses` exports."""

from __future__ import annotations

import doctest
import inspect
import subprocess
import sys

import pytest
import torch

import metriclab.losses
from metriclab.core.pair_loss import PairLoss
from metriclab.core.pointwise_pair_loss import PointwisePairLoss
from metriclab.core.rows import rows
from metriclab.registry import entries
from metriclab.registry.entry import is_builtin

BUILT_IN = {e.target.partition(":")[2]: e.module for e in entries("loss") if is_builtin(e)}
WITH_EXAMPLE = [*(getattr(metriclab.losses, name) for name in BUILT_IN), PairLoss, PointwisePairLoss, rows]


def imported_by(code: str) -> set[str]:
    """The top packages in memory after the code."""
    told = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True).stdout.split())


def test_a_loss_imports_no_other_library():
    found = imported_by("from metriclab.losses import NTXent; NTXent()")
    assert "torch" in found
    assert not found & {"pytorch_metric_learning", "matplotlib", "sklearn", "scipy", "timm", "torchvision"}


@pytest.mark.parametrize("component", WITH_EXAMPLE, ids=lambda component: component.__name__)
def test_an_example_is_what_happens(component):
    scope = {"torch": torch, "rows": rows, **vars(inspect.getmodule(component))}
    (test,) = doctest.DocTestFinder(recurse=False).find(component, component.__name__, globs=scope)
    assert test.examples
    failures = doctest.DocTestRunner(verbose=False).run(test).failed
    assert failures == 0


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_loss_says_what_it_is(name):
    text = inspect.getdoc(getattr(metriclab.losses, name))
    assert "Paper: " in text
    assert "Example:" in text
