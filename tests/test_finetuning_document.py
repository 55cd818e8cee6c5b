"""docs/fine-tuning.md is true: its commands exist, and each of its recipes trains, with a tiny encoder in place of one
that would have to be fetched; so do the recipes that it names."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.recipe import read_recipe
from metriclab.runs.folder import RunFolder
from tests.support.pictures import classes, fill
from tests.support.tiny import run

ROOT = Path(__file__).parent.parent
TEXT = (ROOT / "docs" / "fine-tuning.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
RECIPES = [text for language, text in BLOCKS if language == "toml"]
SMALL = ["encoder.model=test_resnet", "encoder.pretrained=false", "views.size=16", "train.epochs=1"]


def small(path: Path, root: Path, *more: str):
    """The recipe of a file on this folder, with a tiny encoder and for one epoch."""
    return read_recipe(path, [*SMALL, *more, f"data.root={root}"])


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    return classes(tmp_path_factory.mktemp("photos"), **{f"c{number:02}": 6 for number in range(32)})


def test_the_blocks_are_those_that_are_tested():
    assert len(RECIPES) == 5
    assert {language for language, _ in BLOCKS} == {"sh", "toml"}


def test_every_command_and_option_exists():
    lines = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]
    commands = [line.partition("#")[0].split() for line in lines]
    for words in commands:
        told = CliRunner().invoke(main, [words[1], "--help"])
        assert told.exit_code == 0
        assert all(word in told.output for word in words if word.startswith("-"))


@pytest.mark.parametrize("number", [0, *(pytest.param(at, marks=pytest.mark.slow) for at in range(1, len(RECIPES)))])
def test_a_recipe_of_the_page_trains(number, photos, tmp_path):
    shutil.copy(ROOT / "recipes" / "finetune.toml", tmp_path)
    (tmp_path / "recipe.toml").write_text(RECIPES[number])
    run(small(tmp_path / "recipe.toml", photos), tmp_path / "run")
    assert RunFolder(tmp_path / "run").result()["steps"] > 0


def test_the_recipe_without_labels_trains(tmp_path):
    fill(tmp_path / "photos", 40)
    run(small(ROOT / "recipes" / "finetune-ssl.toml", tmp_path / "photos", "sampler.batch_size=8"), tmp_path / "run")
    assert RunFolder(tmp_path / "run").result()["steps"] > 0


@pytest.mark.slow
def test_it_names_the_columns_that_a_run_has(photos, tmp_path):
    run(small(ROOT / "recipes" / "finetune.toml", photos), tmp_path / "first")
    run(small(ROOT / "recipes" / "finetune.toml", photos, f"encoder.weights={tmp_path / 'first'}"), tmp_path / "run")
    result = RunFolder(tmp_path / "run").result()
    assert {"frozen", "frozen_pca", "frozen_whitened"} < set(result["baselines"])
    assert all(f"| {name} |" in TEXT for name in ("frozen encoder", "frozen, PCA", "frozen, whitened"))
