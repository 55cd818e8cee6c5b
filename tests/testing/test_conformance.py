"""Every registered component keeps what the kit asks: a new one is tested by being registered."""

from __future__ import annotations

import random
from itertools import combinations_with_replacement

import numpy as np
import pytest
import torch
from PIL import Image

from metriclab.losses import Composite, Part
from metriclab.registry import build, entries, load_component
from metriclab.registry.kinds import BUILTIN
from metriclab.testing import check_loss, check_miner, component_checks

REQUIRED = {"pml": {"loss": "MultiSimilarityLoss"}}
"""Parameters of losses that have no default for them."""

OTHERS = ("views", "sampler", "encoder", "head", "method", "optimizer", "schedule", "evaluator", "tracker", "dataset")
PARAMETERS = {
    ("sampler", "balanced"): {"classes_per_batch": 4, "per_class": 3},
    ("sampler", "hard-negatives"): {"classes_per_batch": 4, "per_class": 3, "every": 1},
    ("views", "torchvision"): {
        "transforms": [{"name": "RandomResizedCrop", "size": 24}, {"name": "ColorJitter", "brightness": 0.4}]
    },
    ("encoder", "timm"): {"model": "test_resnet"},
    ("evaluator", "mlp-probe"): {"rounds": 1, "hidden": 8},
    ("evaluator", "prefixes"): {"dims": [2, 4]},
    ("evaluator", "robustness"): {"severities": [5], "corruptions": ["contrast", "noise"]},
    ("evaluator", "transfer"): {"data": {"name": "synthetic", "size": 8, "classes": 3, "per_class": 4}},
    ("dataset", "class-folds"): {"data": {"name": "synthetic", "size": 8, "classes": 4, "per_class": 4}, "folds": 2},
    ("encoder", "features"): {"out_features": 3 * 32 * 32},
    ("dataset", "synthetic"): {"size": 8, "classes": 3, "per_class": 4},
}
"""For those that need some, or that take long without."""

ELSEWHERE = {
    ("method", "none"),  # does not train
    ("dataset", "folder"),  # below
    # Read files that have to be made first: see tests/datasets.
    *(
        ("dataset", name)
        for name in (
            "torchvision",
            "fashion-mnist",
            "cub200",
            "cars196",
            "sop",
            "in-shop",
            "market1501",
            "veri776",
            "msmt17",
            "features",
            "shards",
        )
    ),
}
SLOW = {("dataset", "glyphs")}  # draws everything first


def names(kind):
    """Of the built-in ones; packages that happen to be installed have tests of their own."""
    return sorted(entry.name for entry in entries(kind) if entry.package == BUILTIN)


def others():
    return [
        pytest.param(kind, name, marks=[pytest.mark.slow] if (kind, name) in SLOW else [])
        for kind in OTHERS
        for name in names(kind)
        if (kind, name) not in ELSEWHERE
    ]


def a_loss(name, dims=5):
    given = load_component("loss", name).given and (dims, torch.arange(8))  # the width of the kit's rows, their labels
    return build("loss", name, *given, **REQUIRED.get(name, {}))


@pytest.mark.parametrize("name", names("loss"))
def test_registered_loss(name):
    check_loss(a_loss(name), unit=name != "pml")


def two_losses():
    """Every loss with every other, the first on a prefix; a handful of them in ordinary tests."""
    every = list(combinations_with_replacement(names("loss"), 2))
    handful = random.Random(0).sample(every, 3)
    return [pytest.param(*two, marks=[] if two in handful else [pytest.mark.slow]) for two in every]


@pytest.mark.parametrize(("one", "other"), two_losses())
def test_two_registered_losses_at_once(one, other):
    parts = {"one": Part(a_loss(one, 3), weight=0.25, dims=3), "other": Part(a_loss(other), weight=2.0)}
    check_loss(Composite(parts), unit=False)  # a prefix is of norm 1 again


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("nt-xent", {"temperature": 0.5}),
        ("nt-xent", {"temperature": 0.01}),
        ("contrastive", {"variant": "squared-margin", "margin": 1.5}),
        ("contrastive", {"variant": "cosine", "negative": 0.0}),
        ("triplet", {"soft": True}),
        ("triplet", {"negatives": "semihard", "margin": 0.5}),
        ("triplet", {"negatives": "semihard", "margin": 0.5, "soft": True}),
        ("triplet", {"negatives": "semihard-or-farthest"}),
        ("triplet", {"squared": False}),
        ("triplet", {"negatives": "hardest"}),
        ("triplet", {"negatives": "hardest", "soft": True}),
    ],
)
def test_other_settings_of_built_in_losses(name, parameters):
    check_loss(build("loss", name, **parameters))


@pytest.mark.parametrize("name", names("miner"))
def test_registered_miner(name):
    check_miner(build("miner", name))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("semihard-pairs", {"margin": 1.0, "sides": "both"}),
        ("easy-pairs", {"margin": 0.3, "sides": "both"}),
        ("batch-hard", {"positive": "nearest"}),
        ("multi-similarity", {"epsilon": 0.0}),
        ("top-k-negatives", {"k": 1}),
        ("distance-weighted", {"k": 5, "cutoff": 0.1, "reach": 1.9, "seed": 7}),
        ("false-negatives", {"threshold": -1.0, "k": 2}),
    ],
)
def test_other_settings_of_built_in_miners(name, parameters):
    check_miner(build("miner", name, **parameters))


@pytest.mark.parametrize(("kind", "name"), others())
def test_registered_component(kind, name):
    ranks = {"ranks": False} if kind == "method" else {}  # its own tests compare ranks, with every loss and memory
    for check in component_checks(kind, name, PARAMETERS.get((kind, name)), **ranks):
        check.run()


def test_a_folder_of_images(tmp_path):
    generator = np.random.default_rng(0)
    for place in range(24):
        folder = tmp_path / "train" / "abc"[place % 3] if place < 12 else tmp_path / "test" / "abc"[place % 3]
        folder.mkdir(parents=True, exist_ok=True)
        pixels = generator.integers(0, 256, (10 + place % 3, 12, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{place}.png")
    for check in component_checks("dataset", "folder", {"root": str(tmp_path), "val": 0.0, "size": 8}):
        check.run()
