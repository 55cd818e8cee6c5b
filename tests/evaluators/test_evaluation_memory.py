"""Evaluation in bounded memory: the largest tensor depends on the tile, not on how many queries there are."""

from __future__ import annotations

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metriclab.core.rows import rows
from metriclab.evaluators import _ranking
from metriclab.evaluators.knn import NearestNeighbours
from metriclab.evaluators.retrieval import Retrieval


class LargestTensor(TorchDispatchMode):
    """Bytes of the largest tensor that any operation returned."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        tensors = (leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        self.bytes = max([self.bytes, *(tensor.untyped_storage().nbytes() for tensor in tensors)])
        return result


@pytest.mark.parametrize("evaluator", [Retrieval(), NearestNeighbours()])
@pytest.mark.parametrize("count", [1, 10, 400])
@pytest.mark.parametrize("constant", [False, True])
def test_no_tensor_outgrows_the_tile(monkeypatch, evaluator, count, constant):
    n, width, cells = 300, 4, 2**12
    monkeypatch.setattr(_ranking, "TILE_CELLS", cells)
    monkeypatch.setattr(_ranking, "PART_CELLS", cells // 4)
    both = rows(torch.ones(n, width) if constant else torch.randn(n, width), torch.arange(n) % count)
    with LargestTensor() as largest:
        evaluator(both, both)
    assert largest.bytes <= 8 * cells
    assert largest.bytes < n * n
