"""Every registered loss, miner and method keeps what the kit asks: a new component is tested by being registered."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
import torch

from metriclab.registry import build, load
from metriclab.testing import check_loss, check_miner

LOSSES = sorted({point.name for point in entry_points(group="metriclab.loss")})
REQUIRED = {"pml": {"loss": "MultiSimilarityLoss"}}
"""Parameters of losses that have no default for them."""

MINERS = sorted({point.name for point in entry_points(group="metriclab.miner")})


@pytest.mark.parametrize("name", LOSSES)
def test_registered_loss(name):
    given = load("loss", name).given and (5, torch.arange(8))  # the width of the kit's rows, and their labels
    check_loss(build("loss", name, *given, **REQUIRED.get(name, {})))


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
        ("triplet", {"negatives": "hardest"}),
        ("triplet", {"negatives": "hardest", "soft": True}),
    ],
)
def test_other_settings_of_built_in_losses(name, parameters):
    check_loss(build("loss", name, **parameters))


@pytest.mark.parametrize("name", MINERS)
def test_registered_miner(name):
    check_miner(build("miner", name))


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
