"""Rules of the code base that no import linter can state, and what ARCHITECTURE.md and CONTRIBUTING.md promise."""

from __future__ import annotations

import ast
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "metriclab"
SOURCES = sorted(PACKAGE.rglob("*.py"))
PLUGIN_SOURCES = sorted(ROOT.glob("plugins/*/src/**/*.py"))
PAGES = sorted(
    path
    for pattern in ("*.md", "docs/*.md", "metriclab/**/*.md", "plugins/*/*.md", "recipes/**/*.toml")
    for path in ROOT.glob(pattern)
    if path.name != "CHANGELOG.md"
)

LONGEST_FILE = 300
LONGEST_READING = 900
"""Lines of ARCHITECTURE.md and of the files it names for the whole flow, together."""

BANNED_NAMES = {
    *("CellLoss", "Chosen", "Draws", "Examined", "Found", "Known", "Listed", "Looks", "Planned", "Reading"),
    *("Sides", "Solve", "Stepwise", "Subject", "Told", "Wants", "drained", "lone_anchors", "lone_queries"),
    *("slope", "slopes", "solved"),
}
"""Words of this project's own where the field has a term: nothing in the code is called so."""

BANNED_PHRASES = re.compile(
    r"\bapi\.compare\b|\bhost\.knows\b|\bencoder\.train\s*=|\bCell(Loss\b|\.cost\b)|\bslopes?\b"
    r"|\blone[ _](anchors?|quer(y|ies))\b"
    r"|\bmeant over\b|\(width, classes\)|\bwidth of (the |an )?embeddings?\b",
    re.IGNORECASE,
)
"""The same for comments, docstrings, messages and pages."""

ONE_MEANING = ("Alike", "Entry", "Loaded", "load", "measure", "nearest", "read")
"""Names that stood for several things: each is defined once at most, beside the commands of the command line."""


@cache
def parsed(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def modules_from(node: ast.Import | ast.ImportFrom) -> list[tuple[str, str]]:
    """Where each name comes from, and its own dotted name, which may be a module too."""
    if isinstance(node, ast.Import):
        return [(alias.name, alias.name) for alias in node.names]
    return [(node.module or "", f"{node.module}.{alias.name}") for alias in node.names]


def import_nodes(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """All imports of a file that are executed, those inside of functions included."""
    if isinstance(tree, ast.If) and isinstance(tree.test, ast.Name) and tree.test.id == "TYPE_CHECKING":
        for statement in tree.orelse:
            yield from import_nodes(statement)
        return
    if isinstance(tree, ast.Import | ast.ImportFrom):
        yield tree
    for child in ast.iter_child_nodes(tree):
        yield from import_nodes(child)


def imports(path: Path) -> set[str]:
    """Dotted names of everything a file imports."""
    return {name for node in import_nodes(parsed(path)) for names in modules_from(node) for name in names}


def test_torch_distributed_has_one_importer():
    users = [path.relative_to(PACKAGE).as_posix() for path in SOURCES if "torch.distributed" in imports(path)]
    assert {user.split("/")[0] for user in users} == {"distributed"}


@pytest.mark.parametrize("path", PLUGIN_SOURCES, ids=lambda path: path.parent.name)
def test_plugins_import_the_public_surface_alone(path):
    ours = {name for name in imports(path) if name.split(".")[0] == "metriclab"}
    assert all(name.startswith(("metriclab.api", "metriclab.testing")) for name in ours), ours


def test_no_file_imports_itself_by_a_detour():
    """The import linter sees rooms; this sees files, and imports inside of functions."""
    trees = {".".join(path.relative_to(ROOT).with_suffix("").parts): parsed(path) for path in SOURCES}
    trees = {name.removesuffix(".__init__"): tree for name, tree in trees.items()}
    needs = {
        name: {
            own if own in trees else origin
            for node in import_nodes(tree)
            for origin, own in modules_from(node)
            if own in trees or origin in trees
        }
        for name, tree in trees.items()
    }
    try:
        TopologicalSorter(needs).prepare()
    except CycleError as error:
        pytest.fail("files that import each other in a circle: " + " <- ".join(error.args[1]))


def test_no_file_is_long():
    lengths = {path.relative_to(ROOT).as_posix(): len(path.read_text("utf-8").splitlines()) for path in SOURCES}
    assert {path: length for path, length in lengths.items() if length > LONGEST_FILE} == {}


def identifiers(path: Path) -> Iterator[tuple[str, int]]:
    with path.open("rb") as file:
        for token in tokenize.tokenize(file.readline):
            if token.type == tokenize.NAME:
                yield token.string, token.start[0]


def test_things_are_called_by_the_terms_of_the_field():
    hits = [
        f"{path.relative_to(ROOT)}:{line}: {name}"
        for path in (*SOURCES, *PLUGIN_SOURCES)
        for name, line in identifiers(path)
        if name in BANNED_NAMES
    ]
    hits += [
        f"{path.relative_to(ROOT)}:{number}: {match[0]}"
        for path in (*SOURCES, *PLUGIN_SOURCES, *PAGES)
        if path.name != "renamed.py"  # which says what old run folders call things
        for number, line in enumerate(path.read_text("utf-8").splitlines(), 1)
        for match in BANNED_PHRASES.finditer(line)
    ]
    assert not hits, "\n".join(sorted(set(hits)))


@pytest.mark.parametrize("name", ONE_MEANING)
def test_a_name_means_one_thing(name):
    definers = [
        path.relative_to(ROOT).as_posix()
        for path in SOURCES
        if "cli" not in path.parts
        for node in parsed(path).body
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and node.name == name
    ]
    assert len(definers) <= 1, definers


def named_paths(page: Path) -> set[str]:
    """What a page names as a file or folder of this repository, by a link or as code."""
    text = re.sub(r"```.*?```", "", page.read_text("utf-8"), flags=re.DOTALL)
    links = {target.partition("#")[0] for target in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in target}
    code = re.findall(r"`([^`\s]+)`", text)
    code = [name for name in code if not name.endswith("binomial_deviance.py")]  # the worked example
    return (links | {name for name in code if "/" in name or re.search(r"\.(py|md|toml|yaml|cff)$", name)}) - {""}


@pytest.mark.parametrize("page", ["ARCHITECTURE.md", "CONTRIBUTING.md", "metriclab/core/README.md"])
def test_every_path_that_a_page_names_exists(page):
    path = ROOT / page
    missing = {
        name
        for name in named_paths(path)
        if not any(list(folder.glob(name)) for folder in (ROOT, PACKAGE, path.parent))
    }
    assert not missing


def test_the_whole_flow_is_read_in_a_quarter_of_an_hour():
    page = ROOT / "ARCHITECTURE.md"
    reading = page.read_text("utf-8").partition("## The files to read")[2]
    files = [PACKAGE / name for name in re.findall(r"^\d+\. `([\w/]+\.py)`", reading, re.MULTILINE)]
    assert len(files) >= 7
    lines = {path.name: len(path.read_text("utf-8").splitlines()) for path in (page, *files)}
    assert sum(lines.values()) < LONGEST_READING, lines
