"""The nearest gallery rows of every query, exactly."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import torch
from jaxtyping import Bool, Int32, Int64
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.ranking.keys import EXCLUDED, RankingKeys, check_finite, part_height
from metriclab.ranking.screen import NEAR, Similarities, groups, slab_height


def nearest(
    queries: Rows, gallery: Rows, chosen: Int64[Tensor, "q"], k: int, among: Bool[Tensor, "n"]
) -> Iterator[tuple[Int64[Tensor, "b"], Int64[Tensor, "b m"], Int32[Tensor, "b m"]]]:
    """The chosen queries, a few at a time: their indices, gallery rows near each of them, and the keys of those.

    The k nearest are among these rows, and all that tie with the last of them; so may others be. Where a query has
    fewer rows than m, `EXCLUDED` stands behind them.

    Args:
        gallery: the same object as `queries` for leave-one-out, where rows of the query's item are `EXCLUDED`.
        chosen: indices of queries.
        k: number of neighbours.
        among: which gallery rows count.

    Raises:
        DivergedError: where an embedding is not finite.
    """
    for rows, name in ((queries, "queries"), (gallery, "gallery")):
        check_finite(rows.z, name)
    left = [chosen]
    # Screening lives on a CPU's caches; a GPU sorts fast.
    if chosen.device.type == "cpu" and 2 * k <= NEAR * len(gallery) and bool(among.any()):
        similar, left = Similarities(queries, gallery, among), []
        for slab in torch.split(chosen, slab_height(len(gallery), 2 * k)):
            yield from _nearest(similar, slab, k, left)
    rest = torch.cat([chosen[:0], *left])
    if len(rest) == 0 or len(gallery) == 0:
        return
    everything = torch.arange(len(gallery), device=chosen.device)
    ranking = RankingKeys(queries, gallery)
    for tile in ranking.tiles(rest):
        for indices, keys in ranking.parts(tile):
            yield indices, everything.expand(len(indices), -1), keys.masked_fill_(~among, EXCLUDED)


def _nearest(
    similar: Similarities, slab: Int64[Tensor, "b"], k: int, left: list[Tensor]
) -> Iterator[tuple[Int64[Tensor, "f"], Int64[Tensor, "f m"], Int32[Tensor, "f m"]]]:
    """Those of the queries for which it pays; the others are put into `left`."""
    most = int(NEAR * len(similar.gallery))
    floors, expected = similar.floors(
        slab, torch.full((len(slab),), -torch.inf, dtype=torch.float32), torch.full_like(slab, k)
    )
    left.append(slab[expected > most])
    slab, floors, expected = (values[expected <= most] for values in (slab, floors, expected))
    for group in groups(expected):
        near = similar.near(slab[group], floors[group])
        start, floor, query = near.start, floors[group].double().numpy(), np.arange(len(group))
        all_ = near.count < k
        # What is further behind the kth than both can be off is not among the nearest, nor tied with them.
        kth = 4.0 * query - near.places[np.where(all_, 0, start + k - 1)] if len(near.places) else floor
        end = np.where(all_, start + near.count, near.before(query, kth - 2 * similar.margin))
        enough = np.where(all_, np.isneginf(floor), kth > floor + 2 * similar.margin)
        count = end - start
        enough &= count <= most
        left.append(slab[group][torch.from_numpy(~enough)])
        # Those with about as many rows together: a few with many ties would have all others padded. A vote holds some
        # hundreds of bytes for each row.
        size = 2 ** np.ceil(np.log2(count.clip(min=1))).astype(np.int64)
        for padded in np.unique(size[enough]):
            together = np.flatnonzero(enough & (size == padded))
            for queries in np.array_split(together, -(-len(together) // part_height(4 * int(padded)))):
                part = slab[group][torch.from_numpy(queries)]
                yield part, *_padded(similar, part, near.columns, start[queries], count[queries])


def _padded(
    similar: Similarities, tile: Int64[Tensor, "b"], columns: np.ndarray, start: np.ndarray, count: np.ndarray
) -> tuple[Int64[Tensor, "b m"], Int32[Tensor, "b m"]]:
    """The rows from `start` on of each query, and their keys."""
    within = np.arange(max(1, int(count.max())))
    real = torch.from_numpy(within < count[:, None])
    columns = columns if len(columns) else np.zeros(1, dtype=np.int64)
    found = torch.from_numpy(columns[np.minimum(start[:, None] + within, len(columns) - 1)])
    return found, similar.keys(tile, found).masked_fill_(~real, EXCLUDED)
