"""Matches by screening: float32 similarities settle most of a gallery, and float64 the few rows that they leave open.

A match's place is the number of rows above it. Rows whose rough similarity is off from the match's by more than the
bound on rounding are surely above or below; only those within the bound are taken in float64.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.ranking.candidates import LabelIndex
from metriclab.ranking.keys import EXCLUDED, STEP
from metriclab.ranking.shortlist import LONGEST, Shortlist, Similarities, portions, ranges
from metriclab.ranking.ties import RankedMatches, Tables


class MatchScreen:
    """Finds the few gallery rows on which the places of the matches depend."""

    def __init__(self, queries: Rows, gallery: Rows, index: LabelIndex, depth: int | None, tables: Tables) -> None:
        self.queries, self.gallery, self.index, self.depth, self.tables = queries, gallery, index, depth, tables
        self.similarities = Similarities(queries, gallery)
        self.longest = max(1, int(LONGEST * len(gallery)))

    def decided(
        self, slab: Int64[Tensor, "b"], undecided: list[Tensor]
    ) -> Iterator[tuple[Int64[Tensor, "f"], RankedMatches]]:
        """Those of the queries for which it pays, with their matches; the others are put into `undecided`."""
        columns, real = self.index.rows(slab)
        keys, order = self.similarities.keys(slab, columns).masked_fill_(~real, EXCLUDED).sort(1)
        columns, relevant = columns.gather(1, order), (keys != EXCLUDED).sum(1)
        last = keys.gather(1, (relevant - 1).clamp(min=0)[:, None]).squeeze(1).double() * -STEP
        margin = self.similarities.margin
        # Rounded down, as what is above it is kept.
        last = (last - 3 * margin).float().masked_fill_(relevant == 0, torch.inf)
        least = None if self.depth is None else relevant.clamp(min=self.depth)
        floors, expected = self.similarities.floors(slab, last, least)
        undecided.append(slab[expected > self.longest])
        short = (expected <= self.longest).nonzero().squeeze(1)
        for part in (short[portion] for portion in portions(expected[short])):
            shortlist = self.similarities.shortlist(slab[part], floors[part])
            sure = floors[part] == last[part]
            if least is not None:
                reached = shortlist.above(floors[part].double().numpy() + 2 * margin)
                sure |= torch.from_numpy(reached) >= least[part]
            unsettled = _Unsettled.of(shortlist, keys[part], floors[part], margin)
            sure &= torch.from_numpy(unsettled.each) <= self.longest
            undecided.append(slab[part[~sure]])
            part, unsettled = part[sure], unsettled.only(np.flatnonzero(sure.numpy()))
            # Matches that tie with each other leave many pairs open.
            for portion in portions(torch.from_numpy(unsettled.each)):
                some, rows = part[portion], unsettled.only(portion.numpy())
                yield slab[some], self._settle(slab[some], keys[some], columns[some], shortlist, rows)

    def _settle(
        self,
        tile: Int64[Tensor, "f"],
        keys: Int32[Tensor, "f m"],
        matches: Int64[Tensor, "f m"],
        shortlist: Shortlist,
        unsettled: _Unsettled,
    ) -> RankedMatches:
        """Adds the rows that float32 left open, by their keys."""
        real = keys != EXCLUDED
        above = torch.from_numpy(np.where(unsettled.further, len(self.gallery), unsettled.above))
        columns = torch.from_numpy(shortlist.columns[ranges(unsettled.first, unsettled.count)])
        match = torch.repeat_interleave(torch.from_numpy(unsettled.count))
        other = (columns != matches[real][match]).nonzero().squeeze(1)
        match, columns = match[other], columns[other]
        query, own = real.nonzero()[:, 0], keys[real]
        found = self.similarities.keys(tile[query[match]], columns[:, None]).squeeze(1)
        above += torch.bincount(match[found < own[match]], minlength=len(own))
        size = 1 + torch.bincount(match[found == own[match]], minlength=len(own))
        return RankedMatches.of(keys, above, size, self.tables)


@dataclass(frozen=True, slots=True)
class _Unsettled:
    """For each match of some queries, query by query, what float32 says of its place.

    Attributes:
        query: place of its query.
        above: gallery rows that are surely nearer.
        first: where in a `Shortlist` those begin that are too close to be sure, the match itself among them.
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
    def of(
        cls, shortlist: Shortlist, keys: Int32[Tensor, "b m"], floor: Float32[Tensor, "b"], margin: float
    ) -> _Unsettled:
        """From the keys of the matches, `EXCLUDED` behind them."""
        real = keys != EXCLUDED
        query, at = real.nonzero()[:, 0].numpy(), keys[real].double().numpy() * -STEP
        first, behind = shortlist.before(query, at + margin), shortlist.before(query, at - margin)
        further = at <= floor.double().numpy()[query] + margin
        count = np.where(further, 0, behind - first)
        each = np.bincount(query, weights=count, minlength=len(keys)).astype(np.int64)
        return cls(query, first - shortlist.start[query], first, count, further, each)

    def only(self, queries: Int64[np.ndarray, "_"]) -> _Unsettled:
        """Of some of the queries, ascending."""
        among = np.zeros(len(self.each), dtype=np.bool_)
        among[queries] = True
        kept, place = among[self.query], among.cumsum() - 1
        above, first, count, further = self.above[kept], self.first[kept], self.count[kept], self.further[kept]
        return _Unsettled(place[self.query[kept]], above, first, count, further, self.each[queries])
