"""Every query against the whole gallery, exactly, in memory that does not grow with the number of queries.

A gallery row is ranked by an integer, its distance in steps of 2^-20: -round(similarity * 2^20). Ascending keys are a
ranking, best first, and equal similarities are equal keys whatever the order of rows or the kernel that multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Float64, Int32, Int64
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.errors import DivergedError
from metriclab.ranking.candidates import ItemIndex
from metriclab.ranking.workers import Spare, in_threads

STEP = 2.0**-20
"""Similarities are told apart in multiples of this."""

EXCLUDED = 2**30 - 1
"""The key of a row that is not in the gallery of this query: behind all others."""

TILE_CELLS = 2**23
"""Cells whose similarities are taken at once: 32 MB of keys."""

LEAST_HEIGHT = 32
"""Queries that are taken at once though their cells be up to four times as many, or half of it by each of several
workers: fewer are not worth reading a large gallery for."""

PART_CELLS = 2**21
"""Cells that are handed out at once, by all workers together: what follows may hold a hundred bytes for each. Also
numbers of embeddings that are copied at once."""

_COLUMNS = 2**10

WIDE = 2**25
"""Numbers of a gallery up to which a copy of it in another precision is kept: 256 MB in float64."""


class RankingKeys:
    """The keys of all gallery rows for each query, a few queries at a time, by one worker or several side by side."""

    def __init__(self, queries: Rows, gallery: Rows, order: Int64[Tensor, "n"] | None = None, workers: int = 1) -> None:
        """
        Args:
            gallery: rows to rank; those of the query's own item get `EXCLUDED`.
            order: of the gallery rows; their own if None.
            workers: that take tiles at the same time, of `workers_for` these rows at most.
        """
        self._queries, self._workers = queries, workers
        self._z, self._order = gallery.z, order
        self._items = ItemIndex(gallery.items if order is None else gallery.items[order])
        kept = self._z.numel() <= WIDE
        self._blocks = [self._block(columns).contiguous() for columns in self._slices()] if kept else None
        self._spare = Spare(torch.int32, gallery.z.device)

    def tiles(self, chosen: Int64[Tensor, "q"]) -> list[Int64[Tensor, "b"]]:
        """The chosen queries in their order, as many together as one worker takes at once."""
        rows, width = self._z.shape
        least = min(LEAST_HEIGHT, 4 * TILE_CELLS // rows) // min(self._workers, 2)
        height = max(1, TILE_CELLS // rows // max(1, self._workers // 4), least)
        return list(torch.split(chosen, min(height, max(1, PART_CELLS // max(1, width)))))

    @torch.no_grad()  # which a thread does not inherit
    def parts(
        self, tile: Int64[Tensor, "b"], width: int | None = None
    ) -> Iterator[tuple[Int64[Tensor, "p"], Int32[Tensor, "p n"]]]:
        """The queries of a tile, a few at a time, and their keys, which may be overwritten and later will be.

        Args:
            width: how many keys of a query are worked with; all if None.
        """
        with self._spare.take(len(tile) * len(self._z)) as cells:
            keys = cells.view(len(tile), len(self._z))
            self._fill(keys, tile)
            height = max(1, part_height(len(self._z) if width is None else width) // self._workers)
            yield from zip(torch.split(tile, height), torch.split(keys, height), strict=True)

    def _fill(self, keys: Int32[Tensor, "b n"], tile: Int64[Tensor, "b"]) -> None:
        # In float64 all kernels agree on the rounded similarity; in float32 the shape of a tile could break a tie.
        scaled = self._queries.z[tile].double() / -STEP
        products = scaled.new_empty(len(tile) * min(_COLUMNS, len(self._z)))
        for i, columns in enumerate(self._slices()):
            block = self._block(columns) if self._blocks is None else self._blocks[i]
            cells = products[: len(tile) * block.shape[1]].view(len(tile), -1)
            keys[:, columns] = torch.mm(scaled, block, out=cells).round_()
        keys[self._items.own(self._queries.items[tile])] = EXCLUDED

    def _slices(self) -> list[slice]:
        return [slice(start, start + _COLUMNS) for start in range(0, len(self._z), _COLUMNS)]

    def _block(self, columns: slice) -> Float64[Tensor, "d c"]:
        """Some gallery rows in the order given, each of them a column."""
        return self._z[columns if self._order is None else self._order[columns]].double().T


def workers_for(gallery: Rows) -> int:
    """How many may take tiles side by side: one a core, if each then still has a row of what is handed out at once."""
    threads = torch.get_num_threads() if gallery.z.device.type == "cpu" else 1
    return threads if threads * len(gallery) <= PART_CELLS else 1


def part_height(gallery: int) -> int:
    """How many queries to hand out at once against so many rows."""
    return max(1, PART_CELLS // gallery)


def sort_rows(keys: Int32[Tensor, "b n"]) -> Int32[Tensor, "b n"]:
    """Each row ascending. May overwrite its input."""
    if keys.device.type != "cpu":
        return keys.sort(dim=1).values
    # numpy sorts integers with vector instructions, about nine times faster than torch does on a CPU.
    in_threads(lambda part: keys[part].numpy().sort(axis=1), len(keys))
    return keys


def check_finite(z: Float[Tensor, "n d"], name: str) -> None:
    """Raises a DivergedError where an embedding of these rows is not finite."""
    parts = torch.split(z, max(1, PART_CELLS // max(1, z.shape[1])))
    broken = sum(int((~part.isfinite().all(dim=1)).sum()) for part in parts)
    if broken:
        raise DivergedError(
            f"{broken} of {len(z)} embeddings of the {name} are not finite (NaN or infinite): they have no ranking",
            help="train with a lower learning rate or clip gradients, or look for broken values in the input",
        )
