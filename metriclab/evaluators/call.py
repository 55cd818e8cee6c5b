"""How evaluators of rows are called: with rows, as a run does, or with raw embeddings and labels."""

from __future__ import annotations

import warnings
from typing import Protocol, overload, runtime_checkable

from torch import Tensor

from metriclab.core.copies import is_copy
from metriclab.core.progress import ProgressGenerator, exhaust
from metriclab.core.protocols import Score
from metriclab.core.rows import Labels, Rows, rows


@runtime_checkable
class MeasuresRows(Protocol):
    """What an evaluator says of queries and a gallery, and how far it is meanwhile."""

    def steps(self, queries: Rows, gallery: Rows, /) -> ProgressGenerator[dict[str, Score]]: ...


@overload
def call_evaluator(self: MeasuresRows, queries: Rows, gallery: Rows | None = None, /) -> dict[str, Score]: ...
@overload
def call_evaluator(
    self: MeasuresRows,
    z: Tensor,
    labels: Labels,
    gallery: Tensor | None = None,
    gallery_labels: Labels | None = None,
    /,
) -> dict[str, Score]: ...
def call_evaluator(
    self: MeasuresRows,
    queries: Rows | Tensor,
    second: Rows | Labels | None = None,
    gallery: Tensor | None = None,
    gallery_labels: Labels | None = None,
    /,
) -> dict[str, Score]:
    """The `__call__` of an evaluator: `evaluator(z, labels)`, `evaluator(z, labels, gallery, gallery_labels)`, or
    `evaluator(queries, gallery)` with rows. Without a gallery the queries are their own, which is leave-one-out.

    A gallery row of a query's own item is never held against it. Raw embeddings get items of their own; those of the
    same tensor are the same.

    Raises:
        TypeError: for embeddings without labels, or rows beside raw embeddings.
        DivergedError: where an embedding is not finite.
    """
    return exhaust(self.steps(*_both_sides(queries, second, gallery, gallery_labels)))


def _both_sides(
    queries: Rows | Tensor, second: Rows | Labels | None, gallery: Tensor | None, gallery_labels: Labels | None
) -> tuple[Rows, Rows]:
    if isinstance(queries, Rows) and gallery is gallery_labels is None and isinstance(second, Rows | None):
        sides = queries, queries if second is None else second
    elif isinstance(queries, Tensor) and second is not None and not isinstance(second, Rows):
        first = rows(queries, second)
        if gallery is not None and gallery_labels is not None:
            sides = first, rows(gallery, gallery_labels)
        elif gallery is gallery_labels is None:
            sides = first, first
        else:
            raise TypeError("a gallery of raw embeddings needs labels of its own: (z, labels, gallery, gallery_labels)")
    else:
        raise TypeError(
            "an evaluator takes embeddings and labels, (z, labels) or (z, labels, gallery, gallery_labels), or Rows, "
            "(queries) or (queries, gallery)"
        )
    if is_copy(*sides):
        warnings.warn(
            "the gallery is a copy of the queries under items of its own, so each query finds itself: leave the "
            "gallery away for leave-one-out, or give both sides the same items, as rows(z, labels, items) does",
            UserWarning,
            stacklevel=3,
        )
    return sides
