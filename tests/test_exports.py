"""The library: each kind exports its built-in components by name, and importing it costs next to nothing."""

from __future__ import annotations

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

from metriclab.registry import KINDS, entries
from metriclab.registry.entry import is_builtin

PACKAGES = {
    "dataset": "datasets",
    "views": "views",
    "sampler": "samplers",
    "encoder": "encoders",
    "head": "heads",
    "loss": "losses",
    "miner": "miners",
    "memory": "memories",
    "method": "methods",
    "optimizer": "optimizers",
    "schedule": "schedules",
    "evaluator": "evaluators",
    "tracker": "trackers",
}
MADE_OF_OTHERS = {"losses": dict.fromkeys(("Composite", "Part", "matryoshka"), "metriclab.losses.composite")}
"""What only people import: a recipe says it by a list of tables."""
LAZY = [package for package in PACKAGES.values() if (Path("metriclab") / package).is_dir()]


def built_in(kind: str) -> dict[str, str]:
    """The module of each built-in component's class or function."""
    return {e.target.partition(":")[2]: e.module for e in entries(kind) if is_builtin(e)}


def test_every_kind_has_a_package():
    assert set(PACKAGES) == set(KINDS)


@pytest.mark.parametrize(("kind", "package"), PACKAGES.items())
def test_a_package_exports_its_built_in_components(kind: str, package: str):
    exporting = importlib.import_module(f"metriclab.{package}")
    assert set(exporting.__all__) == {*built_in(kind), *MADE_OF_OTHERS.get(package, {})}
    for name, module in built_in(kind).items():
        assert getattr(exporting, name) is getattr(importlib.import_module(module), name)
        assert name[0].isupper()
        assert "_" not in name


@pytest.mark.parametrize("package", LAZY)
def test_type_checkers_see_the_same_names(package: str):
    kind = next(kind for kind, name in PACKAGES.items() if name == package)
    source = importlib.import_module(f"metriclab.{package}").__file__
    tree = ast.parse(Path(str(source)).read_text("utf-8"))
    typed = {
        alias.asname: node.module
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
        if alias.asname
    }
    assert typed == built_in(kind) | MADE_OF_OTHERS.get(package, {})


def test_importing_the_packages_imports_no_torch():
    lines = [f"import metriclab.{package}" for package in LAZY]
    code = "; ".join([*lines, "import sys; print(*sys.modules)"])
    names = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert not {"torch", "numpy", "sklearn", "matplotlib", "pytorch_metric_learning"} & set(names)


def test_a_name_that_is_not_there_is_said():
    with pytest.raises(ImportError, match=r"cannot import name 'MultiSimilarityMiner' from 'metriclab\.miners'"):
        from metriclab.miners import MultiSimilarityMiner  # type: ignore[attr-defined]  # noqa: F401
