"""Batches: rows of several views, and who they are."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from metriclab.core.batch import Batch, Images
from metriclab.core.pairs import all_pairs


def batch(n: int = 3) -> Batch:
    views = (torch.rand(n, 1, 2, 2), torch.rand(n, 1, 2, 2))
    return Batch(views, torch.zeros(n, dtype=torch.int64), 10 + torch.arange(n), torch.arange(n), step=7)


def test_rows_of_later_views_are_those_of_all_views_from_there_on():
    part, z = batch(), [torch.rand(3, 4), torch.rand(3, 4)]
    every, second = part.rows(z, part.items), part.rows(z[1:], part.items, first_view=1)
    assert second.views.tolist() == [1, 1, 1]
    assert torch.equal(second.ids, every[3:].ids)
    assert torch.equal(second.z, every[3:].z)


def test_two_embeddings_of_one_view_are_one_row_to_a_loss():
    part = batch()
    queries, keys = part.rows([torch.rand(3, 4)], part.items), [torch.rand(3, 4)]
    assert not all_pairs(queries, part.rows(keys, part.items)).positive.any()
    assert torch.equal(all_pairs(queries, part.rows(keys, part.items, first_view=1)).positive, torch.eye(3).bool())


def test_padded_images_keep_their_sizes():
    images = Images.padded([np.full((3, 2, 5), 7, np.uint8), np.full((3, 4, 1), 9, np.uint8)])
    assert images.pixels.shape == (2, 3, 4, 5)
    assert images.sizes.tolist() == [[2, 5], [4, 1]]
    assert images.pixels.sum() == 3 * (10 * 7 + 4 * 9)


@pytest.mark.parametrize(
    ("images", "text"),
    [
        ([], "Images.padded is given no image, and needs one at least"),
        (
            [np.zeros((3, 4, 4))],
            r"image 0 for Images.padded is float64 of shape \(3, 4, 4\), expected uint8 of \(3, h, w\)",
        ),
        ([np.zeros((4, 4), np.uint8)], r"image 0 for Images.padded is uint8 of shape \(4, 4\), expected"),
        ([np.zeros((c, 4, 4), np.uint8) for c in (3, 1)], r"image 1 .* is uint8 of shape \(1, 4, 4\), expected"),
        ([np.zeros((3, 0, 4), np.uint8)], r"image 0 .* is uint8 of shape \(3, 0, 4\), expected"),
    ],
)
def test_padded_images_are_uint8_of_one_number_of_channels(images, text):
    with pytest.raises(ValueError, match=text):
        Images.padded(images)
