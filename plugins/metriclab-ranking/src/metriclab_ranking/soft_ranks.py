"""The rank of each positive among an anchor's references, counted by steps that can be differentiated."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from metriclab.api import Pairs

Step = Callable[[Float[Tensor, "*cells"]], Float[Tensor, "*cells"]]
"""By how much a reference counts as ranked before a positive, from how much nearer it is to the anchor."""


class SoftRanks(NamedTuple):
    """Of every positive pair, row by row; its rank is 1 + among_positives + among_negatives.

    Attributes:
        anchors: number of the pair's anchor among the anchors of the tile.
        among_positives: how many of the anchor's other positives come before this one.
        among_negatives: how many of its negatives do.
    """

    anchors: Int64[Tensor, "k"]
    among_positives: Float[Tensor, "k"]
    among_negatives: Float[Tensor, "k"]


def soft_ranks(pairs: Pairs, of_positives: Step, of_negatives: Step) -> SoftRanks:
    """Counts the references before each positive: time and cells are P times those of the tile, at P positives a row.

    A block of positive pairs at a time, as many as the tile has anchors, so that no more is held than a few tensors of
    the tile's size; the backward computes each block anew. On a GPU the number of positive pairs is waited for.
    """
    rows, columns = pairs.positive.nonzero(as_tuple=True)
    height = max(1, len(pairs.positive))

    def count(start: int) -> tuple[Tensor, Tensor]:
        block = slice(start, start + height)
        masks = pairs.positive, pairs.negative
        steps = of_positives, of_negatives
        return _count(pairs.similarity, *masks, rows[block], columns[block], *steps)

    starts = range(0, len(rows), height)
    blocks = [checkpoint(count, start, use_reentrant=False, preserve_rng_state=False) for start in starts]
    nothing = pairs.similarity.new_zeros(0)
    among = [torch.cat([nothing, *parts]) for parts in zip(*blocks, strict=True)] or [nothing, nothing]
    return SoftRanks(rows, *among)


def _count(
    similarity: Float[Tensor, "b m"],
    positive: Bool[Tensor, "b m"],
    negative: Bool[Tensor, "b m"],
    rows: Int64[Tensor, "k"],
    columns: Int64[Tensor, "k"],
    of_positives: Step,
    of_negatives: Step,
) -> tuple[Float[Tensor, "k"], Float[Tensor, "k"]]:
    nearer = similarity[rows] - similarity[rows, columns][:, None]
    others = positive[rows].scatter(1, columns[:, None], False)
    among_positives = torch.where(others, of_positives(nearer), 0).sum(1)
    return among_positives, torch.where(negative[rows], of_negatives(nearer), 0).sum(1)


def sum_by_anchor(values: Float[Tensor, "k"], anchors: Int64[Tensor, "k"], pairs: Pairs) -> Float[Tensor, "b"]:
    """The sum over an anchor's positives of a value of each positive pair; 0 for an anchor without any."""
    return values.new_zeros(len(pairs.positive)).index_add(0, anchors, values)
