"""Switching plugins off, versions of the API, slow imports, and what a recipe requires."""

from __future__ import annotations

import json
import logging

import pytest
from click.testing import CliRunner

from metriclab.api import API_VERSION
from metriclab.cli import main
from metriclab.errors import PluginError, RecipeError
from metriclab.recipe import read_recipe
from metriclab.registry import UnknownName, api_version, entries, load_component, load_plugin_file, registry
from metriclab.registry.entry import NO_PLUGINS, is_builtin
from metriclab.registry.registry import candidates
from tests.support.tiny import TINY

POINTS = "[metriclab.loss]\nellipse = my_ellipse:ellipse\n"
ELLIPSE = '''
from metriclab.api import build

def ellipse(*, temperature: float = 0.1):
    """NT-Xent by another name."""
    return build("loss", "nt-xent", temperature=temperature)
'''


def refusal(kind, name):
    with pytest.raises(PluginError) as caught:
        load_component(kind, name)
    return str(caught.value)


def command(*arguments):
    done = CliRunner().invoke(main, [str(argument) for argument in arguments])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture
def recipe(tmp_path):
    def write(requires=None, loss="ellipse"):
        path = tmp_path / "recipe.toml"
        head = "" if requires is None else f"requires = {requires}\n"
        path.write_text(head + TINY.replace("nt-xent", loss))
        return path

    return write


def test_without_plugins_only_built_in_components_exist(install, tmp_path, monkeypatch):
    install("my-ellipse", POINTS, my_ellipse=ELLIPSE)
    plugin = tmp_path / "mine.py"
    plugin.write_text("from metriclab.api import register\n@register('loss', 'oval')\ndef oval(): 'Oval.'\n")
    load_plugin_file(plugin)
    assert {"ellipse", "oval", "nt-xent"} <= {entry.name for entry in entries("loss")}
    monkeypatch.setenv(NO_PLUGINS, "1")
    assert all(map(is_builtin, entries()))
    assert all(map(is_builtin, candidates()))
    assert load_component("loss", "nt-xent")
    for name, source in (("ellipse", "my-ellipse 1.0"), ("my-ellipse:ellipse", "my-ellipse 1.0"), ("oval", "mine.py")):
        with pytest.raises(UnknownName) as caught:
            load_component("loss", name)
        assert str(caught.value).startswith(
            f"there is no loss '{name}' while plugins are switched off\n  help: it is of"
        )
        assert source in str(caught.value)
    with pytest.raises(UnknownName, match="switched off\n  help: did you mean 'nt-xent'"):
        load_component("loss", "nt-xnt")
    with pytest.raises(RecipeError, match="is not imported: plugins are switched off\n  help: leave out --no-plugins"):
        load_plugin_file(plugin)
    monkeypatch.setenv(NO_PLUGINS, "0")
    assert load_component("loss", "ellipse")


def test_no_plugins_of_the_command_line_ends_with_the_command(install, recipe, monkeypatch):
    monkeypatch.delenv(NO_PLUGINS, raising=False)
    install("my-ellipse", POINTS, my_ellipse=ELLIPSE)
    assert command("check", recipe()).exit_code == 0
    done = command("--no-plugins", "check", recipe())
    assert done.exit_code == 2
    assert "there is no loss 'ellipse' while plugins are switched off" in done.stderr
    assert 'name = "ellipse"\n       |        ^ help: it is of my-ellipse 1.0: leave out --no-plugins' in done.stderr
    assert command("check", recipe()).exit_code == 0
    assert "ellipse" not in command("--no-plugins", "list", "loss").stdout
    monkeypatch.setenv(NO_PLUGINS, "1")
    assert "ellipse" not in command("--no-plugins", "list", "loss").stdout
    assert "ellipse" not in command("list", "loss").stdout


def test_the_manifest_of_a_run_has_the_versions_of_its_plugins(install, recipe, tmp_path):
    install("my-ellipse", POINTS, "2.3", my_ellipse=ELLIPSE)
    install("idle", "[metriclab.loss]\nidle = idle_module:x\n", "9.9")
    path = recipe('["my-ellipse>=2,<3"]')
    done = command("run", path, "--set", "train.steps=1", "--out", tmp_path / "run", "-q")
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "run" / "manifest.json").read_text())
    assert manifest["plugins"] == {"metriclab-toolkit": "0.1.0", "my-ellipse": "2.3"}
    stored = tmp_path / "run" / "recipe.toml"
    assert stored.read_text().startswith('requires = ["my-ellipse>=2,<3"]\n')
    assert read_recipe(stored) == read_recipe(path, ["train.steps=1"])


