"""The examples in the docstrings of what people import are executed."""

from __future__ import annotations

import doctest
import inspect

import pytest
import torch

from metriclab.core.pair_loss import PairLoss
from metriclab.core.pointwise_pair_loss import PointwisePairLoss
from metriclab.core.rows import rows
from metriclab.registry import entries, load_component
from metriclab.registry.entry import is_builtin

BUILT_IN = [
    load_component(kind, entry.name).factory
    for kind in ("loss", "memory", "evaluator")
    for entry in entries(kind)
    if is_builtin(entry)
]
WITH_EXAMPLE = [component for component in BUILT_IN if "Example:" in str(component.__doc__)]


def test_what_is_called_with_embeddings_has_an_example():
    without = {component.__name__ for component in BUILT_IN} - {component.__name__ for component in WITH_EXAMPLE}
    assert without <= {"Features", "Robustness", "Transfer"}  # what only a method or a run can use


@pytest.mark.parametrize(
    "component", [*WITH_EXAMPLE, PairLoss, PointwisePairLoss, rows], ids=lambda component: component.__name__
)
def test_an_example_is_what_happens(component):
    scope = {"torch": torch, "rows": rows, **vars(inspect.getmodule(component))}
    (test,) = doctest.DocTestFinder(recurse=False).find(component, component.__name__, globs=scope)
    assert test.examples
    failures = doctest.DocTestRunner(verbose=False).run(test).failed
    assert failures == 0
