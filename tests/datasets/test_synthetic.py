from __future__ import annotations

import numpy as np
import pytest
import torch

from metriclab.datasets.synthetic import Synthetic


def everything(data):
    return data.images(np.arange(len(data.labels))).pixels


def test_it_is_a_pure_function_of_its_parameters():
    given = {"classes": 3, "per_class": 2, "size": 8, "seed": 5}
    first, again, other = (
        Synthetic("train", **given),
        Synthetic("train", **given),
        Synthetic("train", **given | {"seed": 6}),
    )
    assert torch.equal(everything(first), everything(again))
    assert first.fingerprint == again.fingerprint
    assert first.fingerprint != other.fingerprint
    assert first.fingerprint != Synthetic("val", **given).fingerprint


def test_more_classes_leave_the_first_ones_as_they_are():
    few, many = Synthetic("train", classes=2, per_class=3, size=8), Synthetic("train", classes=4, per_class=3, size=8)
    assert torch.equal(everything(few), everything(many)[:6])


@pytest.mark.parametrize("channels", [1, 3])
def test_shapes(channels):
    data = Synthetic("test", classes=3, per_class=2, size=10, channels=channels)
    images = data.images(np.array([4, 0, 4]))
    assert images.pixels.shape == (3, channels, 10, 10)
    assert images.sizes.tolist() == [[10, 10]] * 3
    assert torch.equal(images.pixels[0], images.pixels[2])
    assert data.labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.names[5] == "synthetic/test/5"


def test_splits_share_all_classes_or_none():
    shared = [set(Synthetic(split, classes=3).labels) for split in ("train", "val", "test")]
    assert shared == [{0, 1, 2}] * 3
    disjoint = [Synthetic(split, classes=3, disjoint=True) for split in ("train", "val", "test")]
    assert [set(data.labels) for data in disjoint] == [{0, 1, 2}, {3, 4, 5}, {6, 7, 8}]
    assert all(len(data.classes) == 9 for data in disjoint)


def test_classes_can_be_told_apart_by_their_mean_colour():
    train, test = Synthetic("train", classes=4, per_class=8), Synthetic("test", classes=4, per_class=8)
    means = everything(train).float().mean(dim=(2, 3)).view(4, 8, 3).mean(1)
    nearest = torch.cdist(everything(test).float().mean(dim=(2, 3)), means).argmin(1)
    assert (nearest.numpy() == test.labels).mean() > 0.8
