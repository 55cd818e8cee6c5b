"""One-file plugins, and components that running code registers."""

import sys

import pytest

from metriclab.errors import PluginError, RecipeError
from metriclab.registry import entries, load_component, load_plugin_file, register

SOURCE = """
from __future__ import annotations
from dataclasses import dataclass
from metriclab.registry import register

@register("loss", "{name}")
@dataclass(kw_only=True)
class Mine:
    '''Mine.'''
    strength: {type} = 1.0
"""


def write(path, name="mine", type="float", tail=""):
    path.write_text(SOURCE.format(name=name, type=type) + tail)
    return path


def refusal(path):
    with pytest.raises(PluginError) as caught:
        load_plugin_file(path)
    return str(caught.value)


def test_its_components_can_be_named(tmp_path):
    load_plugin_file(write(tmp_path / "my_loss.py"))
    [entry] = [entry for entry in entries("loss") if entry.name == "mine"]
    assert entry.source == "my_loss.py file"
    definition = load_component("loss", "mine")
    assert definition.build(strength=2).strength == 2.0
    assert load_component("loss", "my_loss.py:mine") is definition


def test_loading_it_again_replaces_it(tmp_path):
    path = write(tmp_path / "my_loss.py")
    load_plugin_file(path)
    load_plugin_file(write(path, name="renamed"))
    assert [entry.name for entry in entries("loss") if entry.package == "my_loss.py"] == ["renamed"]


def test_two_files_with_one_name(tmp_path):
    load_plugin_file(write(tmp_path / "a.py"))
    load_plugin_file(write(tmp_path / "b.py"))
    with pytest.raises(PluginError) as caught:
        load_component("loss", "mine")
    assert str(caught.value) == (
        "loss 'mine' is ambiguous: a.py file and b.py file bring one each\n"
        '  help: say which: name = "a.py:mine" or name = "b.py:mine"'
    )


def test_a_file_that_fails_leaves_nothing_behind(tmp_path):
    path = write(tmp_path / "half.py", tail="\n1 / 0\n")
    assert refusal(path) == f"plugin file {path} cannot be imported: ZeroDivisionError: division by zero"
    assert not any(entry.package == "half.py" for entry in entries())
    assert not any(module.startswith("metriclab_plugin_half") for module in sys.modules)


def test_a_bad_signature_is_refused_by_file(tmp_path):
    text = refusal(write(tmp_path / "bad.py", type="object"))
    assert text.startswith("loss 'mine' of bad.py file (metriclab_plugin_bad_")
    assert "is refused: parameter 'strength' is annotated with <class 'object'>, which no recipe can hold" in text


def test_a_built_in_component_cannot_be_replaced(tmp_path):
    text = refusal(write(tmp_path / "bad.py", name="nt-xent"))
    assert text.startswith("loss 'nt-xent' of bad.py file is refused: a built-in component has that name")


def test_one_name_for_two_objects_of_a_file(tmp_path):
    tail = SOURCE.format(name="mine", type="float").replace("class Mine", "class Other").replace("from __future__", "#")
    assert "loss 'mine' of twice.py is registered twice: as " in refusal(write(tmp_path / "twice.py", tail=tail))


def test_a_file_that_registers_nothing(tmp_path):
    path = tmp_path / "empty.py"
    path.write_text("")
    assert refusal(path) == (
        f"plugin file {path} registers no component\n"
        '  help: put @register("loss", "my-name"), from metriclab.api, before a class or function'
    )


@pytest.mark.parametrize("name", ["missing.py", "folder", "notes.txt"])
def test_what_is_no_plugin_file(tmp_path, name):
    (tmp_path / "folder").mkdir()
    (tmp_path / "notes.txt").touch()
    with pytest.raises(RecipeError, match=rf"{name} is no plugin file\n  help: --plugin takes a Python file"):
        load_plugin_file(tmp_path / name)


@pytest.mark.parametrize(
    ("kind", "name", "reason"),
    [("los", "x", "there is no kind 'los'"), ("loss", "Bad_Name", "names are made of a-z, 0-9 and - only")],
)
def test_the_decorator_refuses_odd_names(kind, name, reason):
    with pytest.raises(PluginError, match=reason):
        register(kind, name)(lambda: None)


def test_running_code_may_define_a_component_anew():
    def define(default):
        @register("loss", "cell")
        def cell(*, t: float = default) -> None: ...

    define(1.0)
    define(2.0)
    assert load_component("loss", "cell").parameters[0].default == 2.0
