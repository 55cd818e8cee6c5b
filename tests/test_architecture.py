"""Rules of the code base that no import linter can state."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "metriclab"
SOURCES = sorted(PACKAGE.rglob("*.py"))


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            names |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return names


def test_torch_distributed_has_one_importer():
    users = [path.relative_to(PACKAGE).as_posix() for path in SOURCES if "torch.distributed" in imports(path)]
    assert {user.split("/")[0] for user in users} == {"distributed"}


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.parent.glob("plugins/*/src/**/*.py")), ids=lambda path: path.parent.name
)
def test_plugins_import_the_public_surface_alone(path):
    ours = {name for name in imports(path) if name.split(".")[0] == "metriclab"}
    assert all(name.startswith(("metriclab.api", "metriclab.testing")) for name in ours), ours
