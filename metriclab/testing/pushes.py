"""Rows to push into a memory, and what it holds of them."""

from __future__ import annotations

import copy
from typing import Any

import torch

from metriclab.core.rows import Rows, rows

FIELDS = ("z", "labels", "items", "ids", "views")
STEP = 2**32
"""Ids of a step begin here times its number, as those of a run do."""


def pushed(step: int, count: int, width: int) -> Rows:
    """The rows of one step: two views of each item, some of unknown label; the next steps have some of its items."""
    generator = torch.Generator().manual_seed(step)
    place = torch.arange(count)
    item = 2 * step + place // 2
    z = torch.randn(count, width, generator=generator)
    return rows(z, item % 5 - 1, item, (step + 1) * STEP + place, place % 2)


def held(memory: Any) -> Rows:
    """What it holds, in the order of ids; without empty places, zero rows of unknown label, which no loss sees."""
    all_rows: Rows = memory.rows().detach()
    taken = (all_rows.labels >= 0) | (all_rows.z != 0).any(1)
    taken_rows = all_rows[taken.nonzero()[:, 0]]
    return copy.deepcopy(taken_rows[taken_rows.ids.argsort()])


def pushes_for(memory: Any) -> list[Rows]:
    """Enough to fill it twice over, of sizes that do not divide its own; the last but one larger than it."""
    size, width = memory.rows().z.shape
    usual = min(max(3, size // 3 + 1), 200)
    counts = [usual, 1, usual, 0, usual + 1, usual, size + 2, usual]
    return [pushed(step, count, width) for step, count in enumerate(counts)]


def same_rows(one: Rows, other: Rows) -> bool:
    """Whether all of both is equal, bit by bit."""
    return all(torch.equal(getattr(one, field), getattr(other, field)) for field in FIELDS)
