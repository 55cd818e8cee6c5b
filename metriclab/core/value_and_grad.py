"""Losses that take their gradient together with their value, instead of leaving a graph behind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

NeedsInputGrad = tuple[bool, ...]
"""For each input, whether a gradient is wanted."""

ComputeValueAndGrad = Callable[[NeedsInputGrad], tuple[Tensor, Sequence[Tensor | None]]]
"""The value, and its gradient by each input, None where none is wanted."""


def value_and_grad(compute: ComputeValueAndGrad, *inputs: Tensor) -> Float[Tensor, ""]:
    """The value as a function of the inputs whose backward hands out the gradients that were taken with it.

    It is computed outside of autocast, and once: a second derivative is refused. Nothing is kept for the backward but
    the gradients, so the memory a loss needs is that of its largest tile.
    """
    needs_input_grad = tuple(torch.is_grad_enabled() and tensor.requires_grad for tensor in inputs)
    return _ValueAndGrad.apply(compute, needs_input_grad, *inputs)  # type: ignore[no-any-return]


class _ValueAndGrad(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, compute: ComputeValueAndGrad, needs_input_grad: NeedsInputGrad, *inputs: Tensor) -> Tensor:
        with torch.autocast(inputs[0].device.type, enabled=False):
            value, gradients = compute(needs_input_grad)
        ctx.save_for_backward(*gradients)
        return value

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError(
                "this loss takes its gradient in the forward and has no second one: no create_graph=True"
            )
        return (None, None, *(None if one is None else one * gradient for one in ctx.saved_tensors))
