"""How much of a similarity matrix is held at a time."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar

import torch
from torch import Tensor

CPU_CELLS = 2**20
"""4 MiB of float32: near the cores between the operations on it, and so much work that threads seldom wait for each
other, which on a busy machine costs more than anything else."""

CACHED_CELLS = 2**17
"""512 KiB of float32: a handful of such tiles fit the second-level cache of a core."""

GPU_CELLS = 2**24
"""64 MiB of float32: enough work for a whole GPU in every kernel."""

_forced: ContextVar[int | None] = ContextVar("tile cells", default=None)

FEWEST_ANCHORS = 32
"""With fewer anchors a tile, large references are read from memory too often."""


def tile_cells(device: torch.device) -> int:
    """Cells of similarity to hold at a time on this device."""
    forced = _forced.get()
    if forced is not None:
        return forced
    return CPU_CELLS if device.type == "cpu" else GPU_CELLS


def anchors_per_tile(references: Tensor) -> int:
    """Anchors a tile holds against all m references of d dimensions; never more memory than the references take."""
    m, d = references.shape
    fewest = min(FEWEST_ANCHORS, d) if _forced.get() is None else 1
    return max(1, fewest, tile_cells(references.device) // max(1, m))


def tile_shape(anchors: Tensor, references: Tensor) -> tuple[int, int]:
    """Anchors and references of a tile where it may be cut among both: small enough to stay in a core's cache."""
    cells = tile_cells(references.device)
    if _forced.get() is None and references.device.type == "cpu":
        cells = CACHED_CELLS
    height = max(1, min(len(anchors), math.isqrt(cells)))
    return height, max(1, cells // height)


@contextmanager
def forced_tile_cells(cells: int) -> Iterator[None]:
    """Other tiles inside the block: results must not depend on them, which tests check."""
    token = _forced.set(cells)
    try:
        yield
    finally:
        _forced.reset(token)
