"""An anchor against classes, where a class has several references."""

from __future__ import annotations

from dataclasses import replace

import torch

from metriclab.api import Pairs


def nearest_of_class(pairs: Pairs) -> Pairs:
    """The pairs with a column a class: the cosine of its nearest reference. Equally near ones share the gradient."""
    return _by_class(pairs, None)


def softly_nearest_of_class(pairs: Pairs, temperature: float) -> Pairs:
    """The pairs with a column a class: the mean of its cosines s, weighed by e^(s / temperature)."""
    return _by_class(pairs, temperature)


def _by_class(pairs: Pairs, temperature: float | None) -> Pairs:
    """Only cells of the masks take part. A class of which an anchor has none is neither positive nor negative to it."""
    labels, column = torch.unique(pairs.references.labels, return_inverse=True)
    size = len(pairs.positive), len(labels)
    columns = column.expand(size[0], -1)
    positive, negative = (
        torch.zeros(size, dtype=torch.int64, device=mask.device).index_add(1, column, mask.long()) > 0
        for mask in (pairs.positive, pairs.negative)
    )
    s, used = pairs.similarity, pairs.positive | pairs.negative
    lowest = torch.finfo(s.dtype).min  # not -inf, which makes NaNs where a class has no cell
    usable = s.masked_fill(~used, lowest)
    largest = s.new_full(size, lowest).scatter_reduce(1, columns, usable, "amax")
    pooled = largest
    if temperature is not None:
        behind = (usable - largest.detach().gather(1, columns)) / temperature
        weights = torch.where(used, behind.exp(), 0)
        total = s.new_zeros(size).index_add(1, column, weights)
        pooled = s.new_zeros(size).index_add(1, column, torch.where(used, weights * s, 0)) / total.clamp(min=0.5)
    first = torch.full_like(labels, len(column)).scatter_reduce(
        0, column, torch.arange(len(column), device=s.device), "amin"
    )
    pooled = torch.where(positive | negative, pooled, 0)
    return replace(pairs, similarity=pooled, positive=positive, negative=negative, references=pairs.references[first])
