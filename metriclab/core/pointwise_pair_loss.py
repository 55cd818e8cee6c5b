"""PointwisePairLoss: a loss of every pair by itself, streamed in tiles that stay in the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from metriclab import distributed
from metriclab.core.call_loss import call_pair_loss
from metriclab.core.pair_loss import PairLoss, Term, stream_terms
from metriclab.core.pairs import Pairs, pairs_of
from metriclab.core.protocols import Miner
from metriclab.core.rows import Rows, wide
from metriclab.core.tiles import tile_shape
from metriclab.core.value_and_grad import NeedsInputGrad, value_and_grad

_FEW = 16
"""Cells a tile has for each that is wanted, from which on it pays to take those one by one."""


class LossAndGrad(NamedTuple):
    """The losses of pairs with these similarities, each by itself.

    Attributes:
        loss: of each pair.
        grad: derivative of the loss by the similarity.
    """

    loss: Float[Tensor, "*cells"]
    grad: Float[Tensor, "*cells"]


PointwiseLoss = Callable[[Float[Tensor, "*cells"]], LossAndGrad]


class PointwisePairLoss(nn.Module):
    """The mean loss of positive pairs plus the mean loss of negative pairs; no loss knows of other pairs.

    It is what a `PairLoss` of the same losses is. As cells are independent, its tiles are cut among the references
    too, small enough for the cache; as gradients are given, no graph is built over them.

    Args:
        positive: loss of positive pairs, a pure function of their similarity.
        negative: loss of negative pairs.
        nonzero_only: whether a mean is taken over the pairs with a loss above what rounding leaves, in place of all.

    Example:
        >>> def pull(similarity):
        ...     return LossAndGrad(1 - similarity, torch.full_like(similarity, -1))
        >>> def push(similarity):
        ...     return LossAndGrad(similarity.square(), 2 * similarity)
        >>> PointwisePairLoss(pull, push)(torch.eye(3), [0, 0, 1])
        tensor(1.)
    """

    pairwise = True
    __call__ = call_pair_loss

    def __init__(self, positive: PointwiseLoss, negative: PointwiseLoss, *, nonzero_only: bool = False) -> None:
        super().__init__()
        self.positive, self.negative, self.nonzero_only = positive, negative, nonzero_only

    def forward(self, anchors: Rows, references: Rows, *, miner: Miner | None = None) -> Float[Tensor, ""]:
        return stream_pointwise(
            anchors, references, miner, self.positive, self.negative, nonzero_only=self.nonzero_only
        )


def stream_pointwise(
    anchors: Rows,
    references: Rows,
    miner: Miner | None,
    positive: PointwiseLoss,
    negative: PointwiseLoss,
    *,
    nonzero_only: bool = False,
    per_anchor: bool = False,
) -> Float[Tensor, ""]:
    """What `PointwisePairLoss` computes, for a loss that chooses its functions when it is called.

    With `per_anchor` it is not means over pairs that are added, but sums over pairs, divided by the number of anchors
    of known label.
    """
    if miner is not None:
        functions = partial(pointwise_terms, positive=positive, negative=negative)
        terms = partial(functions, nonzero_only=nonzero_only, per_anchor=per_anchor)
        return stream_terms(PairLoss(terms), anchors, references, miner=miner)
    anchors = replace(anchors, z=wide(anchors.z, references.z))
    references = replace(references, z=wide(references.z, anchors.z))

    def compute(needs_input_grad: NeedsInputGrad) -> tuple[Tensor, list[Tensor | None]]:
        z = anchors.z.detach(), references.z.detach()
        means = [_Mean(*z, pointwise, nonzero_only, needs_input_grad) for pointwise in (positive, negative)]
        _stream(means, anchors.detach(), references.detach())
        if per_anchor:
            for mean in means:
                mean.count = (anchors.labels >= 0).count_nonzero()
        return _joined(means)

    return value_and_grad(compute, anchors.z, references.z)


def pointwise_terms(
    pairs: Pairs, positive: PointwiseLoss, negative: PointwiseLoss, nonzero_only: bool, per_anchor: bool
) -> dict[str, Term]:
    """The same as terms of a `PairLoss`, for pairs that a miner has chosen."""
    terms = {}
    for name, pointwise, mask in (("positives", positive, pairs.positive), ("negatives", negative, pairs.negative)):
        loss = _ByItself.apply(pairs.similarity, pointwise)
        counted = counted_cells(loss, mask, nonzero_only)
        count = (pairs.anchors.labels >= 0).long() if per_anchor else counted.sum(1)
        terms[name] = Term(torch.where(counted, loss, 0).sum(1), count)
    return terms


def counted_cells(
    loss: Float[Tensor, "*cells"], mask: Bool[Tensor, "*cells"], nonzero_only: bool
) -> Bool[Tensor, "*cells"]:
    """The cells that a mean is taken over."""
    # What rounding alone leaves is no loss: counts must not depend on the order in which a product is summed.
    return mask & ~(loss <= 8 * torch.finfo(loss.dtype).eps) if nonzero_only else mask


class _ByItself(torch.autograd.Function):
    """A cell's loss with its own grad as gradient."""

    @staticmethod
    def forward(ctx: Any, similarity: Tensor, pointwise: PointwiseLoss) -> Tensor:
        loss, grad = pointwise(similarity)
        ctx.save_for_backward(grad)
        return loss

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        (grad,) = ctx.saved_tensors
        return grad * gradient, None


