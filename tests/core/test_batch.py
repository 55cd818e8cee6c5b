"""Batches: rows of several views, and who they are."""

from __future__ import annotations

import torch

from metriclab.core.batch import Batch
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