def test_a_plugin_says_which_api_it_is_written_for(install):
    install("my-ellipse", f"{POINTS}[metriclab.api]\n{API_VERSION} = my_ellipse\n", my_ellipse=ELLIPSE)
    assert load_component("loss", "ellipse").entry.api == API_VERSION
    assert "api" not in {entry.kind for entry in candidates()}


def test_a_plugin_that_does_not_say_which_api_it_is_written_for_is_tried(install):
    install("my-ellipse", POINTS, my_ellipse=ELLIPSE)
    assert load_component("loss", "ellipse").entry.api is None


@pytest.mark.parametrize(
    ("line", "what"),
    [
        ("from metriclab.api import compare", "ImportError: cannot import name 'compare' from 'metriclab.api'"),
        ("import metriclab.run", "ModuleNotFoundError: No module named 'metriclab.run'"),
    ],
)
def test_an_import_of_what_an_older_api_had_says_what_changed(install, tmp_path, line, what):
    install("my-ellipse", POINTS, my_ellipse=line)
    text = refusal("loss", "ellipse")
    assert text.startswith(f"loss 'ellipse' of my-ellipse 1.0 (my_ellipse:ellipse) cannot be imported: {what}")
    changed = f"this metriclab has version {API_VERSION} of metriclab.api, which changed since version 1: version 2: "
    assert f"\n  help: {changed}compare is all_pairs, " in text
    plugin = tmp_path / "mine.py"
    plugin.write_text(line)
    with pytest.raises(PluginError, match=f"help: {changed}"):
        load_plugin_file(plugin)


def test_an_import_of_something_else_is_no_matter_of_the_api(install):
    install("my-ellipse", POINTS, my_ellipse="import no_such_module")
    assert "help" not in refusal("loss", "ellipse")


def test_a_plugin_of_an_older_api_is_refused_with_what_changed(install, monkeypatch):
    install("my-ellipse", f"{POINTS}[metriclab.api]\n1 = my_ellipse\n", my_ellipse="1 / 0")
    monkeypatch.setattr(api_version, "API_VERSION", 3)
    changes = {2: "a loss takes its rows by position", 3: "Score has a unit"}
    monkeypatch.setattr(api_version, "API_CHANGES", changes)
    assert refusal("loss", "ellipse") == (
        "loss 'ellipse' of my-ellipse 1.0 is refused: it is written for version 1 of metriclab.api, and this metriclab "
        "has version 3, which changed this: version 2: a loss takes its rows by position; version 3: Score has a unit\n"
        "  help: its author must mend that; meanwhile do without it, or uninstall my-ellipse"
    )
    assert "my-ellipse" not in {entry.package for entry in entries()}
    assert load_component("loss", "nt-xent")


def test_a_plugin_of_a_newer_api_is_refused(install):
    install("my-ellipse", f"{POINTS}[metriclab.api]\n{API_VERSION + 1} = my_ellipse\n", my_ellipse="1 / 0")
    assert refusal("loss", "ellipse") == (
        f"loss 'ellipse' of my-ellipse 1.0 is refused: it is written for version {API_VERSION + 1} of metriclab.api, "
        f"and this metriclab has version {API_VERSION}\n  help: upgrade metriclab-toolkit"
    )


@pytest.mark.parametrize("declared", ["one = m", "0 = m", "1 = m\n2 = m", "1.5 = m", f"{'9' * 10} = m"])
def test_an_api_version_that_cannot_be_read(install, declared):
    install("my-ellipse", f"{POINTS}[metriclab.api]\n{declared}\n", my_ellipse=ELLIPSE)
    [entry] = [entry for entry in candidates() if entry.package == "my-ellipse"]
    assert entry.target.startswith("[metriclab.api] holds one version, such as 2, not ")
    assert "ellipse" not in {entry.name for entry in entries("loss")}


def test_every_change_of_the_api_is_told():
    assert sorted(api_version.API_CHANGES) == list(range(2, API_VERSION + 1))


