"""The nearest gallery rows of every query, exactly: by screening where k is small, else by sorting."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.ranking.keys import EXCLUDED, RankingKeys, check_finite, part_height
from metriclab.ranking.shortlist import LONGEST, Similarities, portions, slab_height


def nearest_rows(
    queries: Rows, gallery: Rows, chosen: Int64[Tensor, "q"], k: int, among: Bool[Tensor, "n"]
) -> Iterator[tuple[Int64[Tensor, "b"], Int64[Tensor, "b m"], Int32[Tensor, "b m"]]]:
    """The chosen queries, a few at a time: their indices, gallery rows near each of them, and the keys of those.

    The k nearest are among these rows, and all that tie with the last of them; so may others be. Where a query has
    fewer rows than m, `EXCLUDED` stands behind them.

    Args:
        gallery: rows to look among; those of the query's own item are `EXCLUDED`.
        chosen: indices of queries.
        k: number of neighbours.
        among: which gallery rows count.

    Raises:
        DivergedError: where an embedding is not finite.
    """
    for rows, name in ((queries, "queries"), (gallery, "gallery")):
        check_finite(rows.z, name)
    undecided = [chosen]
    # Screening lives on a CPU's caches; a GPU sorts fast.
    if chosen.device.type == "cpu" and 2 * k <= LONGEST * len(gallery) and bool(among.any()):
        similarities, undecided = Similarities(queries, gallery, among), []
        for slab in torch.split(chosen, slab_height(len(gallery), 2 * k)):
            yield from _screened(similarities, slab, k, undecided)
    rest = torch.cat([chosen[:0], *undecided])
    if len(rest) == 0 or len(gallery) == 0:
        return
    everything = torch.arange(len(gallery), device=chosen.device)
    ranking = RankingKeys(queries, gallery)
    for tile in ranking.tiles(rest):
        for indices, keys in ranking.parts(tile):
            yield indices, everything.expand(len(indices), -1), keys.masked_fill_(~among, EXCLUDED)


def _screened(
    similarities: Similarities, slab: Int64[Tensor, "b"], k: int, undecided: list[Tensor]
) -> Iterator[tuple[Int64[Tensor, "f"], Int64[Tensor, "f m"], Int32[Tensor, "f m"]]]:
    """Those of the queries for which it pays; the others are put into `undecided`."""
    longest = int(LONGEST * len(similarities.gallery))
    floors, expected = similarities.floors(
        slab, torch.full((len(slab),), -torch.inf, dtype=torch.float32), torch.full_like(slab, k)
    )
    undecided.append(slab[expected > longest])
    slab, floors, expected = (values[expected <= longest] for values in (slab, floors, expected))
    for portion in portions(expected):
        shortlist = similarities.shortlist(slab[portion], floors[portion])
        start, floor, query = shortlist.start, floors[portion].double().numpy(), np.arange(len(portion))
        all_ = shortlist.count < k
        # What is further behind the kth than both can be off is not among the nearest, nor tied with them.
        kth = 4.0 * query - shortlist.places[np.where(all_, 0, start + k - 1)] if len(shortlist.places) else floor
        end = np.where(all_, start + shortlist.count, shortlist.before(query, kth - 2 * similarities.margin))
        enough = np.where(all_, np.isneginf(floor), kth > floor + 2 * similarities.margin)
        count = end - start
        enough &= count <= longest
        undecided.append(slab[portion][torch.from_numpy(~enough)])
        # Those with about as many rows together: a few with many ties would have all others padded. A vote holds some
        # hundreds of bytes for each row.
        size = 2 ** np.ceil(np.log2(count.clip(min=1))).astype(np.int64)
        for padded in np.unique(size[enough]):
            together = np.flatnonzero(enough & (size == padded))
            for queries in np.array_split(together, -(-len(together) // part_height(4 * int(padded)))):
                part = slab[portion][torch.from_numpy(queries)]
                yield part, *_padded(similarities, part, shortlist.columns, start[queries], count[queries])


def _padded(
    similarities: Similarities, tile: Int64[Tensor, "b"], columns: np.ndarray, start: np.ndarray, count: np.ndarray
) -> tuple[Int64[Tensor, "b m"], Int32[Tensor, "b m"]]:
    """The rows from `start` on of each query, and their keys."""
    within = np.arange(max(1, int(count.max())))
    real = torch.from_numpy(within < count[:, None])
    columns = columns if len(columns) else np.zeros(1, dtype=np.int64)
    found = torch.from_numpy(columns[np.minimum(start[:, None] + within, len(columns) - 1)])
    return found, similarities.keys(tile, found).masked_fill_(~real, EXCLUDED)
