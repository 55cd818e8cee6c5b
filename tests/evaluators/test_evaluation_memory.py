"""Evaluation in bounded memory: the largest tensor depends on the tile, not on how many queries there are."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metriclab.core.rows import rows
from metriclab.evaluators.knn import KNN
from metriclab.evaluators.retrieval import Retrieval
from metriclab.ranking import keys as _ranking
from metriclab.ranking import shortlist as _shortlist


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation made."""

    def __init__(self, *there: torch.Tensor) -> None:
        super().__init__()
        self.there = {tensor.untyped_storage().data_ptr() for tensor in there}
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        made = (leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        self.bytes = max([self.bytes, *(storage.nbytes() for storage in made if storage.data_ptr() not in self.there)])
        return result


@pytest.mark.parametrize("evaluator", [Retrieval(), KNN()])
@pytest.mark.parametrize("count", [1, 10, 400])
@pytest.mark.parametrize("constant", [False, True])
def test_no_tensor_outgrows_the_tile(monkeypatch, evaluator, count, constant):
    n, width, cells = 300, 4, 2**12
    for module in (_ranking, _shortlist):
        monkeypatch.setattr(module, "TILE_CELLS", cells)
        monkeypatch.setattr(module, "PART_CELLS", cells // 4)
    monkeypatch.setattr(_shortlist, "_DOTS", cells)
    monkeypatch.setattr(_ranking, "LEAST_HEIGHT", 1)
    both = rows(torch.ones(n, width) if constant else torch.randn(n, width), torch.arange(n) % count)
    with LargestTensor() as largest:
        evaluator(both, both)
    assert largest.bytes <= 8 * cells
    assert largest.bytes < n * n


@pytest.mark.parametrize("evaluator", [Retrieval(), Retrieval(whole_ranking=False), KNN(k=20)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("count", [10, 2000])
def test_no_tensor_comes_near_a_large_gallery(monkeypatch, evaluator, dtype, count):
    n, width, cells = 4000, 256, 2**14
    for module in (_ranking, _shortlist):
        monkeypatch.setattr(module, "TILE_CELLS", cells)
        monkeypatch.setattr(module, "PART_CELLS", cells)
        monkeypatch.setattr(module, "WIDE", cells)
    monkeypatch.setattr(_ranking, "_COLUMNS", 64)
    monkeypatch.setattr(_shortlist, "_SIDE", 64)
    monkeypatch.setattr(_shortlist, "_DOTS", cells)
    gallery = rows(torch.randn(n, width, dtype=dtype), torch.arange(n) % count)
    queries = rows(torch.randn(20, width, dtype=dtype), torch.arange(20) % count)
    with LargestTensor(gallery.z) as largest:
        evaluator(queries, gallery)
    assert largest.bytes <= gallery.z.nbytes / 8


@pytest.mark.parametrize("threads", [1, 2, 16, 128])
@pytest.mark.parametrize("n", [1, 1000, 2**14, 100_000, 2**20])
def test_all_workers_together_hold_no_more_than_a_few_tiles(monkeypatch, threads, n):
    monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
    gallery = rows(torch.ones(n, 1), torch.zeros(n).long())
    workers = _ranking.workers_for(gallery)
    ranking = _ranking.RankingKeys(gallery, gallery, workers=workers)
    tile = ranking.tiles(torch.arange(n))[0]
    assert workers * len(tile) * n <= 5 * _ranking.TILE_CELLS
    assert workers * max(1, _ranking.part_height(n) // workers) * n <= _ranking.PART_CELLS


def test_many_queries_of_a_tiny_gallery_are_copied_a_few_at_a_time():
    n, width = 100_000, 64
    gallery = rows(torch.randn(8, width), torch.arange(8) % 2)
    queries = rows(torch.randn(n, width), torch.arange(n) % 2)
    with LargestTensor(queries.z) as largest:
        Retrieval()(queries, gallery)
    assert largest.bytes < queries.z.nbytes
