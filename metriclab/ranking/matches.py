"""Where the matches of each query stand in its ranking of the whole gallery, exactly.

Two ways lead there. Sorting similarities in float64 (`sorting`) serves any number of matches. Where matches are few,
rows that are clearly behind all matches of interest are passed over (`screening`): float32 similarities, with a bound
on their error, settle all but a few rows, and those few are taken in float64. Of interest are the matches among the
best rows, as many as a metric looks at, or all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

import torch
from jaxtyping import Int64
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.ranking.candidates import LabelIndex
from metriclab.ranking.keys import check_finite
from metriclab.ranking.screening import MatchScreen
from metriclab.ranking.shortlist import slab_height
from metriclab.ranking.sorting import sorted_matches
from metriclab.ranking.ties import RankedMatches, Tables

T = TypeVar("T")

FEW = 256
"""Matches of a query up to which screening may pay."""


def measured_matches(
    measure: Callable[[RankedMatches], T], queries: Rows, gallery: Rows, index: LabelIndex, depth: int | None = None
) -> Iterator[tuple[Int64[Tensor, "b"], T]]:
    """The queries of known label whose label the gallery has, a few at a time: their indices, and what is made of
    their matches.

    Args:
        measure: called with the matches of a few queries, from several threads at once.
        gallery: rows to rank; those of the query's own item are no candidates.
        index: of both sides' labels.
        depth: that of interest, beside as many rows as a query has matches; a match further down may be said to have
            the whole gallery above it. None is interested in all.

    Raises:
        DivergedError: where an embedding is not finite.
    """
    for rows, name in ((queries, "queries"), (gallery, "gallery")):
        check_finite(rows.z, name)
    tables = Tables.up_to(len(gallery), queries.z.device)
    chosen = index.queries_with_rows()
    # Screening lives on a CPU's caches; a GPU sorts fast.
    few = chosen[index.count[chosen] <= FEW] if queries.z.device.type == "cpu" else chosen[:0]
    undecided = [chosen[len(few) :]]
    if len(few):
        screen = MatchScreen(queries, gallery, index, depth, tables)
        for slab in torch.split(few, slab_height(len(gallery), int(index.count[few[-1]]))):
            for indices, ranked in screen.decided(slab, undecided):
                yield indices, measure(ranked)
    rest = torch.cat(undecided)
    if len(rest):
        yield from sorted_matches(measure, queries, gallery, index, rest, depth, tables)
