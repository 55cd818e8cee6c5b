"""How much is held at a time."""

from __future__ import annotations

import torch

from metriclab.core.tiles import CPU_CELLS, GPU_CELLS, anchors_per_tile, forced_tile_cells, tile_cells


def test_tiles_fit_the_device():
    assert tile_cells(torch.device("cpu")) == CPU_CELLS
    assert tile_cells(torch.device("meta")) == GPU_CELLS


def test_large_references_are_not_read_too_often_and_small_memories_stay_small():
    assert anchors_per_tile(torch.empty(1024, 128)) == CPU_CELLS // 1024
    assert anchors_per_tile(torch.empty(10**6, 128)) == 32
    assert anchors_per_tile(torch.empty(10**6, 8)) == 8  # no more than the references themselves take
    assert anchors_per_tile(torch.empty(0, 8)) == CPU_CELLS


def test_forced_tiles_end_with_their_block():
    with forced_tile_cells(10):
        assert anchors_per_tile(torch.empty(4, 128)) == 2
        assert anchors_per_tile(torch.empty(40, 128)) == 1
    assert tile_cells(torch.device("cpu")) == CPU_CELLS
