"""By how much a loss misses what it should keep: measured once here, for registered losses and for anybody's.

All of it speaks of a `Loss`, a `Case` of rows and a `Call`, which says how the one is given the other.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import torch
from jaxtyping import Int64
from torch import Tensor, nn

from metriclab.core.protocols import Loss
from metriclab.core.rows import Rows
from metriclab.testing.cases import Call, Case, evaluate, fresh

Pair = tuple[Tensor, Tensor]
"""A value and the gradient of the embeddings."""


def deviation(found: Tensor, expected: Tensor, floor: float = 1.0) -> float:
    """The largest difference, beside the largest expected number or the floor. Infinite where shapes differ."""
    if found.shape != expected.shape:
        return torch.inf
    if not expected.numel():
        return 0.0
    difference = (found.double() - expected.double()).abs().max()
    return float(difference / expected.double().abs().max().clamp(min=floor))


def in_order_and_shuffled(loss: Loss, given: Case, order: Int64[Tensor, "n"], call: Call) -> tuple[Pair, Pair]:
    """What the rows give in their order, and in another one, the gradient put back into the first."""
    value, gradient = evaluate(loss, given, call)
    shuffled, of_shuffled = evaluate(loss, given[order], call)
    return (value, gradient), (shuffled, of_shuffled[order.argsort()])


def in_autocast(call: Call) -> Call:
    """The same call under bfloat16 autocast."""

    def lower(loss: Loss, all_rows: Rows) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return call(loss, all_rows)

    return lower


def gradient_fault(loss: Loss, given: Case, call: Call) -> str | None:
    """What gradcheck has against the gradient of embeddings and weights, along fixed directions."""
    loss = fresh(loss)
    parameters = [p for p in loss.parameters() if p.requires_grad] if isinstance(loss, nn.Module) else []

    def value(z: Tensor, *_: Tensor) -> Tensor:
        return call(loss, given.rows(z))

    try:
        inputs = (given.z.clone().requires_grad_(), *parameters)
        torch.autograd.gradcheck(value, inputs, atol=1e-6, rtol=1e-4, fast_mode=True)
    except RuntimeError as error:  # gradcheck's own kind of error
        return " ".join(str(error).splitlines()[:3]).rstrip(",")
    return None


def after_saving(loss: Loss, batches: Sequence[Case], call: Call) -> tuple[Tensor, Tensor, Loss]:
    """The last batch's value after those before it, without and with saving and loading in between; and the loaded."""
    *before, last = batches
    one = fresh(loss)
    for given in before:  # with a gradient, as some losses take what has none for no training
        call(one, given.rows(given.z.clone().requires_grad_()))
    saved = copy.deepcopy(one.state_dict()) if isinstance(one, nn.Module) else {}
    value = call(one, last.rows())
    other = fresh(loss)
    if isinstance(other, nn.Module):
        other.load_state_dict(saved)
    return value, call(other, last.rows()), other
