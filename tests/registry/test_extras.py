"""Components that need a package of an extra say so where it is missing; nothing else asks for it."""

from __future__ import annotations

import importlib
import sys

import pytest

from metriclab.errors import PluginError
from metriclab.registry import load_component
from metriclab.registry.registry import definitions, find

NEEDY = [
    ("loss", "pml", "losses", ("pml", "pml_classes"), "pytorch_metric_learning", "pytorch-metric-learning"),
    ("evaluator", "clustering", "evaluators", ("clustering",), "sklearn", "scikit-learn"),
]


@pytest.mark.parametrize(("kind", "name", "package", "modules", "library", "distribution"), NEEDY)
def test_a_missing_extra_is_named(monkeypatch, kind, name, package, modules, library, distribution):
    definition = load_component(kind, name)
    for module in modules:
        monkeypatch.delitem(sys.modules, f"metriclab.{package}.{module}")
    for module in [module for module in sys.modules if module.partition(".")[0] == library]:
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.delitem(definitions, find(kind, name))
    text = (
        f"{kind} '{name}' needs {distribution}, which is not installed\n"
        f'  help: pip install "metriclab-toolkit[{name}]"'
    )
    with pytest.raises(PluginError) as caught:
        load_component(kind, name)
    assert str(caught.value) == text
    exports = importlib.import_module(f"metriclab.{package}")
    monkeypatch.delitem(vars(exports), definition.factory.__name__, raising=False)
    with pytest.raises(PluginError) as caught:
        getattr(exports, definition.factory.__name__)
    assert str(caught.value) == text
