"""Views never have a GPU wait: they run on tensors that have no values at all."""

from __future__ import annotations

import pytest
import torch

from metriclab.core.batch import Images
from metriclab.core.random import RandomKeys
from metriclab.registry import build
from tests.support.waiting import a_gpu_without_data

EVERYTHING = {
    "rotation": 9.0, "shear": 9.0, "perspective": 0.3, "solarize": 0.5, "posterize": 0.5, "equalize": 0.5, "erase": 0.5,
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "settings", "channels"),
    [
        ("simclr", {}, 1),
        ("simclr", EVERYTHING, 3),
        ("simclr", {**EVERYTHING, "second": {"blur": 0.1}, "fit": "pad"}, 3),
        ("multi-crop", {"size": 24, "small_size": 8}, 3),
        ("retrieval", {"erase": 0.5}, 4),
        ("randaugment", {"operations": 3}, 3),
        ("plain", {"fit": "squash"}, 3),
    ],
)
def test_no_view_needs_a_value_on_the_host(name, settings, channels):
    views = build("views", name, **settings)
    with a_gpu_without_data() as copies:
        n, place = 6, torch.device("cuda")
        pixels = torch.zeros(n, channels, 90, 120, dtype=torch.uint8, device=place)
        images = Images(pixels, torch.full((n, 2), 80, device=place))
        keys = RandomKeys(0, 1, torch.arange(n, device=place), torch.zeros(n, dtype=torch.int64, device=place))
        made = (*views(images, keys), views.test(images))
        assert all(view.device.type == "cuda" and len(view) == n for view in made)
    assert copies.found == []


def needs(value):
    """What a GPU would wait for, written in many ways."""
    yield lambda: value.sum().item()
    yield lambda: value.tolist()
    yield lambda: bool(value[0] > 0)
    yield lambda: int(value[0])
    yield lambda: value.nonzero()
    yield lambda: value[value > 0]
    yield lambda: value.masked_select(value > 0)
    yield lambda: value.cpu().numpy()
    yield lambda: list(range(value[0]))
    yield lambda: torch.unique(value)
    yield lambda: torch.equal(value, value + 1)
    yield lambda: torch.repeat_interleave(value)


def test_the_guard_sees_whatever_needs_a_value():
    with a_gpu_without_data():
        value = torch.ones(3, dtype=torch.int64, device="cuda")
        unseen = [place for place, need in enumerate(needs(value)) if not raises(need)]
    assert unseen == []


def raises(need) -> bool:
    """Each operator has an error of its own."""
    try:
        need()
    except Exception:
        return True
    return False


def test_the_guard_sees_copies_between_host_and_device():
    with a_gpu_without_data() as copies:
        value = torch.ones(3, device="cuda")
        value + torch.tensor([1.0, 2.0, 3.0], device="cuda")
    assert copies.found
