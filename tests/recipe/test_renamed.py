"""Old keys: told in a user's recipe (see golden/), upgraded in a stored one, left alone where they are no old keys."""

from __future__ import annotations

from pathlib import Path

import pytest

from metriclab.recipe import RecipeProblems, read_recipe
from metriclab.recipe.renamed import RENAMED, upgrade
from metriclab.registry import load_component


@pytest.mark.parametrize(
    ("table", "old", "new"),
    [
        ("head", {"name": "mlp", "width": 64, "hidden": 9}, {"name": "mlp", "embedding_dim": 64, "hidden": 9}),
        ("head", {"name": "linear", "width": 64}, {"name": "linear", "embedding_dim": 64}),
        ("head", {"name": "metriclab-toolkit:mlp", "width": 1}, {"name": "metriclab-toolkit:mlp", "embedding_dim": 1}),
        ("encoder", {"name": "timm", "train": "all"}, {"name": "timm", "trainable": "all", "frozen_mode": "eval"}),
        ("encoder", {"name": "timm", "train": "none"}, {"name": "timm", "trainable": "none", "frozen_mode": "eval"}),
        ("encoder", {"name": "timm", "train": "head"}, {"name": "timm", "trainable": "none", "frozen_mode": "train"}),
    ],
)
def test_old_keys_become_todays(table: str, old: dict[str, object], new: dict[str, object]) -> None:
    assert upgrade({table: old}) == {table: new}
    assert upgrade({table: new}) == {table: new}


@pytest.mark.parametrize(
    "tables",
    [
        {"head": {"name": "mine", "width": 64}},
        {"head": {"name": "my-package:mlp", "width": 64}},
        {"head": {"name": "none"}, "encoder": {"name": "pixels", "size": 8}},
        {"encoder": {"name": ["timm"], "train": "all"}},
        {"head": "mlp", "evaluate": [{"name": "retrieval", "width": 1}], "train": {"width": 1}, "odd": {"width": 1}},
        {},
    ],
)
def test_what_is_no_old_key_stays(tables: dict[str, object]) -> None:
    assert upgrade(tables) == tables


@pytest.mark.parametrize(("kind", "name"), list(RENAMED))
def test_new_keys_are_parameters_and_old_ones_are_not(kind: str, name: str) -> None:
    parameters = {parameter.name for parameter in load_component(kind, name).parameters}
    assert parameters >= set(RENAMED[kind, name].values())
    assert not parameters & set(RENAMED[kind, name])


def test_a_third_party_s_parameter_is_not_touched(base: Path) -> None:
    assert read_recipe(base, ["encoder.width=7"]).components["encoder"].params["width"] == 7  # of the plugin's encoder
    with pytest.raises(RecipeProblems) as caught:
        read_recipe(base, ["head.width=7"])
    assert "head 'twig' has no parameter 'width'" in str(caught.value)
    assert "now" not in str(caught.value)


def test_options_are_told_too(base: Path) -> None:
    with pytest.raises(RecipeProblems) as caught:
        read_recipe(base, ["head.name=linear", "head.width=7"])
    assert str(caught.value) == (
        "--set head.width=7: head 'linear' has no parameter 'width'\n"
        "       | --set head.width=7\n"
        "       |            ^ help: it is called 'embedding_dim' now"
    )
