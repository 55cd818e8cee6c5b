"""Which gallery rows a query may find, and which of them it should.

One rule, wherever rows are compared: **a gallery row of the query's own item is no candidate.** It goes by items, and
not by objects, so leave-one-out is the queries as their own gallery, an equal copy of them, or a gallery in which they
lie among others. A match is a candidate of the query's label, where that is known. Where rows of the query's label and
group are to be left out too, these are given one item.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Int64
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.errors import DataError

Items = TypeVar("Items", Tensor, np.ndarray)


def are_candidates(query_items: Items, row_items: Items) -> Items:
    """Whether rows may be found by queries, cell by cell."""
    candidates: Items = query_items != row_items
    return candidates


def groups_as_items(queries: Rows, gallery: Rows) -> tuple[Rows, Rows]:
    """The same rows with items that are equal for rows of one label and group as well.

    An image is of one label and group, so this is one relation: a row whose label or group is unknown keeps its item.

    Raises:
        DataError: where a side has no groups, or an item is of two labels or groups.
    """
    sides = [queries] if gallery is queries else [queries, gallery]
    for rows, name in zip(sides, ("queries", "gallery"), strict=False):
        if rows.groups is None or bool((rows.groups < 0).all()):
            raise DataError(
                f"there are no groups for the {name}, so exclude = 'same-group' leaves nothing out",
                help="give each row its group (camera, sequence, session), or leave that setting away",
            )
    labels, groups, items = (torch.cat([getattr(rows, key) for rows in sides]) for key in ("labels", "groups", "items"))
    numbered = [torch.unique(key, return_inverse=True)[1] for key in (labels, groups, items)]
    pairs = torch.unique(numbered[0] * len(groups) + numbered[1], return_inverse=True)[1]
    codes = torch.where((labels >= 0) & (groups >= 0), pairs, len(pairs) + numbered[2])
    least, most = (
        torch.zeros_like(items).scatter_reduce(0, numbered[2], codes, how, include_self=False)
        for how in ("amin", "amax")
    )
    if bool((torn := (least != most)[numbered[2]]).any()):
        raise DataError(
            f"rows of item {int(items[torn][0])} are of different labels or groups",
            help="an item is one image, of one label and one group: correct its rows",
        )
    made = [
        replace(rows, items=of)
        for rows, of in zip(sides, torch.split(codes, [len(rows) for rows in sides]), strict=True)
    ]
    return made[0], made[-1]


class ItemIndex:
    """Gallery rows by item, to find those that are no candidates without looking at the others."""

    def __init__(self, items: Int64[Tensor, "n"]) -> None:
        self._ordered, self._rows = items.sort()

    def own(self, items: Int64[Tensor, "b"]) -> tuple[Int64[Tensor, "pairs"], Int64[Tensor, "pairs"]]:
        """All pairs of a query, by its place among these, and a gallery row of its item."""
        begin, count = equal_range(items, self._ordered)
        query = torch.repeat_interleave(count)
        within = torch.arange(len(query), device=query.device) - (count.cumsum(0) - count)[query]
        return query, self._rows[begin[query] + within]


@dataclass(frozen=True, slots=True)
class LabelIndex:
    """The gallery rows that have the label of each query, those of its own item among them.

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
    def of(cls, queries: Int64[Tensor, "q"], gallery: Int64[Tensor, "n"]) -> LabelIndex:
        """From the labels of both sides."""
        ordered, columns = gallery.sort()
        return cls(queries, columns, *equal_range(queries, ordered))

    def queries_with_rows(self) -> Int64[Tensor, "_"]:
        """Queries of known label whose label the gallery has, by how often: a tile is padded to its last query's."""
        order = self.count.argsort()
        return order[((self.labels >= 0) & (self.count > 0))[order]]

    def rows(self, queries: Int64[Tensor, "b"]) -> tuple[Int64[Tensor, "b m"], Bool[Tensor, "b m"]]:
        """The gallery rows of their labels, and which are real: a query may have fewer than the others."""
        count = self.count[queries, None]
        within = torch.arange(int(count.max()), device=count.device)
        return self.columns[self.begin[queries, None] + within.minimum(count - 1)], within < count


def count_matches(queries: Rows, gallery: Rows) -> Int64[Tensor, "q"]:
    """How many candidates have the label of each query, known or not. No pair of rows is formed."""
    alike = equal_range(queries.labels, gallery.labels.sort().values)[1]
    shared = gallery.keys[torch.isin(gallery.items, queries.items)]
    labels, items = (
        torch.unique(torch.cat([getattr(queries, key), getattr(shared, key)]), return_inverse=True)[1]
        for key in ("labels", "items")
    )
    both = labels * len(items) + items
    own: Tensor = equal_range(both[: len(queries)], both[len(queries) :].sort().values)[1]
    return alike - own


def equal_range(
    values: Int64[Tensor, "b"], ordered: Int64[Tensor, "n"]
) -> tuple[Int64[Tensor, "b"], Int64[Tensor, "b"]]:
    """Where each value begins in the ordered ones, and how often it is there."""
    values = values.contiguous()
    begin = torch.searchsorted(ordered, values)
    return begin, torch.searchsorted(ordered, values, right=True) - begin
