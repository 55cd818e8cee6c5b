"""Matches by sorting: all similarities of a query in float64, which serves any number of matches.

A key is doubled and a match made one smaller, so a single sort of integers finds everything: matches are the odd
numbers, and each stands before what it is tied with.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.ranking.candidates import LabelIndex
from metriclab.ranking.keys import EXCLUDED, RankingKeys, part_height, sort_rows, workers_for
from metriclab.ranking.ties import RankedMatches, Tables, Tied, runs
from metriclab.ranking.workers import in_threads, side_by_side

T = TypeVar("T")

_BEYOND = 64
"""Codes taken beyond the best ones, among which ties with the last of those end, but for many copies of a row."""

_LAST = 2 * EXCLUDED
"""The code of what is no candidate: the largest of all."""

_QUERIES_A_LABEL = 4
"""So many, on average, and a block of codes for each label is marked sooner than all at once by their columns."""

_STEPS = 4
"""Rows behind which the end of most tie groups lies."""


def sorted_matches(
    measure: Callable[[RankedMatches], T],
    queries: Rows,
    gallery: Rows,
    index: LabelIndex,
    chosen: Int64[Tensor, "q"],
    depth: int | None,
    tables: Tables,
) -> Iterator[tuple[Int64[Tensor, "b"], T]]:
    """As `measured_matches`, for the chosen queries."""
    # By label, so that the matches of a query stand side by side.
    workers = workers_for(gallery)
    ranking = RankingKeys(queries, gallery, index.columns, workers)
    width = len(gallery)
    if depth is not None and queries.z.device.type == "cpu":
        width = min(width, max(depth, int(index.count[chosen].max())) + _BEYOND)

    @torch.no_grad()  # which a thread does not inherit
    def sort(tile: Int64[Tensor, "b"]) -> list[tuple[Int64[Tensor, "p"], T]]:
        found = []
        for indices, keys in ranking.parts(tile, width):
            codes = keys.bitwise_left_shift_(1)
            relevant = _mark(codes, index.begin[indices], index.count[indices])
            for part, ordered in _ordered(codes, relevant, depth, workers):
                found.append((indices[part], measure(_ranked(ordered, relevant[part], tables))))
        return found

    for found in side_by_side(sort, ranking.tiles(chosen[index.begin[chosen].argsort()]), workers):
        yield from found


def _mark(codes: Int32[Tensor, "b n"], begin: Int64[Tensor, "b"], count: Int64[Tensor, "b"]) -> Int64[Tensor, "b"]:
    """Takes one from the codes of the matches, and counts these. Queries of one label follow each other."""
    labels, queries = torch.unique_consecutive(begin, return_counts=True)
    if _QUERIES_A_LABEL * len(labels) > len(count):
        within = torch.arange(int(count.max()), device=count.device)
        columns = begin[:, None] + within.minimum(count[:, None] - 1)
        real = (within < count[:, None]) & (codes.gather(1, columns) != _LAST)
        codes.scatter_add_(1, columns, -real.int())
        return real.sum(1)
    relevant, top = torch.empty_like(count), 0
    blocks = torch.stack([labels, queries, count[queries.cumsum(0) - 1]], dim=1)
    for left, height, width in blocks.tolist():
        block = codes[top : top + height, left : left + width]
        real = block != _LAST
        block.sub_(real.view(torch.int8))
        relevant[top : top + height] = real.sum(1)
        top += height
    return relevant


def _ordered(
    codes: Int32[Tensor, "b n"], relevant: Int64[Tensor, "b"], depth: int | None, workers: int
) -> Iterator[tuple[slice, Int32[Tensor, "p k"]]]:
    """Some of the rows at a time: which, and their codes of interest, ascending. Overwrites its input."""
    if depth is not None and codes.device.type == "cpu":
        best, complete = _best(codes, relevant.clamp(min=max(1, depth)))
        if complete:
            yield slice(None), best
            return
    height = max(1, part_height(codes.shape[1]) // workers)
    for top in range(0, len(codes), height):
        part = slice(top, top + height)
        yield part, sort_rows(codes[part])


def _best(codes: Int32[Tensor, "b n"], depth: Int64[Tensor, "b"]) -> tuple[Int32[Tensor, "b _k"], bool]:
    """Of each row at least the `depth` smallest codes, ascending, and whether all that tie with the last are there."""
    width = int(depth.max()) + _BEYOND
    if width >= codes.shape[1]:
        return sort_rows(codes), True
    in_threads(lambda part: codes[part].numpy().partition(width - 1, axis=1), len(codes))
    best = sort_rows(codes[:, :width]).contiguous()
    last = best.gather(1, depth[:, None] - 1)
    return best, bool((last + (last & 1) < best[:, -1:]).all())


def _ranked(best: Int32[Tensor, "b k"], relevant: Int64[Tensor, "b"], tables: Tables) -> RankedMatches:
    """From the codes of the best rows, ascending."""
    odd, width = (best & 1).bool(), best.shape[1]
    count, flat = odd.sum(1), _places(odd)
    query = torch.repeat_interleave(count, output_size=len(flat))
    number = torch.arange(len(flat), device=flat.device)
    number -= torch.repeat_interleave(count.cumsum(0) - count, count, output_size=len(flat))
    place = flat - query * width
    # A match is tied with what follows it, and a match that follows another one, with that.
    with_next = odd[:, :-1] & (best[:, 1:] <= best[:, :-1] + 1)
    tied = torch.zeros_like(odd)
    tied[:, :-1] = with_next
    tied[:, 1:] |= with_next & odd[:, 1:]
    at = _places(tied)
    match, code = torch.searchsorted(flat, at), best.view(-1)[at]
    first, matches = runs(query[match], code)
    above = place[match][first]
    size = _end(best, query[match], above, code + 1) - above
    place[match] = above
    return RankedMatches(
        relevant, count, query, number, place, Tied(match, above, size, matches, number[match][first]), tables
    )


def _places(mask: Bool[Tensor, "b k"]) -> Int64[Tensor, "_"]:
    """Where it is true, in the order of memory; numpy finds it several times sooner."""
    if mask.device.type == "cpu":
        return torch.from_numpy(np.flatnonzero(mask.numpy()))
    return mask.view(-1).nonzero().squeeze(1)


def _end(
    ordered: Int32[Tensor, "b n"], row: Int64[Tensor, "t"], start: Int64[Tensor, "t"], value: Int32[Tensor, "t"]
) -> Int64[Tensor, "t"]:
    """Where the values up to `value` end in each row, two or more from `start` on: a few steps, then by bisection."""
    end, width = start + 2, ordered.shape[1]
    far = torch.arange(len(end), device=end.device)
    for _ in range(_STEPS):
        place = end[far]
        far = far[(place < width) & (ordered[row[far], place.clamp(max=width - 1)] <= value[far])]
        end[far] += 1
    row, value, low, high = row[far], value[far], end[far], torch.full_like(far, width)
    for _ in range(width.bit_length() if len(far) else 0):
        middle = (low + high) // 2
        less = (middle < high) & (ordered[row, middle.clamp(max=width - 1)] <= value)
        low, high = torch.where(less, middle + 1, low), torch.where(less, high, middle)
    end[far] = low
    return end
