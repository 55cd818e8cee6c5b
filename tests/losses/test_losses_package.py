"""What importing a loss costs, and that each loss says what it is."""

from __future__ import annotations

import inspect
import subprocess
import sys

import pytest

import metriclab.losses
from metriclab.registry import entries
from metriclab.registry.entry import is_builtin

BUILT_IN = {e.target.partition(":")[2]: e.module for e in entries("loss") if is_builtin(e)}


def imported_by(code: str) -> set[str]:
    """The top packages in memory after the code."""
    told = f"{code}\nimport sys; print(*{{name.partition('.')[0] for name in sys.modules}})"
    return set(subprocess.run([sys.executable, "-c", told], check=True, capture_output=True, text=True).stdout.split())


def test_a_loss_imports_no_other_library():
    found = imported_by("from metriclab.losses import NTXent; NTXent()")
    assert "torch" in found
    assert not found & {"pytorch_metric_learning", "matplotlib", "sklearn", "scipy", "timm", "torchvision"}


@pytest.mark.parametrize("name", sorted(BUILT_IN))
def test_a_loss_says_what_it_is(name):
    text = inspect.getdoc(getattr(metriclab.losses, name))
    assert "Paper: " in text
    assert "Example:" in text
