"""What only the data or the built network shows not to fit is told before the first step, at its place."""

from __future__ import annotations

import pytest
import torch

from metriclab.assembly.assemble import build_method
from metriclab.assembly.rehearsal import rehearse
from metriclab.errors import RecipeError
from metriclab.recipe import Recipe, read_recipe
from tests.support.tiny import TINY

LOSSES = """
[[loss]]
name = "supcon"

[[loss]]
name = "nt-xent"
labels = "item"
"""
PREFIXES = """
[[evaluate]]
name = "prefixes"
dims = [4, 40]
"""
NONE = torch.empty(0, dtype=torch.int64)


def recipe(folder, losses: str = LOSSES, *overrides: str, besides: str = "") -> Recipe:
    path = folder / "recipe.toml"
    path.write_text(TINY.replace('[loss]\nname = "nt-xent"\n', losses) + besides)
    supervised = [] if any(one.startswith("method.name") for one in overrides) else ["method.name=supervised"]
    return read_recipe(path, [*supervised, *overrides])


def test_a_loss_over_classes_without_labels_is_told_at_its_name(tmp_path):
    with pytest.raises(RecipeError) as caught:
        build_method(recipe(tmp_path), NONE)
    assert str(caught.value) == (
        f"{tmp_path / 'recipe.toml'}:25:8: loss 'supcon' tells classes apart, and the training split has no labels\n"
        '    25 | name = "supcon"\n'
        '       |        ^ help: remove it, or set labels = "item" to tell images apart'
    )


def test_images_need_no_labels(tmp_path):
    build_method(recipe(tmp_path, LOSSES, "loss.0.labels=item"), NONE)
    build_method(recipe(tmp_path, LOSSES, "method.name=simclr"), NONE)


@pytest.mark.parametrize(
    "method", [["method.name=supervised"], ["method.name=xbm", "memory.name=ring", "memory.size=8"]]
)
def test_nor_does_one_loss_go_without(tmp_path, method):
    with pytest.raises(RecipeError) as caught:
        build_method(recipe(tmp_path, '[loss]\nname = "supcon"\n', *method), NONE)
    name = method[0].partition("=")[2]
    assert caught.value.message == f"method '{name}' tells classes apart, and the training split has no labels"
    assert caught.value.help == "choose data with labels, or a method such as simclr"


@pytest.mark.parametrize(
    ("output", "width", "given"),
    [
        ("h", 96, ["train.output=h"]),
        ("z", 192, ["train.output=z", "encoder.name=pixels", "encoder.size=8", "head.name=none"]),
    ],
)
def test_prefixes_longer_than_what_is_measured_are_told(tmp_path, output, width, given):
    dims, file = PREFIXES.replace("40", str(width + 1)), tmp_path / "recipe.toml"
    texts = [str(error) for error in rehearse(recipe(tmp_path, LOSSES, *given, besides=dims)).problems]
    assert texts == [
        f"{file}:56:8: dims = {width + 1} is above the {width} dimensions of the embedding {output}\n"
        f"    56 | dims = [4, {width + 1}]\n"
        "       |        ^ help: lower it, or widen the head"
    ]
