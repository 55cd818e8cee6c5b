"""`metriclab list`, `show` and `plugins`, and how every command ends."""

import json
import tomllib

import click
import pytest
from click.testing import CliRunner

from metriclab import errors
from metriclab.cli import group, main

PLUGIN = '''
from typing import Annotated, Literal
from annotated_types import Gt
from metriclab.registry import register

@register("loss", "mine")
def mine(*, t: Annotated[float, Gt(0)] = 0.1, mode: Literal["a", "b"] = "a", root: str, cap: int | None = None):
    """A loss of mine.

    Paper: Me, My Paper, 2024.

    Args:
        t: temperature.
        root: where it is.
    """
'''


def run(*arguments):
    result = CliRunner().invoke(main, arguments)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


@pytest.fixture
def plugin(tmp_path):
    path = tmp_path / "mine.py"
    path.write_text(PLUGIN)
    return str(path)


def test_help_names_every_command():
    text = run("--help").stdout
    for name, (_, line) in group.COMMANDS.items():
        assert f"{name} " in text
        assert line in text


@pytest.mark.parametrize("name", list(group.COMMANDS))
def test_every_command_has_its_help(name):
    assert run(name, "--help").stdout.startswith(f"Usage: metriclab {name}")


def test_an_unknown_command():
    result = run("rnu")
    assert result.exit_code == 2
    assert "No such command 'rnu'" in result.stderr


def test_list_of_one_kind(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)  # a pipe has no width
    lines = run("list", "sampler").stdout.splitlines()
    assert lines == [
        "sampler  [sampler]",
        "  balanced        Batches of so many classes with so many items each; an item at most once an epoch.",
        "  hard-negatives  Batches of classes that lie near each other: each that is drawn with those nearest to it.",
        "  shuffled        Every item once an epoch, in random order.",
    ]


