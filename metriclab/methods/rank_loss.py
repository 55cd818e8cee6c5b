"""A rank loss over labels: rows of one label more similar than rows of different labels."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from metriclab.core.pair_loss import Term
from metriclab.core.pairs import Pairs
from metriclab.core.tiles import tile_cells


def rank_terms(pairs: Pairs) -> dict[str, Term]:
    """The mean over (anchor i, positive j, negative k) of log(1 + e^(s_ik - s_ij)), for a `PairLoss`."""
    total: Tensor = _Triplets.apply(pairs.similarity, pairs.positive, pairs.negative)
    return {"triplets": Term(total, pairs.positive.sum(1) * pairs.negative.sum(1))}


class _Triplets(torch.autograd.Function):
    """For each anchor its sum over triplets, and its gradient, some references at a time: never all b x m x m."""

    @staticmethod
    def forward(
        ctx: Any, similarity: Float[Tensor, "b m"], positive: Bool[Tensor, "b m"], negative: Bool[Tensor, "b m"]
    ) -> Float[Tensor, "b"]:
        total, gradient = similarity.new_zeros(len(similarity)), torch.zeros_like(similarity)
        width = max(1, tile_cells(similarity.device) // max(1, similarity.numel()))
        for start in range(0, similarity.shape[1], width):
            part = slice(start, start + width)
            excess = similarity[:, None, :] - similarity[:, part, None]
            used = positive[:, part, None] & negative[:, None, :]
            total += torch.where(used, torch.logaddexp(excess, torch.zeros_like(excess)), 0).sum((1, 2))
            slope = torch.where(used, excess.sigmoid(), 0)
            gradient += slope.sum(1)
            gradient[:, part] -= slope.sum(2)
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Float[Tensor, "b"]) -> tuple[Tensor, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_total[:, None], None, None
