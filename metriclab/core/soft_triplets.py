"""The soft hinge over all triplets of an anchor, in the memory of its pairs: what a loss and a method share."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.autograd.function import once_differentiable


class SoftTriplets(torch.autograd.Function):
    """For each anchor the sum over triplets of log(1 + e^(c_an - c_ap + margin)), one positive at a time."""

    @staticmethod
    def forward(
        ctx: Any,
        closeness: Float[Tensor, "b m"],
        positive: Bool[Tensor, "b m"],
        negative: Bool[Tensor, "b m"],
        margin: float,
    ) -> Float[Tensor, "b"]:
        total = closeness.new_zeros(len(closeness))
        gradient = torch.zeros_like(closeness)
        # Positives first: as many columns as the anchor with the most of them has.
        order = positive.to(torch.int8).argsort(dim=1, descending=True, stable=True)
        for column in order[:, : int(positive.sum(1).max()) if len(positive) else 0].unbind(1):
            column = column[:, None]
            excess = closeness - closeness.gather(1, column) + margin
            used = negative & positive.gather(1, column)
            total += torch.where(used, torch.logaddexp(excess, torch.zeros_like(excess)), 0).sum(1)
            push = torch.where(used, excess.sigmoid(), 0)
            gradient += push
            gradient.scatter_add_(1, column, -push.sum(1, keepdim=True))
        ctx.save_for_backward(gradient)
        return total

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, of_total: Float[Tensor, "b"]) -> tuple[Tensor, None, None, None]:
        (gradient,) = ctx.saved_tensors
        return gradient * of_total[:, None], None, None, None
