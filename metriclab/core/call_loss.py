"""How losses are called by people: with raw embeddings and labels, or with rows, which `forward` always gets."""

from __future__ import annotations

import warnings
from typing import overload

from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.protocols import Miner
from metriclab.core.rows import Labels, Rows, is_copy, rows


@overload
def call_loss(self: nn.Module, z: Tensor, labels: Labels, /) -> Tensor: ...
@overload
def call_loss(self: nn.Module, anchors: Rows, references: Rows | None = None, /) -> Tensor: ...
def call_loss(self: nn.Module, anchors: Tensor | Rows, references: Labels | Rows | None = None, /) -> Float[Tensor, ""]:
    """The `__call__` of a loss: `criterion(z, labels)` or `criterion(anchors, references)`, references the anchors by
    default. Hooks run as in any module."""
    value: Tensor = nn.Module.__call__(self, *_both_sides(anchors, references))
    return value


@overload
def call_pair_loss(self: nn.Module, z: Tensor, labels: Labels, /, *, miner: Miner | None = None) -> Tensor: ...
@overload
def call_pair_loss(
    self: nn.Module, anchors: Rows, references: Rows | None = None, /, *, miner: Miner | None = None
) -> Tensor: ...
def call_pair_loss(
    self: nn.Module,
    anchors: Tensor | Rows,
    references: Labels | Rows | None = None,
    /,
    *,
    miner: Miner | None = None,
) -> Float[Tensor, ""]:
    """The `__call__` of a loss over pairs: as `call_loss`, and a miner may choose among the pairs."""
    value: Tensor = nn.Module.__call__(self, *_both_sides(anchors, references), miner=miner)
    return value


def _both_sides(anchors: Tensor | Rows, references: Labels | Rows | None) -> tuple[Rows, Rows]:
    if isinstance(anchors, Rows) and references is None:
        return anchors, anchors
    if isinstance(anchors, Rows) and isinstance(references, Rows):
        _warn_of_copy(anchors, references)
        return anchors, references
    if isinstance(anchors, Rows) or references is None or isinstance(references, Rows):
        raise TypeError("a loss takes (z, labels), or (anchors, references), both of them Rows: rows(z, labels)")
    batch = rows(anchors, references)
    return batch, batch


def _warn_of_copy(anchors: Rows, references: Rows) -> None:
    """Rows made twice of one batch are strangers to each other, and each would be its own positive."""
    if anchors.z.device.type != "cpu" or len(anchors) == 0:  # a GPU would have to wait for the answer
        return
    numbered_here = anchors.ids.numpy()[0] < 0  # those of a run know each other
    if numbered_here and is_copy(references, anchors):
        warnings.warn(
            "the references are a copy of the anchors under other ids, so each row is its own positive: "
            "make the rows once, and call loss(batch) or loss(batch, batch)",
            UserWarning,
            stacklevel=4,
        )
