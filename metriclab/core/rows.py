"""Rows: N embeddings on the unit sphere, each with its label and its identity.

Batches, batches gathered from other ranks, memories and class proxies all are Rows; a loss never learns which.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from metriclab.core.fresh_numbers import fresh_numbers

Table = TypeVar("Table", "Keys", "Rows")
Labels = Tensor | np.ndarray | Collection[int]
"""One integer a row: a tensor or array of any integer type, or a list. A negative one is unknown."""

_ORDINARY = 2.0**50
"""Rows whose largest number is beyond this, or below its inverse, are scaled before their squares are summed."""

_STEP_SHIFT, _POSITION_SHIFT = 32, 8
_FIRST_FRESH_ITEM = 2**62  # beyond the indices of any data set


@dataclass(frozen=True, slots=True)
class Keys:
    """What is known of N rows besides their embeddings.

    Attributes:
        labels: equal labels are alike; a negative label is unknown, neither positive nor negative to any row.
        items: index of the image in its data set; proxies have negative items.
        ids: one occurrence of a row. Equal ids are one and the same row, wherever they are met.
        views: which view of the item the row embeds.
        groups: what makes two rows of one class too easy a match (camera, sequence, session); negative for unknown,
            None where no row has one. Where both sides of a loss have groups, two rows of one class and group are no
            pair.
        categories: coarser classes, likewise.
    """

    labels: Int64[Tensor, "n"]
    items: Int64[Tensor, "n"]
    ids: Int64[Tensor, "n"]
    views: Int64[Tensor, "n"]
    groups: Int64[Tensor, "n"] | None = None
    categories: Int64[Tensor, "n"] | None = None

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Keys:
        return _by_column(lambda column: column[index], self)


@dataclass(frozen=True, slots=True)
class Rows:
    """N embedded rows. Make them with `rows`, which keeps the contract that every `z` has norm 1 (or is zero).

    Attributes:
        z: unit embeddings.
        labels, items, ids, views, groups, categories: see `Keys`.
    """

    z: Float[Tensor, "n d"]
    labels: Int64[Tensor, "n"]
    items: Int64[Tensor, "n"]
    ids: Int64[Tensor, "n"]
    views: Int64[Tensor, "n"]
    groups: Int64[Tensor, "n"] | None = None
    categories: Int64[Tensor, "n"] | None = None

    @property
    def keys(self) -> Keys:
        return Keys(self.labels, self.items, self.ids, self.views, self.groups, self.categories)

    @property
    def embedding_dim(self) -> int:
        """Number of dimensions d."""
        return self.z.shape[1]

    def __len__(self) -> int:
        return self.z.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Rows:
        return _by_column(lambda column: column[index], self)

    def detach(self) -> Rows:
        """The same rows without a gradient."""
        return replace(self, z=self.z.detach())


def rows(
    z: Float[Tensor, "n d"],
    labels: Labels,
    items: Int64[Tensor, "n"] | None = None,
    ids: Int64[Tensor, "n"] | None = None,
    views: Int64[Tensor, "n"] | None = None,
    groups: Int64[Tensor, "n"] | None = None,
    categories: Int64[Tensor, "n"] | None = None,
) -> Rows:
    """Rows from raw embeddings: normalised in float32 or better, with fresh ids unless some are given.

    The same tensor given again, unchanged since, is the same rows: it gets the same fresh items and ids. A copy of it
    cannot be told from other rows that happen to be equal: make rows once, and pass them on.

    Args:
        z: raw embeddings of any length, on any device; half precision is raised to float32 first.
        labels: one integer a row, equal for rows that are alike; negative for unknown. They go to the device of z.
        items: default to items that no other tensor in any rank of this run gets, and no image of a data set has.
        ids: default to ids that no other tensor in any rank of this run gets.
        views: default to 0.
        groups, categories: see `Keys`.

    Raises:
        ValueError: where the lengths disagree, or labels are not integers.

    Example:
        >>> batch = rows(torch.randn(4, 8), [0, 0, 1, 1])
        >>> len(batch), batch.embedding_dim
        (4, 8)
    """
    if z.dim() != 2:
        raise ValueError(f"z has shape {tuple(z.shape)}, expected (n, d): a row for each embedding")
    n = z.shape[0]
    labels = as_labels(labels).to(z.device)
    given = {"items": items, "ids": ids, "views": views, "groups": groups, "categories": categories}
    for name, key in {"labels": labels, **given}.items():
        if key is not None and key.shape != (n,):
            raise ValueError(f"{name} has shape {tuple(key.shape)}, expected ({n},): one for each row of z")
    fresh = fresh_numbers(z) if items is None or ids is None else torch.empty(0)
    return Rows(
        normalize(z),
        labels,
        fresh + _FIRST_FRESH_ITEM if items is None else items,
        -fresh if ids is None else ids,  # negative, so that they never meet the ids of a run
        torch.zeros_like(labels) if views is None else views,
        groups,
        categories,
    )


def as_labels(labels: Labels) -> Int64[Tensor, "_n"]:
    """Labels as int64.

    Raises:
        ValueError: for any that are not integers, saying how to encode them.
    """
    if not isinstance(labels, Tensor):
        array = np.asarray(labels)
        if array.size and array.dtype.kind not in "iu":
            raise _no_integers(array.dtype.name, "np.unique(labels, return_inverse=True)[1]")
        labels = torch.from_numpy(array.astype(np.int64))
    if labels.is_floating_point() or labels.is_complex() or labels.dtype == torch.bool:
        raise _no_integers(str(labels.dtype), "torch.unique(labels, return_inverse=True)[1]")
    return labels.long()


def _no_integers(dtype: str, way: str) -> ValueError:
    return ValueError(f"labels are {dtype}, expected integers: number the classes, as labels = {way} does")


def normalize(z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of norm 1, in float32 or better, however short or long they are. A zero row stays zero, with zero gradient.

    A row that is not finite becomes NaN, so that divergence is seen and not hidden.
    """
    z = wide(z)
    largest = torch.linalg.vector_norm(z.detach(), math.inf, dim=1, keepdim=True)
    alive = largest.isfinite() & (largest > 0)
    tiny = torch.finfo(z.dtype).tiny
    extreme = (largest > _ORDINARY) | (largest < 1 / _ORDINARY)
    # The squares of such a row would leave the range of the numbers. Times 1 the others keep their bits.
    scale = torch.where(extreme, 1 / largest.clamp(tiny, 1 / tiny), 1.0)
    # Both branches of a `where` are differentiated: the others go in as ones so that none yields a NaN gradient.
    safe = torch.where(alive, z * scale, 1.0)
    unit = safe / torch.linalg.vector_norm(safe, dim=1, keepdim=True)
    return torch.where(alive, unit, torch.where(largest == 0, 0.0, torch.nan))


