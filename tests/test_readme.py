"""What the README shows is true: its commands exist, its recipe checks, its loss trains."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from click.testing import CliRunner
from PIL import Image

from metriclab.api import build
from metriclab.cli import main
from metriclab.comparison.suite import read_suite
from metriclab.recipe import read_recipe
from metriclab.registry import entries, load_plugin_file
from metriclab.registry.entry import is_builtin
from metriclab.testing import check_loss
from tests.support.tiny import TINY, run

ROOT = Path(__file__).parent.parent
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)


def blocks(language: str) -> list[str]:
    return [text for name, text in BLOCKS if name == language]


def test_the_recipe_is_fine(tmp_path):
    whole, parts = blocks("toml")
    (tmp_path / "recipe.toml").write_text(whole)
    assert read_recipe(tmp_path / "recipe.toml").components["loss"].params == {
        "temperature": 0.1,
        "learnable_temperature": False,
    }
    rest = [table for table in whole.split("\n\n") if not table.startswith(("[loss]", "[method]"))]
    (tmp_path / "other.toml").write_text("\n\n".join([*rest, parts]))
    assert read_recipe(tmp_path / "other.toml").components["memory"].params["size"] == 4096


def test_the_components_it_lists_are_all_there():
    text = (ROOT / "README.md").read_text()
    for plural, kind in (("losses", "loss"), ("miners", "miner"), ("memories", "memory"), ("methods", "method")):
        (line,) = re.findall(rf"^\| {plural} \| (.*) \|$", text, re.MULTILINE)
        for entry in entries(kind):
            assert not is_builtin(entry) or re.search(rf"(?<![\w-]){entry.name}(?![\w-])", line), entry


def test_the_loss_of_ones_own_trains(tmp_path):
    (source,) = (text for text in blocks("python") if "@register" in text)
    plugin, recipe = tmp_path / "my_loss.py", tmp_path / "recipe.toml"
    plugin.write_text(source)
    recipe.write_text(TINY)
    options = ["--plugin", str(plugin), "--set", "loss.name=margin", "--out", str(tmp_path / "run"), "-q"]
    done = CliRunner().invoke(main, ["run", str(recipe), *options], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    load_plugin_file(plugin)
    check_loss(build("loss", "margin"), ranks=False)  # the file lies outside the path of other processes


def commands() -> list[list[str]]:
    lines = [line.partition("#")[0].split() for text in blocks("sh") for line in text.splitlines()]
    return [words[words.index("metriclab") + 1 :] for words in lines if "metriclab" in words]


@pytest.mark.parametrize("command", commands(), ids=" ".join)
def test_every_command_and_option_exists(command):
    told = CliRunner().invoke(main, [command[0], "--help"])
    assert told.exit_code == 0
    for option in (word for word in command if word.startswith("-")):
        assert option in told.output


@pytest.mark.parametrize("path", sorted((ROOT / "recipes").glob("*.toml")), ids=lambda path: path.name)
def test_every_recipe_is_fine(path):
    assert read_recipe(path).train


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "suites").glob("*.toml")), ids=lambda path: path.name)
def test_every_suite_is_fine(path):
    suite = read_suite(path)
    assert len(suite.seeds) >= 3
    evaluators = {chosen.label for chosen in suite.entries[0].recipe.evaluators}
    for metric in (suite.metric, *(suite.also or ())):
        assert metric.partition(".")[0].removesuffix("-h").removesuffix("-z") in evaluators


def test_the_example_in_python_runs(tmp_path, monkeypatch):
    (source,) = (text for text in blocks("python") if "load(" in text)
    (tmp_path / "tiny.toml").write_text(TINY)
    run(read_recipe(tmp_path / "tiny.toml", ["train.steps=1"]), tmp_path / "runs" / "photos")
    (tmp_path / "photos" / "cat").mkdir(parents=True)
    Image.new("RGB", (20, 12), "teal").save(tmp_path / "photos" / "cat" / "1.jpg")
    monkeypatch.chdir(tmp_path)
    names: dict = {}
    exec(source, names)
    assert names["features"].shape == (1, names["embedder"].network.encoder.out_features)


def test_the_library_is_used_as_it_says():
    (source,) = (text for text in blocks("python") if "criterion" in text)
    names: dict = {}
    exec(source, names)
    assert names["loss"].requires_grad
    assert 0 <= names["scores"]["r_at_1"].value <= 1
    assert int((names["memory"].rows().labels >= 0).sum()) == 32


def test_every_figure_of_its_tables_is_one_of_the_results():
    results = (ROOT / "benchmarks" / "RESULTS.md").read_text()
    tables = "\n".join(line for line in (ROOT / "README.md").read_text().splitlines() if line.startswith("|"))
    figures = re.findall(r"\d\.\d{4}|\d{1,3}(?:,\d{3})+", tables)
    assert len(figures) > 50
    assert [figure for figure in figures if figure not in results] == []


STARTED = [
    path
    for path in sorted([*ROOT.glob("recipes/*.toml"), *ROOT.glob("plugins/*/recipes/*.toml")])
    if re.search(r'^weights = "runs/', path.read_text("utf-8"), re.MULTILINE)
]


@pytest.mark.parametrize("path", STARTED, ids=lambda path: path.name)
def test_a_recipe_that_starts_from_a_run_says_how_to_get_one_whose_weights_fit(path):
    text = path.read_text("utf-8")
    recipe = tomllib.loads(text)
    (started,) = (
        part for part in (recipe["encoder"], recipe["method"].get("teacher", {})) if "runs/" in part.get("weights", "")
    )
    (base,) = re.findall(rf"metriclab run (\S+) --out {started['weights']}\b", text)
    assert tomllib.loads((ROOT / base).read_text("utf-8"))["encoder"]["model"] == started["model"]


def test_every_recipe_that_a_text_names_is_there():
    texts = [ROOT / "README.md", *ROOT.glob("docs/*.md"), *ROOT.glob("recipes/**/*.toml"), *ROOT.glob("benchmarks/*")]
    texts += ROOT.glob("plugins/**/recipes/*.toml")
    named = {
        name
        for path in texts
        if path.is_file()
        for name in re.findall(r"(?<![\w./-])(?:plugins/[\w-]+/)?recipes/[\w/-]+\.toml", path.read_text("utf-8"))
    }
    assert len(named) > 20
    assert [name for name in sorted(named) if not (ROOT / name).is_file()] == []
