"""Run folders whose recipe.toml was stored before keys got new names: `before_the_library` has two such recipes."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from metriclab.errors import RecipeError
from metriclab.recipe import RecipeProblems, read_recipe
from metriclab.runs.folder import RunFolder

OLD = Path(__file__).parent / "before_the_library"


@pytest.fixture(params=["simclr", "xbm"])
def folder(request: pytest.FixtureRequest, tmp_path: Path) -> RunFolder:
    shutil.copy(OLD / f"{request.param}.toml", tmp_path / "recipe.toml")
    (tmp_path / "manifest.json").write_text('{"data": {"train": ""}}')
    return RunFolder(tmp_path)


def test_the_recipe_has_todays_keys(folder: RunFolder) -> None:
    recipe = folder.recipe()
    assert recipe.components["head"].params["embedding_dim"] == 64
    assert recipe.components["encoder"].params["trainable"] == "all"
    assert recipe.components["encoder"].params["frozen_mode"] == "eval"


def test_the_run_is_continued_by_its_own_recipe_and_by_todays(folder: RunFolder, tmp_path: Path) -> None:
    before = folder.recipe_file.read_bytes()
    own = read_recipe(folder.recipe_file)
    folder.reopen(own)
    today = tmp_path / "today.toml"
    today.write_text(own.to_toml())
    folder.reopen(read_recipe(today))
    assert folder.recipe_file.read_bytes() == before
    with pytest.raises(RecipeError, match=r"differs from the one .* was started with: head.embedding_dim"):
        folder.reopen(read_recipe(today, ["head.embedding_dim=32"]))


def test_a_copy_outside_of_a_run_folder_is_a_users_recipe(tmp_path: Path) -> None:
    shutil.copy(OLD / "simclr.toml", tmp_path / "recipe.toml")
    with pytest.raises(RecipeProblems, match="it is called 'embedding_dim' now"):
        read_recipe(tmp_path / "recipe.toml")
