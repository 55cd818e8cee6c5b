"""Where the matches of each query stand in its ranking of the whole gallery, exactly.

Two ways lead there. Sorting similarities in float64 serves any number of matches. Where matches are few, rows that are
clearly behind all matches of interest are passed over: float32 similarities, with a bound on their error, settle all
but a few rows, and those few are taken in float64. Of interest are the matches among the best rows, as many as a metric
looks at, or all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.ranking.keys import (
    EXCLUDED,
    STEP,
    RankingKeys,
    check_finite,
    equal_range,
    part_height,
    sort_rows,
    workers_for,
)
from metriclab.ranking.screen import NEAR, Near, Similarities, groups, ranges, slab_height
from metriclab.ranking.ties import RankedMatches, Tables, Tied, runs
from metriclab.ranking.workers import in_threads, side_by_side

T = TypeVar("T")

_SPARE = 64
"""Codes taken beyond the best ones, among which ties with the last of those end, but for many copies of a row."""

_LAST = 2 * EXCLUDED
"""The code of what is no candidate: the largest of all."""

_QUERIES_A_LABEL = 4
"""So many, on average, and a block of codes for each label is marked sooner than all at once by their columns."""

_STEPS = 4
"""Rows behind which the end of most tie groups lies."""

FEW = 256
"""Matches of a query up to which looking near them may pay."""


@dataclass(frozen=True, slots=True)
class Alike:
    """Which gallery rows have the label of each query, the query itself included.

    Attributes:
        labels: of the queries.
        columns: gallery rows ordered by label.
        begin, count: where in `columns` those of each query are.
    """

    labels: Int64[Tensor, "q"]
    columns: Int64[Tensor, "n"]
    begin: Int64[Tensor, "q"]
    count: Int64[Tensor, "q"]

    @classmethod
    def of(cls, queries: Int64[Tensor, "q"], gallery: Int64[Tensor, "n"]) -> Alike:
        """From the labels of both sides."""
        ordered, columns = gallery.sort()
        return cls(queries, columns, *equal_range(queries, ordered))

    def queries(self) -> Int64[Tensor, "_"]:
        """Queries of known label with a row alike, by how many there are: a tile is padded to its last query's."""
        order = self.count.argsort()
        return order[((self.labels >= 0) & (self.count > 0))[order]]

    def rows(self, queries: Int64[Tensor, "b"]) -> tuple[Int64[Tensor, "b m"], Bool[Tensor, "b m"]]:
        """The gallery rows alike, and which are real: a query may have fewer than the others."""
        count = self.count[queries, None]
        within = torch.arange(int(count.max()), device=count.device)
        return self.columns[self.begin[queries, None] + within.minimum(count - 1)], within < count


def measured_matches(
    measure: Callable[[RankedMatches], T], queries: Rows, gallery: Rows, alike: Alike, depth: int | None = None
) -> Iterator[tuple[Int64[Tensor, "b"], T]]:
    """The queries of known label that have rows alike, a few at a time: their indices, and what is made of their
    matches.

    Args:
        measure: called with the matches of a few queries, from several threads at once.
        gallery: the same object as `queries` for leave-one-out, where rows of the query's item are no candidates.
        alike: of their labels.
        depth: that of interest, beside as many rows as a query has matches; a match further down may be said to have
            the whole gallery above it. None is interested in all.

    Raises:
        DivergedError: where an embedding is not finite.
    """
    for rows, name in ((queries, "queries"), (gallery, "gallery")):
        check_finite(rows.z, name)
    on_cpu = queries.z.device.type == "cpu"
    tables = Tables.up_to(len(gallery), queries.z.device)
    chosen = alike.queries()
    # Screening lives on a CPU's caches; a GPU sorts fast.
    few = chosen[alike.count[chosen] <= FEW] if on_cpu else chosen[:0]
    left = [chosen[len(few) :]]
    if len(few):
        screen = _Screen(queries, gallery, alike, depth, tables)
        for slab in torch.split(few, slab_height(len(gallery), int(alike.count[few[-1]]))):
            for indices, ranked in screen.look(slab, left):
                yield indices, measure(ranked)

    rest = torch.cat(left)
    if len(rest) == 0:
        return
    # By label, so that the matches of a query stand side by side.
    workers = workers_for(gallery)
    ranking = RankingKeys(queries, gallery, alike.columns, workers)

    width = len(gallery) if depth is None or not on_cpu else max(depth, int(alike.count[rest].max())) + _SPARE

    @torch.no_grad()  # which a thread does not inherit
    def sort(tile: Int64[Tensor, "b"]) -> list[tuple[Int64[Tensor, "p"], T]]:
        found = []
        for indices, keys in ranking.parts(tile, min(width, len(gallery))):
            # One sort finds everything: a match is an odd number, and stands before what it is tied with.
            codes = keys.bitwise_left_shift_(1)
            relevant = _mark(codes, alike.begin[indices], alike.count[indices])
            for part, ordered in _ordered(codes, relevant, depth, workers):
                found.append((indices[part], measure(_ranked(ordered, relevant[part], tables))))
        return found

    for found in side_by_side(sort, ranking.tiles(rest[alike.begin[rest].argsort()]), workers):
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
        alike = codes[top : top + height, left : left + width]
        real = alike != _LAST
        alike.sub_(real.view(torch.int8))
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
    width = int(depth.max()) + _SPARE
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