def test_a_plugin_that_is_slow_to_import_is_named(install, tmp_path, monkeypatch, caplog):
    times = iter([0.0, 7.4, 10.0, 10.0 + registry.SLOW_SECONDS, 20.0, 26.0])
    monkeypatch.setattr(registry, "monotonic", lambda: next(times))
    install("heavy", "[metriclab.loss]\nheavy = heavy_module:ellipse\n", heavy_module=ELLIPSE)
    install("my-ellipse", POINTS, my_ellipse=ELLIPSE)
    plugin = tmp_path / "mine.py"
    plugin.write_text("from metriclab.api import register\n@register('loss', 'oval')\ndef oval(): 'Oval.'\n")
    with caplog.at_level(logging.WARNING, "metriclab"):
        load_component("loss", "heavy")
        load_component("loss", "ellipse")
        load_plugin_file(plugin)
    slow_one, slow_file = caplog.messages
    assert slow_one.startswith("loss 'heavy' of heavy 1.0 took 7 s to import: its author may import what is heavy")
    assert slow_file.startswith(f"plugin file {plugin} took 6 s to import")


def problems(path, *options):
    with pytest.raises(RecipeError) as caught:
        read_recipe(path, options)
    return str(caught.value)


@pytest.mark.parametrize(
    ("asked", "message", "install_line"),
    [
        ("absent-one>=0.1", "this recipe requires absent-one>=0.1, which is not installed", "absent-one>=0.1"),
        ("absent-one", "this recipe requires absent-one, which is not installed", "absent-one"),
        ("My_Ellipse >= 3", "this recipe requires My_Ellipse>=3, and My_Ellipse 2.3 is installed", "My_Ellipse>=3"),
        ("my-ellipse==1.*", "this recipe requires my-ellipse==1.*, and my-ellipse 2.3 is installed", "my-ellipse==1.*"),
        ("damaged>=1", "this recipe requires damaged>=1, and damaged not-a-version is installed", "damaged>=1"),
    ],
)
def test_a_package_that_is_required_and_not_there(install, recipe, asked, message, install_line):
    install("my-ellipse", POINTS, "2.3", my_ellipse=ELLIPSE)
    install("damaged", "[console_scripts]\n", "not-a-version")
    path = recipe(f'["packaging", "{asked}"]')
    assert problems(path) == (
        f'{path}:1:26: {message}\n     1 | requires = ["packaging", "{asked}"]\n'
        f'       |                          ^ help: pip install "{install_line}"'
    )


def test_what_is_required_is_told_with_everything_else(recipe):
    text = problems(recipe('["absent-one"]', loss="no-such-loss"), "train.stepps=3")
    assert "requires absent-one" in text
    assert "no loss 'no-such-loss'" in text
    assert "stepps" in text


@pytest.mark.parametrize(
    ("stated", "message"),
    [
        ('"packaging"', "'requires' is \"packaging\", not a list"),
        ("{ packaging = 1 }", "'requires' is { packaging = 1 }, not a list"),
        ("[3]", "3 is no requirement"),
        ('["packaging >> 3"]', '"packaging >> 3" is no requirement'),
        ('["../packaging"]', '"../packaging" is no requirement'),
        ('["os; import os"]', '"os; import os" is no requirement'),
        ('["packaging @ file:///etc/passwd"]', "asks for more than a package and its versions"),
        ('["packaging[all]"]', "asks for more than a package and its versions"),
        ("['packaging; python_version > \"3\"']", "asks for more than a package and its versions"),
        (f'["{"a" * 300}"]', "is no requirement"),
    ],
)
def test_what_is_no_requirement(recipe, stated, message):
    text = problems(recipe(stated, loss="nt-xent"))
    assert message in text
    assert 'help: name a package and, where it matters, its versions: requires = ["metriclab-circle>=0.1"]' in text


def test_requirements_go_through_options_and_bases(install, recipe, tmp_path):
    install("my-ellipse", POINTS, "2.3", my_ellipse=ELLIPSE)
    base = recipe('["my-ellipse>=2"]')
    (tmp_path / "child.toml").write_text('extends = "recipe.toml"\n')
    assert read_recipe(tmp_path / "child.toml").requires == ("my-ellipse>=2",)
    assert read_recipe(base, ['requires=["packaging"]']).requires == ("packaging",)
    assert "requires absent-one" in problems(base, 'requires=["absent-one"]')
