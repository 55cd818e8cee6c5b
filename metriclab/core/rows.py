"""Rows: N embeddings on the unit sphere, each with its label and its identity.

Batches, batches gathered from other ranks, memories and class proxies all are Rows; a loss never learns which.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from metriclab import distributed

ZERO_NORM = 1e-6
"""A row shorter than this has no direction: it becomes a zero row with zero gradient."""

_STEP_SHIFT, _POSITION_SHIFT = 32, 8
_RANK_SHIFT = 40
_next_id, _lock = 1, threading.Lock()


@dataclass(frozen=True, slots=True)
class Keys:
    """What is known of N rows besides their embeddings.

    Attributes:
        labels: equal labels are alike; a negative label is unknown, neither positive nor negative to any row.
        items: index of the image in its data set; proxies have negative items.
        ids: one occurrence of a row. Equal ids are one and the same row, wherever they are met.
        views: which view of the item the row embeds.
    """

    labels: Int64[Tensor, "n"]
    items: Int64[Tensor, "n"]
    ids: Int64[Tensor, "n"]
    views: Int64[Tensor, "n"]

    def __len__(self) -> int:
        return self.labels.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Keys:
        return Keys(self.labels[index], self.items[index], self.ids[index], self.views[index])


@dataclass(frozen=True, slots=True)
class Rows:
    """N embedded rows. Make them with `rows`, which keeps the contract that every `z` has norm 1 (or is zero).

    Attributes:
        z: unit embeddings.
        labels, items, ids, views: see `Keys`.
    """

    z: Float[Tensor, "n d"]
    labels: Int64[Tensor, "n"]
    items: Int64[Tensor, "n"]
    ids: Int64[Tensor, "n"]
    views: Int64[Tensor, "n"]

    @property
    def keys(self) -> Keys:
        return Keys(self.labels, self.items, self.ids, self.views)

    @property
    def embedding_dim(self) -> int:
        """Number of dimensions d."""
        return self.z.shape[1]

    def __len__(self) -> int:
        return self.z.shape[0]

    def __getitem__(self, index: slice | Tensor) -> Rows:
        return Rows(self.z[index], self.labels[index], self.items[index], self.ids[index], self.views[index])

    def detach(self) -> Rows:
        """The same rows without a gradient."""
        return Rows(self.z.detach(), self.labels, self.items, self.ids, self.views)


def rows(
    z: Float[Tensor, "n d"],
    labels: Int64[Tensor, "n"],
    items: Int64[Tensor, "n"] | None = None,
    ids: Int64[Tensor, "n"] | None = None,
    views: Int64[Tensor, "n"] | None = None,
) -> Rows:
    """Rows from raw embeddings: normalised in float32 or better, with fresh ids unless some are given.

    Args:
        z: raw embeddings of any length; half precision is raised to float32 first.
        labels: negative for unknown.
        items: default to positions 0..n-1. Give them where rows of several ranks or data sets will meet in retrieval.
        ids: default to ids that no other call in any rank of this run gives.
        views: default to 0.

    Raises:
        ValueError: where the lengths disagree.
    """
    n = z.shape[0]
    for name, key in (("labels", labels), ("items", items), ("ids", ids), ("views", views)):
        if key is not None and key.shape != (n,):
            raise ValueError(f"{name} has shape {tuple(key.shape)}, expected ({n},): one for each row of z")
    return Rows(
        normalize(z),
        labels,
        torch.arange(n, device=z.device) if items is None else items,
        _fresh_ids(n, z.device) if ids is None else ids,
        torch.zeros_like(labels) if views is None else views,
    )


def normalize(z: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
    """Rows of norm 1, in float32 or better. A row shorter than `ZERO_NORM` becomes zero, with zero gradient."""
    z = wide(z)
    norm = torch.linalg.vector_norm(z.detach(), dim=1, keepdim=True)
    finite = norm.isfinite()
    alive = finite & (norm >= ZERO_NORM)
    # Both branches of a `where` are differentiated: the others go in as ones so that none yields a NaN gradient.
    safe = torch.where(alive, z, torch.ones_like(z))
    unit = safe / torch.linalg.vector_norm(safe, dim=1, keepdim=True)
    # A row that is not finite, or too long to measure, becomes NaN, so that divergence is seen and not hidden.
    return torch.where(alive, unit, torch.zeros_like(z).masked_fill(~finite, torch.nan))


def wide(z: Tensor, *others: Tensor) -> Tensor:
    """The tensor in float32, or in float64 where it or another one is: what losses and metrics compute in."""
    dtype = torch.float64 if any(t.dtype == torch.float64 for t in (z, *others)) else torch.float32
    return z.to(dtype)


def concatenate(parts: Sequence[Rows]) -> Rows:
    """Rows of all parts, in their order."""
    return Rows(
        torch.cat([part.z for part in parts]),
        torch.cat([part.labels for part in parts]),
        torch.cat([part.items for part in parts]),
        torch.cat([part.ids for part in parts]),
        torch.cat([part.views for part in parts]),
    )


def pack_ids(step: int, positions: Int64[Tensor, "n"], view: int) -> Int64[Tensor, "n"]:
    """One id for each occurrence in a run: step (31 bits), position in the global batch (24), view (8)."""
    if not (0 <= step < 2**31 and 0 <= view < 2**8):
        raise ValueError(f"step {step} or view {view} does not fit an id: step < 2^31, view < 256")
    return (step << _STEP_SHIFT) + (positions << _POSITION_SHIFT) + view


def count_positives(anchors: Rows, references: Rows) -> Int64[Tensor, "n"]:
    """For each anchor, how many references are alike and not the anchor itself. O((B + M) log B), no pair is formed."""
    known = references.labels >= 0
    alike = _count_equal(anchors.labels, references.labels, known)
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


def _fresh_ids(n: int, device: torch.device) -> Int64[Tensor, "n"]:
    # Negative, so that they never meet the ids of a run; the rank keeps two processes apart.
    with _lock:
        global _next_id
        start, _next_id = _next_id, _next_id + n
    return -(torch.arange(start, start + n, device=device) + (distributed.rank() << _RANK_SHIFT))