def test_list_is_cut_to_the_terminal(monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    assert run("list", "sampler").stdout.splitlines()[1] == "  balanced        Batches of so many ..."
    assert all(len(line) <= 40 for line in run("list").stdout.splitlines())


def test_list_says_of_everything_built_in_what_it_is():
    found = json.loads(run("list", "--json").stdout)
    assert [entry["target"] for entry in found if not entry["summary"]] == []


def test_list_of_everything_names_every_kind_once():
    headers = [line.split()[0] for line in run("list").stdout.splitlines() if not line.startswith(" ")]
    assert len(headers) == len(set(headers))
    assert {"dataset", "loss", "method"} <= set(headers)


def test_list_as_json():
    found = json.loads(run("list", "method", "--json").stdout)
    assert {
        "kind": "method",
        "name": "simclr",
        "target": "metriclab.methods.simclr:SimCLR",
        "package": "metriclab-toolkit",
        "version": "0.1.0",
        "api": None,
        "summary": "Views of one image attract, views of different images repel.",
    } in found


def test_list_of_an_unknown_kind():
    result = run("list", "los")
    assert result.exit_code == 2
    assert "'los' is not one of 'dataset'" in result.stderr


def test_list_tells_apart_what_two_packages_bring(install):
    for package in ("one-ellipse", "two-ellipse"):
        install(package, "[metriclab.loss]\nellipse = nowhere:ellipse\n")
    text = run("list", "loss").stdout
    assert "  one-ellipse:ellipse  (one-ellipse 1.0)\n" in text
    assert "  two-ellipse:ellipse  (two-ellipse 1.0)\n" in text


def test_list_with_a_plugin_file(plugin):
    lines = run("list", "loss", "--plugin", plugin).stdout.splitlines()
    assert ["mine", "A", "loss", "of", "mine.", "(mine.py", "file)"] in [line.split() for line in lines]


def test_show(plugin):
    text = run("show", "loss", "mine", "--plugin", plugin).stdout
    module = text.splitlines()[1].strip()
    assert module.startswith("metriclab_plugin_mine_")
    assert text.replace(module, "MODULE") == (
        """\
loss 'mine' of mine.py file
  MODULE

A loss of mine.

Paper: Me, My Paper, 2024.

Parameters:
  t: float > 0 = 0.1
      temperature.
  mode: "a" | "b" = "a"
  root: str, required
      where it is.
  cap: int, not set by default

[loss]
name = "mine"
t = 0.1
mode = "a"
# root = ...  (required: str)
# cap = ...  (not set: int)
"""
    )


def test_show_says_what_the_run_gives_and_which_tables_are_needed():
    assert "The run gives: in_features\n" in run("show", "head", "mlp").stdout
    text = run("show", "method", "simclr").stdout
    assert "# [loss] required: see `metriclab list loss`\n" in text


def test_show_as_json(plugin):
    shown = json.loads(run("show", "loss", "mine", "--plugin", plugin, "--json").stdout)
    assert shown["package"] == "mine.py"
    assert shown["summary"] == "A loss of mine."
    assert shown["paper"] == "Me, My Paper, 2024."
    assert shown["given"] == shown["components"] == []
    assert shown["parameters"][0] == {
        "name": "t",
        "type": "float > 0",
        "required": False,
        "default": 0.1,
        "help": "temperature.",
    }
    assert [p["name"] for p in shown["parameters"] if p["required"]] == ["root"]
    assert tomllib.loads(shown["snippet"]) == {"loss": {"name": "mine", "t": 0.1, "mode": "a"}}


def test_show_of_an_unknown_name_ends_as_a_recipe_error():
    result = run("show", "loss", "nt-xnt")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert result.stderr == "there is no loss 'nt-xnt'\n  help: did you mean 'nt-xent'?\n"


def test_show_of_a_broken_plugin_ends_as_a_plugin_error(install):
    install("broken", "[metriclab.loss]\nbroken = broken_module:x\n", broken_module="1 / 0")
    result = run("show", "loss", "broken")
    assert result.exit_code == 3
    assert result.stderr == (
        "loss 'broken' of broken 1.0 (broken_module:x) cannot be imported: ZeroDivisionError: division by zero\n"
    )


def test_a_missing_plugin_file_ends_as_a_recipe_error(tmp_path):
    result = run("list", "--plugin", str(tmp_path / "none.py"))
    assert result.exit_code == 2
    assert "none.py is no plugin file" in result.stderr


def test_plugins_tells_the_whole_from_the_broken(install):
    install("broken", "[metriclab.loss]\nbroken = broken_module:x\n", "0.3", broken_module="1 / 0")
    install("usurper", "[metriclab.loss]\nnt-xent = usurper_module:x\n")
    install("fine", "[metriclab.loss]\nfine = fine_module:fine\n", fine_module="def fine(): 'Fine.'\n")
    text = run("plugins").stdout
    assert "metriclab-toolkit 0.1.0: ok\n" in text
    assert "broken 0.3: broken\n  loss broken: broken\n    loss 'broken' of broken 0.3 (broken_module:x) cannot" in text
    assert "usurper 1.0: broken\n  loss nt-xent: broken\n    loss 'nt-xent' of usurper 1.0 is refused" in text
    assert "fine 1.0: ok\n  loss fine: ok\n" in text


def test_plugins_as_json(install):
    install("broken", "[metriclab.loss]\nbroken = broken_module:x\n", "0.3", broken_module="1 / 0")
    packages = {package["package"]: package for package in json.loads(run("plugins", "--json").stdout)}
    assert packages["broken"] == {
        "package": "broken",
        "version": "0.3",
        "status": "broken",
        "components": [
            {
                "kind": "loss",
                "name": "broken",
                "target": "broken_module:x",
                "status": "broken",
                "error": "loss 'broken' of broken 0.3 (broken_module:x) cannot be imported: "
                "ZeroDivisionError: division by zero",
            }
        ],
    }
    assert packages["metriclab-toolkit"]["status"] == "ok"


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (errors.RecipeError("what", help="repair"), 2),
        (errors.PluginError("what", help="repair"), 3),
        (errors.DataError("what", help="repair"), 3),
        (errors.DivergedError("what", help="repair"), 4),
        (errors.StorageError("what", help="repair"), 5),
    ],
)
def test_expected_errors_are_shown_without_traceback(monkeypatch, error, code):
    assert ending_of(monkeypatch, error) == (code, "what\n  help: repair\n")


def test_ctrl_c_ends_with_130(monkeypatch):
    code, text = ending_of(monkeypatch, KeyboardInterrupt())
    assert (code, text.strip()) == (130, "interrupted")


def test_a_bug_keeps_its_traceback(monkeypatch):
    with pytest.raises(AssertionError, match="ZeroDivisionError"):
        ending_of(monkeypatch, ZeroDivisionError())


def ending_of(monkeypatch, error):
    @click.command()
    def fail():
        raise error

    monkeypatch.setattr(group.LazyGroup, "get_command", lambda self, ctx, name: fail)
    result = run("list")
    return result.exit_code, result.stderr
