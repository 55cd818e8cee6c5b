"""`[[loss]]`: what a list of losses gives once it is checked, and what can only be told when it is built."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metriclab.recipe import Recipe, RecipeProblems, read_recipe

SEVERAL = """extends = "{base}"

[[loss]]
name = "nt-xent"
dims = [2, 4]

[[loss]]
name = "nt-xent"
as = "images"
weight = 0.5
labels = "item"

[[loss]]
name = "pml"
loss = "CosFaceLoss"
miner = "MultiSimilarityMiner"
dims = [3]

[[loss]]
name = "pull"
miner = {{ name = "sieve", margin = 0.1 }}
"""


def several(base: Path, folder: Path, *overrides: str) -> Recipe:
    path = folder / "several.toml"
    path.write_text(SEVERAL.format(base=base))
    return read_recipe(path, ["views.name=plain", "views.count=2", *overrides])


def test_each_table_is_a_part_or_as_many_as_it_has_dims(base: Path, tmp_path: Path) -> None:
    recipe = several(base, tmp_path)
    assert "loss" not in recipe.components
    criterion = recipe.losses.build(6, torch.arange(3))
    assert criterion.names == ("nt-xent-2", "nt-xent-4", "images", "pml-3", "pull")
    parts = dict(zip(criterion.names, criterion.parts, strict=True))
    assert [(part.weight, part.dims, part.labels) for part in criterion.parts] == [
        (1.0, 2, "method"),
        (1.0, 4, "method"),
        (0.5, None, "item"),
        (1.0, 3, "method"),
        (1.0, None, "method"),
    ]
    assert parts["nt-xent-2"].loss is not parts["nt-xent-4"].loss
    assert parts["pull"].miner is not None
    assert parts["pml-3"].loss.loss.W.shape == (3, 3)  # dimensions and classes
    assert type(parts["pml-3"].loss.miner).__name__ == "MultiSimilarityMiner"


def test_the_whole_recipe_is_written_and_read_again(base: Path, tmp_path: Path) -> None:
    recipe = several(base, tmp_path)
    again = tmp_path / "again.toml"
    again.write_text(recipe.to_toml())
    assert read_recipe(again) == recipe
    assert (
        '[[loss]]\nname = "nt-xent"\nweight = 0.5\nlabels = "item"\nagainst = "method"\nas = "images"'
        in again.read_text()
    )


def test_options_reach_into_the_list(base: Path, tmp_path: Path) -> None:
    recipe = several(base, tmp_path, "loss.1.weight=2", "loss.0.dims=5", "loss.0.temperature=0.5")
    criterion = recipe.losses.build(6, torch.arange(3))
    assert criterion.names[:2] == ("nt-xent", "images")
    assert criterion.parts[0].dims == 5
    assert criterion.parts[0].loss.temperature == 0.5
    assert criterion.parts[1].weight == 2.0


def test_every_component_is_named(base: Path, tmp_path: Path) -> None:
    names = [spec.name for spec in several(base, tmp_path).specs()]
    assert {"nt-xent", "pml", "pull", "sieve", "twig", "nearest"} <= set(names)


def test_dims_above_those_of_an_embedding_that_is_known_late_are_told_there(base, tmp_path) -> None:
    with pytest.raises(RecipeProblems) as caught:
        several(base, tmp_path).losses.build(3, torch.arange(3))
    assert str(caught.value) == (
        f"{tmp_path / 'several.toml'}:5:8: dims = 4 is above the 3 dimensions of the embedding\n"
        "     5 | dims = [2, 4]\n"
        "       |        ^ help: lower it, or widen the head"
    )


def test_a_miner_for_a_loss_of_which_only_the_built_one_shows_that_it_takes_none(base, tmp_path) -> None:
    recipe = several(base, tmp_path, "loss.3.name=wholesale", "loss.3.miner.name=sieve")
    with pytest.raises(RecipeProblems, match="the loss Whole takes no miner: it is no loss over pairs"):
        recipe.losses.build(6, torch.arange(3))
