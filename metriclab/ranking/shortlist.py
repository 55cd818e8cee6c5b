"""Similarities of queries to a whole gallery, roughly at once and exactly where it matters.

float32 products are off by little, and by how much is bounded: they settle all but a few rows, which are taken in
float64. A sample of the gallery tells from where on its rows are of interest to a query; one sweep over the gallery
makes a shortlist of those, and what is on it proves the guess or gives the query up to sorting everything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int32, Int64
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.ranking.candidates import ItemIndex, are_candidates
from metriclab.ranking.keys import EXCLUDED, PART_CELLS, STEP, TILE_CELLS, WIDE
from metriclab.ranking.workers import Spare, ieee_products, side_by_side

LONGEST = 1 / 8
"""Share of the gallery beyond which a shortlist is dearer than sorting everything."""

SAMPLED = 16
"""One in so many gallery rows is looked at to guess which similarities are among the best."""

_SIDE = 2**10
"""Most queries, and rows, whose products are taken at once: their cells stay in a cache until they are compared."""

_SWEPT = 2**32
"""Cells that are swept before something is handed out: some seconds, so that a bar moves."""

_DOTS = 2**20
"""Numbers of which float64 copies are held at a time, for products one by one."""

_Pairs = tuple[Int64[np.ndarray, "_"], Int64[np.ndarray, "_"], Float32[np.ndarray, "_"]]
"""Places of queries, columns and similarities."""


@dataclass(frozen=True, slots=True)
class Shortlist:
    """Candidates whose rough similarity is above the floor of a query, query by query, each one's best first.

    Attributes:
        columns: gallery rows.
        places: ascending, four times the place of the query less the similarity: what is beyond a similarity is
            found by bisection.
        count: rows of each query.
    """

    columns: Int64[np.ndarray, "p"]
    places: Float64[np.ndarray, "p"]
    count: Int64[np.ndarray, "b"]

    def before(self, query: Int64[np.ndarray, "m"], similarity: Float64[np.ndarray, "m"]) -> Int64[np.ndarray, "m"]:
        """How many of all rows stand before that similarity of that query."""
        place: np.ndarray = self.places.searchsorted(4.0 * query - similarity)
        return place

    def above(self, floor: Float64[np.ndarray, "b"]) -> Int64[np.ndarray, "b"]:
        """How many rows of each query are above a similarity."""
        count: np.ndarray = self.before(np.arange(len(floor)), floor) - self.start
        return count

    @property
    def start(self) -> Int64[np.ndarray, "b"]:
        """Where the rows of each query begin."""
        start: np.ndarray = self.count.cumsum() - self.count
        return start


class Similarities:
    """Of some queries to the rows of a gallery, on the CPU.

    Attributes:
        margin: what a rough similarity and that of the key of the same row may differ by at most.
        share: of the gallery rows that count, those in the sample.
    """

    def __init__(self, queries: Rows, gallery: Rows, among: Bool[Tensor, "n"] | None = None) -> None:
        self.queries, self.gallery = queries, gallery
        everything = torch.arange(len(gallery))
        self.columns = everything if among is None or bool(among.all()) else everything[among]
        self.small = gallery.z.numel() <= WIDE
        width = gallery.z.shape[1]
        # A sum of d products whose absolute values sum to at most one is off by less than d units, in any order
        # (Higham, Accuracy and Stability of Numerical Algorithms, 2002, section 3.1); four are for the rows' rounding,
        # one for that of `Shortlist.places`.
        self.margin = (width + 5) * 2.0**-24 + STEP
        # Drawn, so that no order of the gallery makes it one-sided; always the same.
        drawn = torch.randperm(len(self.columns), generator=torch.Generator().manual_seed(0))
        self.sampled = self.columns[drawn[: -(-len(drawn) // SAMPLED)]]
        self.share = len(self.sampled) / max(1, len(self.columns))
        self._sample = gallery.z[self.sampled].float()
        self._items = ItemIndex(gallery.items[self.sampled])

    def floors(
        self, chosen: Int64[Tensor, "b"], last: Float32[Tensor, "b"], least: Int64[Tensor, "b"] | None
    ) -> tuple[Float32[Tensor, "b"], Int64[Tensor, "b"]]:
        """From where on rows are of interest to each query, and how many these are, by the sample.

        Args:
            last: what is never of interest is below it.
            least: so many of the best rows are of interest; None for all above `last`.
        """
        height = max(1, PART_CELLS // max(1, len(self.sampled), self.gallery.z.shape[1]))
        floors, counts = [last[:0]], [chosen[:0]]
        for start in range(0, len(chosen), height):
            part = slice(start, start + height)
            similarities, floor = self._of_sample(chosen[part]), last[part]
            if least is None:
                count = (similarities > floor[:, None]).sum(1)
            else:
                guess, count = self._guess(similarities, least[part])
                floor = floor.maximum(guess)
            floors.append(floor)
            counts.append((count / self.share).ceil().long())
        return torch.cat(floors), torch.cat(counts)

    def _guess(
        self, similarities: Float32[Tensor, "b s"], least: Int64[Tensor, "b"]
    ) -> tuple[Float32[Tensor, "b"], Int64[Tensor, "b"]]:
        """What probably at least so many similarities of each query are above, and how many of the sample are."""
        expected, size = least.double() * self.share, similarities.shape[1]
        wanted = (expected + 3 * expected.sqrt() + 1).ceil().long().clamp(max=size)
        most = int(wanted.max())
        # The best of each few are nearly as good as the best of all, and found much sooner.
        few = max(1, min(8, size // (8 * most)))
        best = similarities[:, : size // few * few].view(len(similarities), few, -1).amax(1).topk(most, dim=1).values
        guess = best.gather(1, wanted[:, None] - 1).squeeze(1).masked_fill_(wanted == size, -torch.inf)
        return guess, wanted

    @torch.no_grad()
    def _of_sample(self, tile: Int64[Tensor, "b"]) -> Float32[Tensor, "b s"]:
        similarities = torch.empty(len(tile), len(self.sampled), dtype=torch.float32)
        # Into a buffer of its own type, which autocast leaves alone.
        with ieee_products:
            torch.mm(self.queries.z[tile].float(), self._sample.T, out=similarities)
        similarities[self._items.own(self.queries.items[tile])] = -torch.inf
        return similarities

    def shortlist(self, chosen: Int64[Tensor, "b"], floor: Float32[Tensor, "b"]) -> Shortlist:
        """The candidates that count and are above the floor of each chosen query."""
        query, column, similarity = _joined(list(_Sweep(self, chosen, floor).strips()))
        places = 4.0 * query - similarity
        order = places.argsort()
        return Shortlist(column[order], places[order], np.bincount(query, minlength=len(chosen)))

    def keys(self, queries: Int64[Tensor, "p"], columns: Int64[Tensor, "p m"]) -> Int32[Tensor, "p m"]:
        """The keys of some gallery rows for each query, as `RankingKeys` has them."""
        count, width = columns.shape[1], self.gallery.z.shape[1]
        parts = max(1, _DOTS // max(1, count * width))
        products = [
            (self.gallery.z[c].double() @ self.queries.z[q].double()[:, :, None]).squeeze(2)
            for q, c in zip(torch.split(queries, parts), torch.split(columns, parts), strict=True)
        ]
        own = ~are_candidates(self.queries.items[queries, None], self.gallery.items[columns])
        return (torch.cat(products) / -STEP).round_().int().masked_fill_(own, EXCLUDED)


class _Sweep:
    """What is above the floors of some queries in a whole gallery, block by block: products that stay in a cache."""

    def __init__(self, similarities: Similarities, chosen: Tensor, floor: Tensor) -> None:
        self.queries, self.gallery, self.chosen = similarities.queries, similarities.gallery, chosen
        self.columns, self.both = similarities.columns, 0
        if self.gallery is self.queries and similarities.small and len(self.columns) == len(self.gallery):
            # What is true of a pair is true of it the other way round: half of the products among the chosen will do.
            rest = torch.ones(len(self.gallery), dtype=torch.bool)
            rest[chosen] = False
            self.columns, self.both = torch.cat([chosen, rest.nonzero().squeeze(1)]), len(chosen)
        self.in_place = self.both == 0 and len(self.columns) == len(self.gallery)
        self.table: Tensor | None = None
        if similarities.small:
            self.table = (self.gallery.z if self.in_place else self.gallery.z[self.columns]).float()
        self.height = min(_SIDE, -(-len(chosen) // (4 * torch.get_num_threads())))
        self.width = max(1, min(_SIDE, PART_CELLS // self.height))
        self.named, self.floors = self.columns.numpy(), floor.numpy()
        self.asked, self.there = self.queries.items[chosen].numpy(), self.gallery.items[self.columns].numpy()
        # What a worker keeps would lie between what it frees, which could not be used again.
        cpu = torch.device("cpu")
        self.products, self.masks = Spare(torch.float32, cpu), Spare(torch.bool, cpu)
        self.gathered, self.converted = Spare(self.gallery.z.dtype, cpu), Spare(torch.float32, cpu)

    def strips(self) -> Iterator[_Pairs]:
        """All pairs above their floors, those of some queries at a time, in no order."""
        with ieee_products:
            starts = range(0, len(self.chosen), self.height)
            yield from side_by_side(self._strip, starts, torch.get_num_threads())

    @torch.no_grad()  # which a thread does not inherit
    def _strip(self, top: int) -> _Pairs:
        bottom, found = min(top + self.height, len(self.chosen)), []
        queries, cells = self.queries.z[self.chosen[top:bottom]].float(), self.height * self.width
        with self.products.take(cells) as products, self.masks.take(cells) as mask:
            for left in range(top if self.both else 0, len(self.columns), self.width):
                right = min(left + self.width, len(self.columns))
                similarities = products[: len(queries) * (right - left)].view(len(queries), right - left)
                with self._rows(left, right) as part:
                    values = torch.mm(queries, part.T, out=similarities).numpy()
                row, column, value = _above(values, self.floors[top:bottom, None], mask.numpy())
                found.append(self._candidates(row + top, column + left, value))
                first, last = max(left, bottom), min(right, self.both)
                if first < last:
                    others = values[:, first - left : last - left]
                    row, column, value = _above(others, self.floors[None, first:last], mask.numpy())
                    found.append(self._candidates(column + first, row + top, value))
        return _joined(found)

    @contextmanager
    def _rows(self, left: int, right: int) -> Iterator[Tensor]:
        """Some columns' gallery rows, in float32."""
        if self.table is not None:
            yield self.table[left:right]
            return
        shape = right - left, self.gallery.z.shape[1]
        with self.gathered.take(math.prod(shape)) as raw, self.converted.take(math.prod(shape)) as rounded:
            if self.in_place:
                part = self.gallery.z[left:right]
            else:
                part = torch.index_select(self.gallery.z, 0, self.columns[left:right], out=raw.view(shape))
            yield part if part.dtype == torch.float32 else rounded.view(shape).copy_(part)

    def _candidates(self, row: np.ndarray, column: np.ndarray, value: np.ndarray) -> _Pairs:
        candidate = are_candidates(self.asked[row], self.there[column])
        return row[candidate], self.named[column[candidate]], value[candidate]


