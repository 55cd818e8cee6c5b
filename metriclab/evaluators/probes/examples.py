"""Which rows a classifier on frozen embeddings is fitted to, and which it is measured on.

Every choice goes by a hash of a row's item within its class, so the order of the rows cannot change it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from metriclab.core.random import absorb
from metriclab.core.rows import Rows
from metriclab.ranking.keys import check_finite

_HALVES, _SHARE, _INNER, _ORDER = range(4)

INNER = 0.2
"""Share of the fitting items of each class that is held out to choose a classifier's settings."""


@dataclass(frozen=True, slots=True)
class Examples:
    """Embeddings with dense labels: the index of each label among the classes of the fitting rows.

    Attributes:
        x: embeddings, each dimension with mean 0 and standard deviation 1 over the fitting rows.
        y: dense labels.
        inner: rows held out to choose settings; none of a class with a single item.
    """

    x: Float[Tensor, "n d"]
    y: Int64[Tensor, "n"]
    inner: Bool[Tensor, "n"]


@dataclass(frozen=True, slots=True)
class Task:
    """A classification task made of queries and a gallery.

    Attributes:
        fit: examples to fit.
        classes: the label of each dense label, sorted.
        x: embeddings of the queries to measure, scaled as those of `fit` are.
        y: their dense labels.
        places: their indices among the queries.
        left_out: queries of known label that can be neither measured nor fitted: no other row has their class.
    """

    fit: Examples
    classes: Int64[Tensor, "c"]
    x: Float[Tensor, "m d"]
    y: Int64[Tensor, "m"]
    places: Int64[Tensor, "m"]
    left_out: Bool[Tensor, "q"]


def task(queries: Rows, gallery: Rows, share: float) -> Task | None:
    """The task, or None where there is nothing to fit or to measure.

    Args:
        queries: rows to measure.
        gallery: rows to fit, but for those of items that are measured.
        share: of the fitting rows of each class, at least one.

    Raises:
        DivergedError: where an embedding is not finite.
    """
    for rows, name in ((queries, "queries"), (gallery, "gallery")):
        check_finite(rows.z, name)
    kept, asked = divide(queries, gallery)
    numbered = _numbered(gallery)
    candidates = kept & (gallery.labels >= 0)
    measured = asked & torch.isin(queries.labels, gallery.labels[candidates])
    left_out = (queries.labels >= 0) & ~measured & ~torch.isin(queries.items, gallery.items[candidates])
    fit = candidates & _first(numbered, candidates, share, _SHARE)
    if not (bool(fit.any()) and bool(measured.any())):
        return None
    # In an order of their own, so that sums and shuffles are those of the items and not of the rows.
    rows, places = numbered[fit], measured.nonzero().squeeze(1)
    rows = rows[_hash(rows.items, _ORDER).argsort(stable=True)]
    classes, y = torch.unique(rows.labels, return_inverse=True)
    mean, scale = _standard(rows.z)
    inner, _ = _cut(rows, torch.ones_like(y, dtype=torch.bool), INNER, _INNER)
    examples = Examples((rows.z - mean) / scale, y, inner)
    x = (queries.z[places] - mean) / scale
    return Task(examples, classes, x, torch.searchsorted(classes, queries.labels[places]), places, left_out)


def divide(queries: Rows, gallery: Rows) -> tuple[Bool[Tensor, "n"], Bool[Tensor, "q"]]:
    """Which gallery rows to keep, and which queries of known label to measure, so that they have no item in common.

    Of each class, the items that both sides have are cut in two halves, the one to keep an item larger where their
    number is odd; a class of a single such item is in neither, unless it has rows of other items in the gallery.
    """
    shared = torch.isin(gallery.items, queries.items)
    first, _ = _cut(_numbered(gallery), shared & (gallery.labels >= 0), 0.5, _HALVES)
    kept = ~shared | first
    there = gallery.keys[kept]
    alone = ~torch.isin(queries.items, gallery.items)
    asked = (queries.labels >= 0) & ~torch.isin(queries.items, there.items)
    return kept, asked & (alone | torch.isin(queries.labels, there.labels))


def _numbered(rows: Rows) -> Rows:
    """Rows with the ranks of their items, so that choices do not depend on how these are numbered."""
    return replace(rows, items=torch.unique(rows.items, return_inverse=True)[1])


def _cut(
    rows: Rows, among: Bool[Tensor, "n"], share: float, purpose: int
) -> tuple[Bool[Tensor, "n"], Bool[Tensor, "n"]]:
    """A share of the items of each class, at least one, and the others; of classes with a single item none."""
    first = _first(rows, among, share, purpose)
    second = among & ~first
    return first & torch.isin(rows.labels, rows.labels[second]), second


def _first(rows: Rows, among: Bool[Tensor, "n"], share: float, purpose: int) -> Bool[Tensor, "n"]:
    """The chosen rows that are among the first items of their class: a share of them, rounded, at least one."""
    _, codes = torch.unique(rows.labels[among], return_inverse=True)
    # Rows of one item stay together: they are one item of their class.
    pairs, which = torch.unique(torch.stack([codes, rows.items[among]], 1), dim=0, return_inverse=True)
    classes, items = pairs.unbind(1)
    order = _hash(items, purpose).argsort(stable=True)
    order = order[classes[order].argsort(stable=True)]
    counts = torch.bincount(classes)
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order), device=order.device) - (counts.cumsum(0) - counts)[classes[order]]
    wanted = torch.floor(counts.double() * share + 0.5).clamp(min=1)
    result = torch.zeros_like(among)
    result[among] = (rank < wanted[classes])[which]
    return result


def _hash(items: Int64[Tensor, "n"], purpose: int) -> Int64[Tensor, "n"]:
    return absorb(absorb(torch.zeros_like(items), purpose), items)


def _standard(x: Float[Tensor, "n d"]) -> tuple[Float[Tensor, "d"], Float[Tensor, "d"]]:
    """Mean and standard deviation; 1 in place of one that is nothing but rounding."""
    deviation, mean = torch.std_mean(x, dim=0, correction=0)
    return mean, torch.where(deviation > 1e-6, deviation, 1.0)
