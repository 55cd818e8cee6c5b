"""Every query against the whole gallery, exactly, in memory that does not grow with the number of queries.

A gallery row is ranked by an integer, its distance in steps of 2^-20: -round(similarity * 2^20). Ascending keys are a
ranking, best first, and equal similarities are equal keys whatever the order of rows or the kernel that multiplied.
"""

from __future__ import annotations

from collections.abc import Iterator

import torch
from jaxtyping import Float, Int32, Int64
from torch import Tensor

from metriclab.core.errors import DivergedError
from metriclab.core.rows import Rows
from metriclab.evaluators._workers import in_threads

STEP = 2.0**-20
"""Similarities are told apart in multiples of this."""

EXCLUDED = 2**30 - 1
"""The key of a row that is not in the gallery of this query: behind all others."""

TILE_CELLS = 2**23
"""Cells whose similarities are taken at once: 32 MB of keys."""

LEAST_HEIGHT = 32
"""Queries that are taken at once though their cells be up to four times as many: fewer are not worth reading a large
gallery for."""

PART_CELLS = 2**21
"""Cells that are handed out at once: what follows may hold a hundred bytes for each."""

_COLUMNS = 2**10

WIDE = 2**25
"""Numbers of a gallery up to which a copy of it in another precision is kept: 256 MB in float64."""


def ranking_keys(
    queries: Rows, gallery: Rows, chosen: Int64[Tensor, "q"]
) -> Iterator[tuple[Int64[Tensor, "b"], Int32[Tensor, "b n"]]]:
    """The chosen queries in their order, a few at a time: their indices and the keys of all gallery rows.

    The keys live in a buffer that the next tile overwrites.

    Args:
        gallery: the same object as `queries` for leave-one-out, where rows of the query's item get `EXCLUDED`.
        chosen: indices of queries.

    Raises:
        DivergedError: where an embedding is not finite.
    """
    for rows, name in ((queries, "queries"), (gallery, "gallery")):
        check_finite(rows.z, name)
    if len(chosen) == 0 or len(gallery) == 0:
        return
    height = tile_height(len(gallery))
    buffer = torch.empty(min(height, len(chosen)), len(gallery), dtype=torch.int32, device=chosen.device)
    items, columns = gallery.items.sort()
    z = gallery.z.double() if gallery.z.numel() <= WIDE else gallery.z
    for tile in torch.split(chosen, height):
        _fill_keys(buffer, queries.z[tile], z)
        parts = (torch.split(side, part_height(len(gallery))) for side in (tile, buffer[: len(tile)]))
        for indices, keys in zip(*parts, strict=True):
            if gallery is queries:
                row, place = equal_pairs(queries.items[indices], items)
                keys[row, columns[place]] = EXCLUDED
            yield indices, keys


def tile_height(gallery: int) -> int:
    """How many queries to take at once against so many rows."""
    return max(1, TILE_CELLS // gallery, min(LEAST_HEIGHT, 4 * TILE_CELLS // gallery))


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


def equal_range(
    values: Int64[Tensor, "b"], ordered: Int64[Tensor, "n"]
) -> tuple[Int64[Tensor, "b"], Int64[Tensor, "b"]]:
    """Where each value begins in the ordered ones, and how often it is there."""
    begin = torch.searchsorted(ordered, values)
    return begin, torch.searchsorted(ordered, values, right=True) - begin


def equal_pairs(
    values: Int64[Tensor, "b"], ordered: Int64[Tensor, "n"]
) -> tuple[Int64[Tensor, "pairs"], Int64[Tensor, "pairs"]]:
    """All (i, j) with values[i] == ordered[j]."""
    begin, count = equal_range(values, ordered)
    i = torch.repeat_interleave(count)
    within = torch.arange(len(i), device=i.device) - (count.cumsum(0) - count)[i]
    return i, begin[i] + within


def check_finite(z: Float[Tensor, "n d"], name: str) -> None:
    """Raises a DivergedError where an embedding of these rows is not finite."""
    parts = torch.split(z, max(1, PART_CELLS // max(1, z.shape[1])))
    broken = sum(int((~part.isfinite().all(dim=1)).sum()) for part in parts)
    if broken:
        raise DivergedError(
            f"{broken} of {len(z)} embeddings of the {name} are not finite (NaN or infinite): they have no ranking",
            help="train with a lower learning rate or clip gradients, or look for broken values in the input",
        )


def _fill_keys(keys: Int32[Tensor, "_b n"], queries: Float[Tensor, "b d"], gallery: Float[Tensor, "n d"]) -> None:
    # In float64 all kernels agree on the rounded similarity; in float32 the shape of a tile could break a tie.
    scaled = queries.double() / -STEP
    products = scaled.new_empty(len(queries) * min(_COLUMNS, len(gallery)))
    for start in range(0, len(gallery), _COLUMNS):
        part = gallery[start : start + _COLUMNS].double()
        tile = products[: len(queries) * len(part)].view(len(queries), len(part))
        keys[: len(queries), start : start + _COLUMNS] = torch.mm(scaled, part.T, out=tile).round_()