def wide(z: Tensor, *others: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it or another one is: what losses and metrics compute in."""
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in (z, *others)) else torch.float32
    return z.to(dtype)


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Rows of all parts, in their order. Where some have groups or categories, those of the others are unknown."""
    return _by_column(lambda *columns: torch.cat(columns), *parts)


def _by_column(function: Callable[..., Tensor], *tables: Table) -> Table:
    """One table, each of its columns made of those of the tables; one that none of them has stays away."""
    columns = {}
    for name in (field.name for field in fields(tables[0])):
        given = [getattr(table, name) for table in tables]
        if any(column is not None for column in given):
            whole = [torch.full_like(t.labels, -1) if c is None else c for t, c in zip(tables, given, strict=True)]
            columns[name] = function(*whole)
    return type(tables[0])(**columns)


def pack_ids(step: int, positions: Int64[Tensor, "n"], view: int) -> Int64[Tensor, "n"]:
    """One id for each occurrence in a run: step (31 bits), position in the global batch (24), view (8)."""
    if not (0 <= step < 2**31 and 0 <= view < 2**8):
        raise ValueError(f"step {step} or view {view} does not fit an id: step < 2^31, view < 256")
    return (step << _STEP_SHIFT) + (positions << _POSITION_SHIFT) + view


def count_positives(anchors: Rows, references: Rows) -> Int64[Tensor, "n"]:
    """For each anchor, how many references are alike and not the anchor itself, nor of its group where both sides have
    groups. O((B + M) log B), no pair is formed."""
    known, n = references.labels >= 0, len(anchors)
    alike = _count_equal(anchors.labels, references.labels, known)
    if anchors.groups is not None and references.groups is not None:
        labels, groups = torch.cat([anchors.labels, references.labels]), torch.cat([anchors.groups, references.groups])
        codes = torch.unique(torch.stack([labels, groups]), dim=1, return_inverse=True)[1]
        near = _count_equal(codes[:n], codes[n:], known & (references.groups >= 0))
        alike, known = alike - torch.where(anchors.groups >= 0, near, 0), known & (references.groups < 0)
    itself = _count_equal(anchors.ids, references.ids, known)
    return torch.where(anchors.labels >= 0, alike - itself, 0)


def _count_equal(
    keys: Int64[Tensor, "n"], others: Int64[Tensor, "m"], counted: Bool[Tensor, "m"]
) -> Int64[Tensor, "n"]:
    """For each key, how many of the others that count are equal to it. Only the keys are sorted: they are few."""
    if len(keys) == 0:
        return torch.zeros_like(keys)
    ordered = keys.sort().values
    place = torch.searchsorted(ordered, others).clamp(max=len(keys) - 1)
    found = (ordered[place] == others) & counted
    counts = torch.zeros_like(keys).index_add_(0, place, found.long())
    return counts[torch.searchsorted(ordered, keys)]