class _Mean:
    """The mean over positive or over negative pairs, and the gradient of its sum: a scale is known only at the end."""

    def __init__(
        self,
        anchors: Tensor,
        references: Tensor,
        pointwise: PointwiseLoss,
        nonzero_only: bool,
        needs_input_grad: NeedsInputGrad,
    ) -> None:
        self.pointwise, self.nonzero_only = pointwise, nonzero_only
        self.total = anchors.new_zeros(())
        self.count = torch.zeros_like(self.total, dtype=torch.int64)
        self.gradients = [
            torch.zeros_like(z) if want else None
            for z, want in zip((anchors, references), needs_input_grad, strict=True)
        ]

    def add(self, mask: Tensor, tile: _Tile) -> None:
        """Adds the cells of the mask."""
        cells = mask.count_nonzero()
        # A GPU would have to wait for the number of cells, and has no need to save work.
        if mask.device.type == "cpu" and int(cells) * _FEW < mask.numel():
            self._add_few(mask, tile)
        else:
            self._add_all(mask, cells, tile)

    def _add_all(self, mask: Tensor, cells: Tensor, tile: _Tile) -> None:
        weights = self._count(tile.similarity, mask, cells)
        of_anchors, of_references = self.gradients
        if of_anchors is not None:
            of_anchors[tile.rows].addmm_(weights, tile.references)
        if of_references is not None:
            of_references[tile.columns].addmm_(weights.T, tile.anchors)

    def _add_few(self, mask: Tensor, tile: _Tile) -> None:
        """The same, one cell after the other: positives are few where classes are many."""
        rows, columns = mask.nonzero(as_tuple=True)
        cells = tile.similarity[rows, columns]
        every = torch.ones_like(cells, dtype=torch.bool)
        weights = self._count(cells, every, every.count_nonzero())[:, None]
        of_anchors, of_references = self.gradients
        if of_anchors is not None:
            of_anchors[tile.rows].index_add_(0, rows, weights * tile.references[columns])
        if of_references is not None:
            of_references[tile.columns].index_add_(0, columns, weights * tile.anchors[rows])

    def _count(self, similarity: Tensor, mask: Tensor, cells: Tensor) -> Tensor:
        """Adds up the losses of the cells; the gradients of those that count."""
        loss, grad = self.pointwise(similarity)
        counted = counted_cells(loss, mask, self.nonzero_only)
        nothing = torch.zeros_like(self.total)
        self.total += torch.where(counted, loss, nothing).sum()
        self.count += counted.count_nonzero() if self.nonzero_only else cells
        return torch.where(counted, grad, nothing)


class _Tile(NamedTuple):
    """Some anchors against some references."""

    similarity: Tensor
    anchors: Tensor
    references: Tensor
    rows: slice
    columns: slice


def _stream(means: list[_Mean], anchors: Rows, references: Rows) -> None:
    height, width = tile_shape(anchors.z, references.z)
    for start in range(0, len(anchors), height):
        part = slice(start, start + height)
        for left in range(0, len(references), width):
            other = slice(left, left + width)
            similarity = anchors.z[part] @ references.z[other].T
            pairs = pairs_of(similarity, anchors.keys[part], references.keys[other], anchors.embedding_dim)
            tile = _Tile(similarity, anchors.z[part], references.z[other], part, other)
            for mean, mask in zip(means, (pairs.positive, pairs.negative), strict=True):
                mean.add(mask, tile)


def _joined(means: list[_Mean]) -> tuple[Tensor, list[Tensor | None]]:
    """Value and gradients of W x local sum / global count; on every rank, also one without pairs."""
    counts = distributed.total(torch.stack([mean.count for mean in means]))
    scales = distributed.world_size() / counts.clamp(min=1).to(means[0].total.dtype)
    value = sum((mean.total * scale for mean, scale in zip(means, scales, strict=True)), torch.zeros_like(scales[0]))
    gradients: list[Tensor | None] = []
    for parts in zip(*(mean.gradients for mean in means), strict=True):
        one, other = parts
        gradients.append(None if one is None else one.mul_(scales[0]).add_(other * scales[1]))
    return value, gradients
