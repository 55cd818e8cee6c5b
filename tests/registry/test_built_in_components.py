"""metriclab's own components: entry points and code agree, and each one can be shown."""

import ast
import inspect
import tomllib
from pathlib import Path

import pytest

import metriclab
from metriclab.registry import KINDS, entries, load_component
from metriclab.registry.entry import is_builtin

ROOT = Path(metriclab.__file__).parent
BUILT_IN = [entry for entry in entries() if is_builtin(entry)]


def registered_in_code():
    """(kind, name, target) of every class and function under @register, without importing it."""
    for path in ROOT.rglob("*.py"):
        parts = path.relative_to(ROOT.parent).with_suffix("").parts
        module = ".".join(part for part in parts if part != "__init__")
        for node in ast.parse(path.read_text()).body:
            for call in getattr(node, "decorator_list", []):
                if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "register":
                    kind, name = map(ast.literal_eval, call.args)
                    yield kind, name, f"{module}:{node.name}"


def test_entry_points_and_decorators_name_the_same_objects():
    # After a change of the entry points, metriclab must be installed anew, in editable mode too.
    assert {(e.kind, e.name, e.target) for e in BUILT_IN} == set(registered_in_code())


def test_every_component_lives_in_the_package_of_its_kind():
    plurals = {"views": "views", "memory": "memories", "loss": "losses"}
    for entry in BUILT_IN:
        assert entry.module.split(".")[1] == plurals.get(entry.kind, f"{entry.kind}s"), entry


@pytest.mark.parametrize("entry", BUILT_IN, ids=str)
def test_component_loads_and_documents_itself(entry):
    definition = load_component(entry.kind, entry.name)
    assert definition.entry == entry
    assert definition.summary.endswith(".")
    undocumented = [parameter.name for parameter in definition.parameters if not parameter.help]
    assert not undocumented
    documented = inspect.cleandoc(definition.factory.__doc__).partition("Args:")[2]
    for name in (*definition.components, *(p.name for p in definition.parameters)):
        assert name in documented


@pytest.mark.parametrize("entry", BUILT_IN, ids=str)
def test_snippet_is_the_table_with_its_defaults(entry):
    definition = load_component(entry.kind, entry.name)
    document = tomllib.loads(definition.snippet())
    table = document[KINDS[entry.kind].table]
    table = table[0] if KINDS[entry.kind].many else table
    assert table.pop("name") == entry.name
    required = [parameter.name for parameter in definition.parameters if parameter.required]
    filled, problems = definition.check(table)
    assert [problem.parameter for problem in problems] == required
    if not required:
        assert filled == {parameter.name: parameter.default for parameter in definition.parameters}


def test_kinds_name_distinct_tables():
    assert len({kind.table for kind in KINDS.values()}) == len(KINDS)
