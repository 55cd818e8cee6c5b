"""Where the matches of each query stand in its ranking of the whole gallery, exactly.

Two ways lead there. Sorting similarities in float64 serves any number of matches. Where matches are few, rows that are
clearly behind all matches of interest are passed over: float32 similarities, with a bound on their error, settle all
but a few rows, and those few are taken in float64. Of interest are the matches among the best rows, as many as a metric
looks at, or all of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.evaluators._ranking import (
    EXCLUDED,
    STEP,
    check_finite,
    equal_range,
    in_threads,
    ranking_keys,
    sort_rows,
    tile_height,
)
from metriclab.evaluators._screen import NEAR, Similarities, bounds, span
from metriclab.evaluators._ties import RankedMatches, Tables, Tied, runs

_LAST = 2 * EXCLUDED + 1
"""The code of what is no candidate: the largest of all."""

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


def ranked_matches(
    queries: Rows, gallery: Rows, alike: Alike, depth: int | None = None
) -> Iterator[tuple[Int64[Tensor, "b"], RankedMatches]]:
    """The queries of known label that have rows alike, a few at a time: their indices, and their matches.

    Args:
        gallery: the same object as `queries` for leave-one-out, where rows of the query's item are no candidates.
        alike: of their labels.
        depth: that of interest, beside as many rows as a query has matches; a match further down may be said to have
            the whole gallery above it. None is interested in all.

    Raises:
        DivergedError: where an embedding is not finite.
    """
    for rows, name in ((queries, "queries"), (gallery, "gallery")):
        check_finite(rows.z, name)
    tables = Tables.up_to(len(gallery), queries.z.device)
    chosen = alike.queries()
    # Screening lives on a CPU's caches; a GPU sorts fast.
    few = chosen[alike.count[chosen] <= FEW] if chosen.device.type == "cpu" else chosen[:0]
    left = [chosen[len(few) :]]
    if len(few):
        screen = _Screen(queries, gallery, alike, depth, tables)
        for tile in torch.split(few, tile_height(len(gallery))):
            if screen.pays:
                found, ranked, deep = screen.look(tile)
                left.append(deep)
                if len(found):
                    yield found, ranked
            else:
                left.append(tile)
    for indices, keys in ranking_keys(queries, gallery, torch.cat(left)):
        yield indices, _by_sorting(keys, *alike.rows(indices), depth, tables)


def _by_sorting(
    keys: Int32[Tensor, "b n"],
    columns: Int64[Tensor, "b m"],
    real: Bool[Tensor, "b m"],
    depth: int | None,
    tables: Tables,
) -> RankedMatches:
    """From the keys of all gallery rows, which are overwritten."""
    # One sort finds everything: a match is an even number, and stands before what it is tied with.
    codes = keys.bitwise_left_shift_(1).bitwise_or_(1)
    real = real & (codes.gather(1, columns) != _LAST)
    codes.scatter_add_(1, columns, -real.int())
    relevant = real.sum(1)
    best = codes if depth is None else _best(codes, relevant.clamp(min=depth))
    best = sort_rows(best)
    query, place = (best & 1 == 0).nonzero(as_tuple=True)
    seen = torch.bincount(query, minlength=len(best))
    column = torch.arange(len(query), device=query.device) - (seen.cumsum(0) - seen)[query]
    above = place.new_full((len(best), max(1, int(relevant.max()))), codes.shape[1])
    above[query, column] = place
    code = best[query, place]
    behind = best[query, (place + 1).clamp(max=best.shape[1] - 1)]
    near = torch.zeros_like(code, dtype=torch.bool)
    near[:-1] = (code[1:] == code[:-1]) & (query[1:] == query[:-1])
    near[1:] |= near[:-1].clone()
    t = (near | (behind == code + 1)).nonzero().squeeze(1)
    query, column, place, code = query[t], column[t], place[t], code[t]
    first, matches = runs(query, code)
    start = place[first]
    above[query, column] = start
    tied = Tied(query, column, start, _end(best, query, start, code + 1) - start, matches, column[first])
    return RankedMatches(torch.arange(above.shape[1], device=above.device) < relevant[:, None], above, tied, tables)


def _best(codes: Int32[Tensor, "b n"], depth: Int64[Tensor, "b"]) -> Int32[Tensor, "b _k"]:
    """Of each row the `depth` smallest codes, all that tie with them, and perhaps more; padded by `EXCLUDED`."""
    if codes.device.type != "cpu":
        return codes
    rows, least = codes.numpy(), depth.tolist()
    parts = in_threads(lambda part: [_best_one(rows[i], least[i]) for i in span(part)], len(rows))
    found = list(chain.from_iterable(parts))
    best = np.full((len(rows), max(map(len, found))), _LAST, dtype=np.int32)
    for row, one in zip(best, found, strict=True):
        row[: len(one)] = one
    return torch.from_numpy(best)


def _best_one(codes: np.ndarray, least: int) -> np.ndarray:
    for bound in bounds(codes, least):
        best: np.ndarray = codes[codes <= bound | 1]  # of a tie, all
        if len(best) >= least:
            return best
    return codes


def _end(
    ordered: Int32[Tensor, "b n"], row: Int64[Tensor, "t"], start: Int64[Tensor, "t"], value: Int32[Tensor, "t"]
) -> Int64[Tensor, "t"]:
    """Where the values up to `value` end in each row, looked for from `start` on, by bisection."""
    low, high = start + 1, torch.full_like(start, ordered.shape[1])
    for _ in range(ordered.shape[1].bit_length()):
        middle = (low + high) // 2
        less = (middle < high) & (ordered[row, middle.clamp(max=ordered.shape[1] - 1)] <= value)
        low, high = torch.where(less, middle + 1, low), torch.where(less, high, middle)
    return low


class _Near(NamedTuple):
    """What one query's float32 similarities say.

    Attributes:
        above: rows that are surely nearer than each of its matches; all rows for one that is of no interest.
        open: how many rows are too close to each to be sure, the match itself among them.
        columns: which rows these are, match by match.
    """

    above: np.ndarray
    open: np.ndarray
    columns: np.ndarray


class _Screen:
    """Finds the few gallery rows on which the places of the matches depend.

    Attributes:
        pays: whether it did so far: false once most queries had to be left for sorting.
    """

    def __init__(self, queries: Rows, gallery: Rows, alike: Alike, depth: int | None, tables: Tables) -> None:
        self.queries, self.gallery, self.alike, self.depth, self.tables = queries, gallery, alike, depth, tables
        self.similar = Similarities(queries, gallery)
        self.most = max(1, int(NEAR * len(gallery)))
        self.asked, self.left = 0, 0

    @property
    def pays(self) -> bool:
        return 2 * self.left <= self.asked

    def look(self, tile: Int64[Tensor, "b"]) -> tuple[Int64[Tensor, "f"], RankedMatches, Int64[Tensor, "l"]]:
        """The queries whose matches it places, their matches, and the queries that are left."""
        columns, real = self.alike.rows(tile)
        if self.gallery is self.queries:
            real = real & (self.gallery.items[columns] != self.queries.items[tile, None])
        keys, order = self.similar.keys(tile, columns).masked_fill_(~real, EXCLUDED).sort(1)
        near = self._near(tile, keys)
        self.asked += len(tile)
        found = torch.tensor([one is not None for one in near])
        self.left += int((~found).sum())
        kept = [one for one in near if one is not None]
        ranked = self._settle(tile[found], keys[found], columns.gather(1, order)[found], kept)
        return tile[found], ranked, tile[~found]

    def _near(self, tile: Tensor, keys: Int32[Tensor, "b m"]) -> list[_Near | None]:
        rows = self.similar.rough(tile)
        at = (keys.double() * -STEP).numpy()
        relevant = (keys != EXCLUDED).sum(1).tolist()
        parts = in_threads(lambda part: [self._near_one(rows[i], at[i, : relevant[i]]) for i in span(part)], len(rows))
        return list(chain.from_iterable(parts))

    def _near_one(self, similarities: np.ndarray, at: np.ndarray) -> _Near | None:
        """`at` are the similarities of the matches, descending; None where too many rows would have to be looked at."""
        if len(at) == 0:
            nothing = np.zeros(0, dtype=np.int64)
            return _Near(nothing, nothing, nothing)
        floor, columns = self._candidates(similarities, at)
        if len(columns) > self.most:
            return None
        values = similarities[columns]
        order = values.argsort()
        values = values[order]
        low = values.searchsorted((at - self.similar.margin).astype(np.float32), side="left")
        high = values.searchsorted((at + self.similar.margin).astype(np.float32), side="right")
        count, above = high - low, len(values) - high
        further = at <= floor + self.similar.margin
        count[further], above[further] = 0, len(similarities)
        end = count.cumsum()
        total = int(end[-1])
        if total > self.most:
            return None
        place = np.arange(total) + (low - end + count).repeat(count)
        return _Near(above, count, columns[order[place]])

    def _candidates(self, similarities: np.ndarray, at: np.ndarray) -> tuple[float, np.ndarray]:
        """The rows of interest, and the similarity up to which others are left out."""
        last = at[-1] - 2 * self.similar.margin
        if self.depth is not None:
            least = max(self.depth, len(at))
            for bound in bounds(similarities, least, largest=True):
                floor = max(last, float(bound))
                (columns,) = (similarities > np.float32(floor)).nonzero()
                if np.count_nonzero(similarities[columns] > floor + 2 * self.similar.margin) >= least or floor == last:
                    return floor, columns
        return last, (similarities > np.float32(last)).nonzero()[0]

    def _settle(
        self, tile: Tensor, keys: Int32[Tensor, "f m"], matches: Int64[Tensor, "f m"], near: list[_Near]
    ) -> RankedMatches:
        """Adds the rows that float32 left open, by their keys."""
        above, size = torch.zeros(keys.shape, dtype=torch.int64), torch.ones(keys.shape, dtype=torch.int64)
        if near:
            real = keys != EXCLUDED
            above[real] = torch.from_numpy(np.concatenate([one.above for one in near]))
            open_ = torch.from_numpy(np.concatenate([one.open for one in near]))
            columns = torch.from_numpy(np.concatenate([one.columns for one in near]))
            match = torch.repeat_interleave(open_)
            other = (columns != matches[real][match]).nonzero().squeeze(1)
            match, columns = match[other], columns[other]
            query, own = real.nonzero()[:, 0], keys[real]
            found = self.similar.keys(tile[query[match]], columns[:, None]).squeeze(1)
            above[real] += torch.bincount(match[found < own[match]], minlength=len(own))
            size[real] += torch.bincount(match[found == own[match]], minlength=len(own))
        return RankedMatches.of(keys, above, size, self.tables)
