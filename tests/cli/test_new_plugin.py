"""`metriclab new-plugin`: packages that work as they are written, and nothing overwritten."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.cli.new_plugin.package import CREATED, plan, write
from metriclab.errors import RecipeError
from metriclab.recipe import read_recipe
from metriclab.registry import entries, entry, load_component
from metriclab.registry.api_version import API_VERSION
from metriclab.registry.registry import definitions

ROOT = Path(__file__).parents[2]
RUN_EACH = """
import os, sys
from metriclab.cli import main
for folder in sys.argv[1:]:
    os.chdir(folder)
    main(["run", "recipe.toml", "--set", "train.steps=3", "--out", "runs/ci"], standalone_mode=False)
    assert os.path.exists("runs/ci/result.json")
"""
KINDS = pytest.mark.parametrize("kind", CREATED)


def command(*arguments):
    done = CliRunner().invoke(main, ["new-plugin", *map(str, arguments)])
    assert done.exception is None or isinstance(done.exception, SystemExit), done.exception
    return done


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A written package, laid out on the path as `pip install -e` would."""
    loaded, modules = dict(definitions), set(sys.modules)

    def lay_out(kind):
        folder = tmp_path / "package"
        write(plan(f"trial-{kind}", kind), folder)
        project = tomllib.loads((folder / "pyproject.toml").read_text())["project"]
        info = tmp_path / f"{project['name'].replace('-', '_')}-{project['version']}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: 0.1.0\n")
        groups = ((group, *point) for group, points in project["entry-points"].items() for point in points.items())
        (info / "entry_points.txt").write_text("".join(f"[{group}]\n{name} = {at}\n" for group, name, at in groups))
        monkeypatch.setattr(sys, "path", [str(folder / "src"), str(tmp_path), *sys.path])
        importlib.invalidate_caches()
        entry._installed.cache_clear()
        return folder

    yield lay_out
    entry._installed.cache_clear()
    definitions.clear()
    definitions.update(loaded)
    for module in set(sys.modules) - modules:
        if module.startswith("metriclab_trial_"):
            del sys.modules[module]


@KINDS
def test_the_component_is_found_and_its_recipe_is_fine(kind, package):
    folder = package(kind)
    found = load_component(kind, f"trial-{kind}")
    assert found.entry.source == f"metriclab-trial-{kind} 0.1.0"
    assert found.entry.api == API_VERSION
    assert found.summary
    assert all(parameter.help and not parameter.required for parameter in found.parameters)
    recipe = read_recipe(folder / "recipe.toml")
    assert recipe.requires == (f"metriclab-trial-{kind}>=0.1",)
    chosen = [*recipe.components.values(), *recipe.evaluators]
    assert f"trial-{kind}" in {part.name for part in chosen if part.kind == kind}


@KINDS
def test_every_file_is_there_and_filled_in(kind, tmp_path):
    paths = write(plan(f"my-{kind}", kind), tmp_path / "here")
    names = {path.relative_to(tmp_path / "here").as_posix() for path in paths}
    assert names == {
        "pyproject.toml",
        "README.md",
        "LICENSE",
        ".gitignore",
        ".github/workflows/test.yml",
        "recipe.toml",
        f"src/metriclab_my_{kind}/__init__.py",
        f"src/metriclab_my_{kind}/py.typed",
        f"tests/test_my_{kind}.py",
    }
    for path in paths:
        assert "$" not in path.read_text()
    component = (tmp_path / "here" / "src" / f"metriclab_my_{kind}" / "__init__.py").read_text()
    assert f'@register("{kind}", "my-{kind}")' in component
    assert f"check_{kind}(" in (tmp_path / "here" / "tests" / f"test_my_{kind}.py").read_text()


