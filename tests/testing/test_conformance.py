"""Every registered loss and method keeps what the kit asks: a new component is tested by being registered."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest

from metriclab.registry import build
from metriclab.testing import check_loss

LOSSES = sorted({point.name for point in entry_points(group="metriclab.loss")})


@pytest.mark.parametrize("name", LOSSES)
def test_registered_loss(name):
    check_loss(build("loss", name))


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
