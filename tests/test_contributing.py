"""The worked example of CONTRIBUTING.md: its loss is one, and its test passes and would fail."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from types import ModuleType

import pytest

from metriclab.registry import build, registry
from metriclab.testing import check_loss
from tests.support.loss_loops import ROWS

PAGE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text("utf-8")


@pytest.fixture
def example(monkeypatch):
    """The loss's module and its test's, as a plugin: built-in names come from the package's metadata alone."""
    before = dict(registry.declared), dict(registry.definitions)
    modules = []
    for name, source in zip(
        ("binomial_deviance", "test_binomial_deviance"),
        re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL),
        strict=True,
    ):
        module = ModuleType(name)
        monkeypatch.setitem(sys.modules, name, module)
        exec(compile(source, name, "exec"), vars(module))
        modules.append(module)
    yield modules
    for memory, content in zip((registry.declared, registry.definitions), before, strict=True):
        memory.clear()
        memory.update(content)


def test_it_keeps_what_every_loss_keeps(example):
    check_loss(build("loss", "binomial-deviance", alpha=3.0), ranks=False)  # other processes have not its file


@pytest.mark.parametrize("kind", ROWS)
def test_its_reference_agrees(example, kind):
    _, test = example
    test.test_the_formula(kind)
    test.test_lower_precision_is_right_to_rounding()


def test_its_reference_tells_another_formula(example, monkeypatch):
    loss, test = example
    monkeypatch.setattr(test, "build", lambda kind, name: loss.binomial_deviance(alpha=2.1))
    with pytest.raises(AssertionError):
        test.test_the_formula("random")