def test_the_folder_is_that_of_the_package_or_the_one_asked_for(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = command("metriclab-oval", "--kind", "loss")
    assert done.exit_code == 0
    assert done.stdout == (
        "metriclab-oval: the loss 'oval' in src/metriclab_oval/__init__.py is an example to replace\n"
        '  pip install -e "metriclab-oval[test]"\n  pytest metriclab-oval\n  metriclab run metriclab-oval/recipe.toml\n'
    )
    assert command("oval", "--kind", "loss", "--folder", "deep/inside").exit_code == 0
    assert (tmp_path / "deep" / "inside" / "recipe.toml").is_file()


@pytest.mark.parametrize("there", ["folder", "file", "empty folder"])
def test_nothing_is_overwritten(there, tmp_path):
    folder = tmp_path / "package"
    if there == "file":
        folder.write_text("mine")
    else:
        folder.mkdir()
    if there == "folder":
        (folder / "README.md").write_text("mine")
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    done = command("oval", "--kind", "loss", "--folder", folder)
    assert done.exit_code == 5
    assert done.stderr == f"{folder} exists already\n  help: choose another folder with --folder\n"
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").touch()
    done = command("oval", "--kind", "loss", "--folder", tmp_path / "file" / "package")
    assert done.exit_code == 5
    assert done.stderr == f"{tmp_path / 'file' / 'package'} cannot be written: Not a directory\n"


@pytest.mark.parametrize(
    "name",
    ["Oval", "my_loss", "2d", "-oval", "oval-", "a--b", "", "metriclab-", "../oval", "o" * 33, "ov\u0430l"],
)
def test_names_that_cannot_be(name, tmp_path):
    with pytest.raises(RecipeError, match="cannot name a component\n  help: use a-z, 0-9 and single - between them"):
        plan(name, "loss")
    done = command("--kind", "loss", "--folder", tmp_path / "x", "--", name)
    assert done.exit_code == 2
    assert not any(tmp_path.iterdir())


def test_a_name_that_is_taken():
    with pytest.raises(RecipeError) as caught:
        plan("nt-xent", "loss")
    assert str(caught.value) == (
        "loss 'nt-xent' is there already, from metriclab-toolkit 0.1.0\n  help: choose another name"
    )
    assert plan("nt-xent", "method").package == "metriclab-nt-xent"


def test_a_kind_without_templates():
    done = command("oval", "--kind", "tracker")
    assert done.exit_code == 2
    assert "'tracker' is not one of 'loss', 'method', 'dataset', 'evaluator'" in done.stderr


@pytest.mark.slow
def test_packages_install_and_pass_their_own_tests(tmp_path):
    """In an environment of its own, which sees this one: pip, pytest and ruff are those of the author."""
    venv.create(tmp_path / "venv", symlinks=True, with_pip=False)
    python = tmp_path / "venv" / "bin" / "python"
    (site,) = (tmp_path / "venv").glob("lib/python3*/site-packages")
    above = [path for path in sys.path if path.endswith("-packages")]
    (site / "above.pth").write_text("".join(f"import site; site.addsitedir({path!r})\n" for path in above))

    def call(*words, folder=tmp_path):
        done = subprocess.run([python, *map(str, words)], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, f"{words}\n{done.stdout}\n{done.stderr}"
        return done.stdout

    def ruff(*words):  # it finds its program beside the interpreter it was installed for
        subprocess.run([sys.executable, "-m", "ruff", *words, "--no-cache"], check=True)

    folders = []
    for kind in CREATED:
        for name in (f"x{kind}", f"with-the-longest-name-{kind}"):  # the formatter must have nothing to say of either
            folder = tmp_path / name
            write(plan(name, kind), folder)
            ruff("check", folder)
            ruff("format", "--check", folder)
        folders.append(folder)
    editable = [word for folder in folders for word in ("-e", folder)]
    call("-m", "pip", "install", "--no-deps", "--no-build-isolation", *editable)
    # Those of all four in one process, whose ranks they share.
    call("-m", "pytest", "-W", "error", "-p", "no:cacheprovider", *(folder / "tests" for folder in folders))
    listed = call("-m", "metriclab.cli", "list")
    for folder in folders:
        assert f"  {folder.name}  " in listed
    call("-c", RUN_EACH, *folders)
    assert not {folder.name for folder in folders} & {found.name for found in entries()}
