"""What `metriclab show` and `metriclab list` take from a component's docstring; the latter without importing it."""

from __future__ import annotations

import ast
import importlib.util
import inspect
import re
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path

_ARGUMENT = re.compile(r"(?P<names>\w+(?:, \w+)*)(?: \([^)]*\))?: *(?P<text>.*)")


@dataclass(frozen=True, slots=True)
class Docstring:
    """The first paragraph, the one that begins with `Paper:`, and the text of each argument."""

    summary: str = ""
    paper: str = ""
    arguments: dict[str, str] = field(default_factory=dict)


def parse_docstring(text: str | None) -> Docstring:
    """The parts of a docstring; parts that are not there are empty."""
    paragraphs = inspect.cleandoc(text or "").split("\n\n")
    papers = [paragraph for paragraph in paragraphs if paragraph.startswith("Paper:")]
    paper = _one_line(papers[0]).removeprefix("Paper:").strip() if papers else ""
    arguments = [paragraph for paragraph in paragraphs if paragraph.startswith("Args:\n")]
    return Docstring(_one_line(paragraphs[0]), paper, _arguments(arguments[0]) if arguments else {})


def _arguments(paragraph: str) -> dict[str, str]:
    lines = paragraph.splitlines()[1:]
    indent = len(lines[0]) - len(lines[0].lstrip())
    found: dict[str, str] = {}
    names: list[str] = []
    for line in lines:
        opening = _ARGUMENT.fullmatch(line[indent:]) if not line[:indent].strip() else None
        if opening:
            names = opening["names"].split(", ")
            found |= dict.fromkeys(names, opening["text"])
        else:  # a longer text goes on, indented further
            found |= {name: f"{found[name]} {line.strip()}" for name in names}
    return found


def _one_line(paragraph: str) -> str:
    return " ".join(paragraph.split())


def source_docstring(module: str, attribute: str, *, exported: bool = False) -> str | None:
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
                    return source_docstring(_absolute(node, package), name.name, exported=True)
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
