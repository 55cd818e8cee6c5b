"""Similarities of queries to a whole gallery, roughly at once and exactly where it matters.

float32 products are off by little, and by how much is bounded: they settle all but a few rows, which are taken in
float64. The nearest rows of each query are found in this way too.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from itertools import chain
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Int32, Int64
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.evaluators._ranking import (
    EXCLUDED,
    STEP,
    WIDE,
    check_finite,
    equal_pairs,
    in_threads,
    part_height,
    ranking_keys,
    tile_height,
)

NEAR = 1 / 8
"""Share of the gallery beyond which looking at rows one by one is dearer than sorting everything."""

SAMPLED = 16
"""One in so many similarities is looked at to guess which of them are the best."""

_DOTS = 2**20
"""Numbers of which float64 copies are held at a time, for products one by one."""


class Similarities:
    """Of some queries to all rows of a gallery, on the CPU.

    Attributes:
        margin: what a rough similarity and that of the key of the same row may differ by at most.
    """

    def __init__(self, queries: Rows, gallery: Rows) -> None:
        self.queries, self.gallery = queries, gallery
        self.items, self.columns = gallery.items.sort()
        self.single = gallery.z.float() if gallery.z.numel() <= WIDE else gallery.z
        width = gallery.z.shape[1]
        # A sum of d products whose absolute values sum to at most one is off by less than d units, in any order
        # (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1); four are for the rows' rounding.
        self.margin = (width + 4) * 2.0**-24 + STEP

    def rough(self, tile: Int64[Tensor, "b"]) -> Float32[np.ndarray, "b n"]:
        """In float32; minus infinity for rows of the query's own item, where the queries are the gallery."""
        # Into a buffer of its own type, which autocast leaves alone.
        similarities = torch.empty(len(tile), len(self.gallery), dtype=torch.float32)
        queries, height = self.queries.z[tile].float(), max(1, WIDE // max(1, self.single.shape[1]))
        for start in range(0, len(self.gallery), height):
            part = self.single[start : start + height].float()  # of a large gallery in float64, a copy
            with _ieee_products():
                torch.mm(queries, part.T, out=similarities[:, start : start + height])
        if self.gallery is self.queries:
            row, place = equal_pairs(self.queries.items[tile], self.items)
            similarities[row, self.columns[place]] = -torch.inf
        return similarities.numpy()

    def keys(self, queries: Int64[Tensor, "p"], columns: Int64[Tensor, "p m"]) -> Int32[Tensor, "p m"]:
        """The keys of some gallery rows for each query, as `ranking_keys` has them."""
        count, width = columns.shape[1], self.gallery.z.shape[1]
        parts = max(1, _DOTS // (count * width))
        products = [
            (self.gallery.z[c].double() @ self.queries.z[q].double()[:, :, None]).squeeze(2)
            for q, c in zip(torch.split(queries, parts), torch.split(columns, parts), strict=True)
        ]
        return (torch.cat(products) / -STEP).round_().int()


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
    left, asked, missed = [chosen[:0]], 0, 0
    # Screening lives on a CPU's caches; a GPU sorts fast.
    pays = chosen.device.type == "cpu" and 2 * k <= NEAR * len(gallery)
    similar = Similarities(queries, gallery) if pays else None
    for tile in torch.split(chosen, tile_height(max(1, len(gallery)))):
        if similar is None or 2 * missed > asked:
            left.append(tile)
            continue
        near = _near(similar.rough(tile), similar.margin, k, among)
        few = torch.tensor([columns is not None for columns in near], dtype=torch.bool)
        left.append(tile[~few])
        asked, missed = asked + len(tile), missed + len(left[-1])
        kept = [columns for columns in near if columns is not None]
        height = part_height(len(gallery))
        for start in range(0, len(kept), height):
            part = tile[few][start : start + height]
            yield part, *_padded(similar, part, kept[start : start + height])
    everything = torch.arange(len(gallery), device=chosen.device)
    for indices, keys in ranking_keys(queries, gallery, torch.cat(left)):
        yield indices, everything.expand(len(indices), -1), keys.masked_fill_(~among, EXCLUDED)


def _near(
    similarities: Float32[np.ndarray, "b n"], margin: float, k: int, among: Bool[Tensor, "n"]
) -> list[np.ndarray | None]:
    """For each row, the columns of its k largest values and of all that may tie with the last; None for too many."""
    most = int(NEAR * len(among))
    if not bool(among.all()):
        similarities[:, ~among.numpy()] = -np.inf
    work = in_threads(lambda part: [_near_one(similarities[i], margin, k, most) for i in span(part)], len(similarities))
    return list(chain.from_iterable(work))


def _near_one(similarities: np.ndarray, margin: float, k: int, most: int) -> np.ndarray | None:
    for bound in bounds(similarities, k, largest=True):
        floor = float(bound)
        (columns,) = (similarities > np.float32(floor)).nonzero()
        if np.count_nonzero(similarities[columns] > floor + 2 * margin) >= k:
            break
    else:
        (columns,) = (similarities > -np.inf).nonzero()
    return columns if len(columns) <= most else None


def _padded(
    similar: Similarities, tile: Int64[Tensor, "b"], near: list[np.ndarray]
) -> tuple[Int64[Tensor, "b m"], Int32[Tensor, "b m"]]:
    counts = torch.tensor([len(columns) for columns in near])
    real = torch.arange(max(1, int(counts.max()))) < counts[:, None]
    columns = torch.zeros(real.shape, dtype=torch.int64)
    columns[real] = torch.from_numpy(np.concatenate(near))
    return columns, similar.keys(tile, columns).masked_fill_(~real, EXCLUDED)


def bounds(values: np.ndarray, least: int, *, largest: bool = False) -> Iterator[Any]:
    """From tight to loose, what probably at least so many of the values are not above; or not below, of the largest."""
    sample = -values[::SAMPLED] if largest else values[::SAMPLED]
    wanted = 2 * least // SAMPLED + 4
    while wanted < len(sample):
        bound = np.partition(sample, wanted - 1)[wanted - 1]
        yield -bound if largest else bound
        wanted *= 4


@contextmanager
def _ieee_products() -> Iterator[None]:
    """Products in float32 whatever somebody has set, as by `torch.set_float32_matmul_precision`."""
    products: Any = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]
    before = products.fp32_precision
    products.fp32_precision = "ieee"
    try:
        yield
    finally:
        products.fp32_precision = before


def span(part: slice) -> range:
    """The indices of a slice."""
    return range(part.start, part.stop)