class _Screen:
    """Finds the few gallery rows on which the places of the matches depend."""

    def __init__(self, queries: Rows, gallery: Rows, alike: Alike, depth: int | None, tables: Tables) -> None:
        self.queries, self.gallery, self.alike, self.depth, self.tables = queries, gallery, alike, depth, tables
        self.similar = Similarities(queries, gallery)
        self.most = max(1, int(NEAR * len(gallery)))

    def look(self, slab: Int64[Tensor, "b"], left: list[Tensor]) -> Iterator[tuple[Int64[Tensor, "f"], RankedMatches]]:
        """Those of the queries for which it pays, with their matches; the others are put into `left`."""
        columns, real = self.alike.rows(slab)
        if self.gallery is self.queries:
            real = real & (self.gallery.items[columns] != self.queries.items[slab, None])
        keys, order = self.similar.keys(slab, columns).masked_fill_(~real, EXCLUDED).sort(1)
        columns, relevant = columns.gather(1, order), real.sum(1)
        last = keys.gather(1, (relevant - 1).clamp(min=0)[:, None]).squeeze(1).double() * -STEP
        # Rounded down, as what is above it is kept.
        last = (last - 3 * self.similar.margin).float().masked_fill_(relevant == 0, torch.inf)
        least = None if self.depth is None else relevant.clamp(min=self.depth)
        floors, expected = self.similar.floors(slab, last, least)
        left.append(slab[expected > self.most])
        few = (expected <= self.most).nonzero().squeeze(1)
        for part in (few[group] for group in groups(expected[few])):
            near = self.similar.near(slab[part], floors[part])
            sure = floors[part] == last[part]
            if least is not None:
                reached = near.above(floors[part].double().numpy() + 2 * self.similar.margin)
                sure |= torch.from_numpy(reached) >= least[part]
            open_ = _Open.of(near, keys[part], floors[part], self.similar.margin)
            sure &= torch.from_numpy(open_.each) <= self.most
            left.append(slab[part[~sure]])
            part, open_ = part[sure], open_.only(np.flatnonzero(sure.numpy()))
            # Matches that tie with each other leave many pairs open.
            for some in groups(torch.from_numpy(open_.each)):
                few_open = open_.only(some.numpy())
                found = part[some]
                yield slab[found], self._settle(slab[found], keys[found], columns[found], near, few_open)

    def _settle(
        self,
        tile: Int64[Tensor, "f"],
        keys: Int32[Tensor, "f m"],
        matches: Int64[Tensor, "f m"],
        near: Near,
        open_: _Open,
    ) -> RankedMatches:
        """Adds the rows that float32 left open, by their keys."""
        real = keys != EXCLUDED
        above = torch.from_numpy(np.where(open_.further, len(self.gallery), open_.above))
        columns = torch.from_numpy(near.columns[ranges(open_.first, open_.count)])
        match = torch.repeat_interleave(torch.from_numpy(open_.count))
        other = (columns != matches[real][match]).nonzero().squeeze(1)
        match, columns = match[other], columns[other]
        query, own = real.nonzero()[:, 0], keys[real]
        found = self.similar.keys(tile[query[match]], columns[:, None]).squeeze(1)
        above += torch.bincount(match[found < own[match]], minlength=len(own))
        size = 1 + torch.bincount(match[found == own[match]], minlength=len(own))
        return RankedMatches.of(keys, above, size, self.tables)


@dataclass(frozen=True, slots=True)
class _Open:
    """For each match of some queries, query by query, what float32 says of its place.

    Attributes:
        query: place of its query.
        above: gallery rows that are surely nearer.
        first: where in a `Near` those begin that are too close to be sure, the match itself among them.
        count: how many these are; 0 for a match that is further down than where rows were looked at.
        further: whether it is.
        each: `count` summed over the matches of a query.
    """

    query: Int64[np.ndarray, "p"]
    above: Int64[np.ndarray, "p"]
    first: Int64[np.ndarray, "p"]
    count: Int64[np.ndarray, "p"]
    further: Bool[np.ndarray, "p"]
    each: Int64[np.ndarray, "b"]

    @classmethod
    def of(cls, near: Near, keys: Int32[Tensor, "b m"], floor: Float32[Tensor, "b"], margin: float) -> _Open:
        """From the keys of the matches, `EXCLUDED` behind them."""
        real = keys != EXCLUDED
        query, at = real.nonzero()[:, 0].numpy(), keys[real].double().numpy() * -STEP
        first, behind = near.before(query, at + margin), near.before(query, at - margin)
        further = at <= floor.double().numpy()[query] + margin
        count = np.where(further, 0, behind - first)
        each = np.bincount(query, weights=count, minlength=len(keys)).astype(np.int64)
        return cls(query, first - near.start[query], first, count, further, each)

    def only(self, queries: Int64[np.ndarray, "_"]) -> _Open:
        """Of some of the queries, ascending."""
        among = np.zeros(len(self.each), dtype=np.bool_)
        among[queries] = True
        kept, place = among[self.query], among.cumsum() - 1
        above, first, count, further = self.above[kept], self.first[kept], self.count[kept], self.further[kept]
        return _Open(place[self.query[kept]], above, first, count, further, self.each[queries])