def slab_height(gallery: int, each: int) -> int:
    """How many queries to sweep a gallery for at once, where so many numbers are kept for each of them."""
    return max(1, min(_SWEPT // max(1, gallery), TILE_CELLS // max(1, each)))


def portions(expected: Int64[Tensor, "b"]) -> list[Int64[Tensor, "_"]]:
    """Queries that follow each other, together as long as their shortlists are not expected to be too long."""
    which = expected.cumsum(0).div(PART_CELLS, rounding_mode="floor")
    return list(
        torch.split(torch.arange(len(expected)), torch.unique_consecutive(which, return_counts=True)[1].tolist())
    )


def ranges(start: Int64[np.ndarray, "r"], count: Int64[np.ndarray, "r"]) -> Int64[np.ndarray, "_"]:
    """start, start + 1, ... of each range, one range after the other."""
    end = count.cumsum()
    places: np.ndarray = np.arange(int(end[-1]) if len(end) else 0) + (start - end + count).repeat(count)
    return places


def _joined(parts: list[_Pairs]) -> _Pairs:
    query, column, value = (np.concatenate([part[i] for part in parts]) for i in range(3))
    return query, column, value


def _above(
    values: Float32[np.ndarray, "b n"], floors: Float32[np.ndarray, "#b #n"], mask: Bool[np.ndarray, "_"]
) -> _Pairs:
    """Rows, columns and values of what is above its floor; overwrites the mask, which is long enough for all values."""
    above = np.greater(values, floors, out=mask[: values.size].reshape(values.shape))
    row, column = np.divmod(np.flatnonzero(above), values.shape[1])
    return row, column, values[row, column]
