"""What a component is, in a sentence, read from its source: nothing is imported."""

from __future__ import annotations

import ast
import importlib.util
import re
from functools import lru_cache
from pathlib import Path

from metriclab.registry.docstring import parse_docstring
from metriclab.registry.entry import ComponentEntry
from metriclab.registry.registry import definitions

_SENTENCE = re.compile(r"(?<=[.!?]) (?=[A-Z])")


def summary(entry: ComponentEntry) -> str:
    """The first sentence of a component's docstring; "" where its source, or a docstring in it, cannot be read."""
    if entry in definitions:  # of a plugin file, or of code that runs
        text = definitions[entry].summary
    else:
        text = parse_docstring(_docstring(entry.module, entry.attribute)).summary
    return _SENTENCE.split(text)[0]


def _docstring(module: str, attribute: str, *, exported: bool = False) -> str | None:
    """That of a class or function, also where the module imports it from another one, as packages do to export it."""
    file = _file(module)
    tree = None if file is None else _parsed(file)
    if file is None or tree is None:
        return None
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and node.name == attribute:
            return ast.get_docstring(node)
        if isinstance(node, ast.ImportFrom) and not exported:
            package = module if file.name == "__init__.py" else module.rpartition(".")[0]
            for name in node.names:
                if (name.asname or name.name) == attribute:
                    return _docstring(_absolute(node, package), name.name, exported=True)
    return None


def _absolute(node: ast.ImportFrom, package: str) -> str:
    parts = package.split(".")
    around = parts[: len(parts) - node.level + 1] if node.level else []
    return ".".join([*around, *([node.module] if node.module else [])])


def _file(module: str) -> Path | None:
    """The file of a module. The import system is asked for its top package alone: asked for more, it would import."""
    top, *inner = module.split(".")
    try:
        spec = importlib.util.find_spec(top)
    except (ImportError, ValueError):
        return None
    if spec is None:
        return None
    if not inner:
        return None if spec.origin is None else Path(spec.origin)
    places = [Path(place, *inner) for place in spec.submodule_search_locations or ()]
    files = (file for place in places for file in (place / "__init__.py", place.with_name(f"{place.name}.py")))
    return next((file for file in files if file.is_file()), None)


@lru_cache(maxsize=1024)
def _parsed(file: Path) -> ast.Module | None:
    try:
        return ast.parse(file.read_bytes())
    except (OSError, ValueError, SyntaxError, RecursionError):
        return None
