"""The nearest rows of a memory, searched tile by tile."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.core.tiles import anchors_per_tile

TIE = 2.0**-20
"""Similarities that round to the same multiple of this are equal: two matrix products differ in the last bits."""

_NONE = torch.iinfo(torch.int64).min


class Neighbours(NamedTuple):
    """The k nearest rows of each of b anchors, nearest first, without gradient.

    Attributes:
        slots: their places among the rows of the memory.
        similarity: cosine to the anchor; -inf where it has no neighbour.
    """

    slots: Int64[Tensor, "b k"]
    similarity: Float[Tensor, "b k"]


@torch.no_grad()
def nearest_features(anchors: Rows, memory: Rows, k: int) -> Neighbours:
    """The nearest rows of a memory that are no copies of the anchor; of equally near ones those of lower items.

    Args:
        anchors: b of them.
        memory: at least one row; those of negative items are empty places.
        k: neighbours of an anchor, less where the memory has fewer rows.
    """
    block = anchors_per_tile(memory.z)
    by_item = memory.items.argsort(descending=True, stable=True)
    precedence = torch.empty_like(by_item)
    precedence[by_item] = torch.arange(len(by_item), device=by_item.device)
    starts = range(0, max(1, len(anchors)), block)
    parts = [_nearest(anchors[start : start + block], memory, precedence, min(k, len(memory))) for start in starts]
    similarity, slots = (torch.cat(side) for side in zip(*parts, strict=True))
    return Neighbours(slots, similarity)


def is_neighbour(similarity: Float[Tensor, "b k"]) -> Tensor:
    """Where there is one. A similarity that is not a number is one: it must be seen, not hidden."""
    return similarity != -torch.inf


def _nearest(
    anchors: Rows, memory: Rows, precedence: Int64[Tensor, "m"], k: int
) -> tuple[Float[Tensor, "b {k}"], Int64[Tensor, "b {k}"]]:
    with torch.autocast(anchors.z.device.type, enabled=False):
        similarity = anchors.z @ memory.z.T
    usable = (memory.items >= 0) & (memory.items != anchors.items[:, None])
    # One integer a cell says all of the order: the similarity first, then the item.
    steps = torch.where(similarity.isfinite(), similarity / TIE, 0).round().long()
    best, index = (steps * len(memory) + precedence).masked_fill(~usable, _NONE).topk(k)
    return similarity.gather(1, index).masked_fill(best == _NONE, -torch.inf), index
