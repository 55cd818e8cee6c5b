"""A few rows, and an encoder that gives them: what a component is tried on before anything is at stake."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from metriclab.core.rows import Rows, rows


def some_rows() -> Rows:
    """A few rows in which every label but one comes again."""
    z = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))
    place = torch.arange(12)
    return rows(z, place % 5, place, place)


class SomeEncoder(NamedTuple):
    """An `EvaluatedEncoder` that gives the same few rows for whatever images."""

    queries: Rows
    gallery: Rows

    def embed_changed(self, change: Any, chosen: Tensor, /) -> Rows:
        return self.queries[chosen]

    def embed_other(self, test: Any, train: Any, /) -> tuple[Rows, Rows]:
        return self.queries, self.gallery
