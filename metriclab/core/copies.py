"""Whether rows are given twice without being known as the same."""

from __future__ import annotations

import torch

from metriclab.core.rows import Rows


def is_copy(one: Rows, other: Rows) -> bool:
    """Whether both are the same embeddings and labels under other ids and items: no row is known to be itself."""
    return (
        one is not other
        and len(one) > 0
        and one.z.shape == other.z.shape
        and torch.equal(one.z, other.z)
        and torch.equal(one.labels, other.labels)
        and not bool(torch.isin(one.ids, other.ids).any() or torch.isin(one.items, other.items).any())
    )
