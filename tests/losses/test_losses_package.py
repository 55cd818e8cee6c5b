"""What `metriclab.losses` exports, what importing it costs, and the examples of what it exports."""

from __future__ import annotations

import ast
import doctest
import importlib
import inspect
import subprocess
import sys
from pathlib import Path

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


def test_it_exports_the_registered_losses_for_readers_and_at_run_time():
    assert metriclab.losses.__all__ == sorted(BUILT_IN) == dir(metriclab.losses)
    tree = ast.parse(Path(metriclab.losses.__file__).read_text("utf-8"))
    typed = {alias.asname: node.module for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)
             for alias in node.names if alias.asname}  # fmt: skip
    assert typed == BUILT_IN
    for name, module in BUILT_IN.items():
        assert getattr(metriclab.losses, name) is getattr(importlib.import_module(module), name)
    with pytest.raises(AttributeError, match="has no attribute 'NtXent'"):
        _ = metriclab.losses.NtXent


def test_importing_it_imports_no_torch_and_a_loss_no_other_library():
    assert not imported_by("import metriclab.losses") & {"torch", "pytorch_metric_learning", "numpy"}
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
