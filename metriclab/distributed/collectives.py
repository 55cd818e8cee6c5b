"""What ranks tell each other.

The rule that makes every loss exact on any number of ranks: the objective is the mean over ranks of what each rank
returns, the backward of `gather` sums, and parameter gradients are averaged. In one process everything here is the
identity and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from metriclab.distributed.failures import act_together, meeting
from metriclab.distributed.group import rank, world_size
from metriclab.errors import MetriclabError

T = TypeVar("T")


def barrier() -> None:
    """Waits for all ranks."""
    if world_size() > 1:
        with meeting():
            dist.barrier()


def broadcast_object(value: T) -> T:
    """The first rank's value, on every rank. For small plain values, not for tensors."""
    if world_size() == 1:
        return value
    box: list[Any] = [value]
    with meeting():
        dist.broadcast_object_list(box, src=0)
    return box[0]  # type: ignore[no-any-return]  # the list is untyped


def on_first_rank(action: Callable[[], None]) -> None:
    """Lets the first rank act alone while the others wait; an expected error of its is raised on every rank.

    Raises:
        MetriclabError: whatever the action raised, so that no rank is left waiting for one that has ended.
    """
    error: MetriclabError | None = None
    if rank() == 0:
        try:
            action()
        except MetriclabError as caught:
            error = caught
    error = broadcast_object(error)
    if error is not None:
        raise error


def on_every_rank(action: Callable[[], T]) -> T:
    """Lets ranks act; where one fails, all do, so that none is left waiting for it.

    Args:
        action: ranks may meet in it.

    Raises:
        MetriclabError: this rank's own, or that another rank failed, with what it said.
        Exception: this rank's own, whatever it is.
    """
    own: list[Exception] = []

    def describe(error: Exception) -> str:
        own.append(error)
        return str(error) or type(error).__name__

    value, texts = act_together(action, describe)
    if own:
        raise own[0]
    for other, text in enumerate(texts):
        if text is not None:
            raise MetriclabError(f"rank {other} failed, so this one stops too: {text}")
    return value  # type: ignore[return-value]  # no rank has failed


def gather_objects(value: T) -> list[T]:
    """Every rank's value, in rank order, on every rank."""
    if world_size() == 1:
        return [value]
    values: list[Any] = [None] * world_size()
    with meeting():
        dist.all_gather_object(values, value)
    return values


def total(value: Tensor) -> Tensor:
    """Sum over ranks, without gradient."""
    if world_size() == 1:
        return value.detach()
    value = value.detach().clone()
    with meeting():
        dist.all_reduce(value)
    return value


def any_rank(flag: bool) -> bool:
    """Whether the flag is set on any rank; all ranks get the same answer."""
    if world_size() == 1:
        return flag
    return bool(total(torch.tensor(float(flag))) > 0)


def mean(value: Tensor) -> Tensor:
    """Mean over ranks, without gradient: for logging."""
    return total(value) / world_size()


def average_gradients(parameters: Iterable[nn.Parameter]) -> None:
    """Replaces every gradient by its mean over ranks; a rank that has none for a parameter counts as zeros.

    A parameter that has none on any rank keeps none, so that an optimizer leaves it alone. Parameters without
    `requires_grad`, which must be the same ones on all ranks, are left out.
    """
    if world_size() == 1:
        return
    by_kind: dict[tuple[torch.dtype, torch.device], list[nn.Parameter]] = {}
    for parameter in parameters:
        if parameter.requires_grad:
            by_kind.setdefault((parameter.dtype, parameter.device), []).append(parameter)
    for group in by_kind.values():
        _average(group)


def _average(parameters: list[nn.Parameter]) -> None:
    gradients = [torch.zeros_like(one) if one.grad is None else one.grad for one in parameters]
    missing = [place for place, one in enumerate(parameters) if one.grad is None]
    has = gradients[0].new_ones(len(parameters))
    for place in missing:
        has[place] = 0
    flat = torch.cat([*(gradient.reshape(-1) for gradient in gradients), has])
    with meeting():
        dist.all_reduce(flat)
    sizes = [*(gradient.numel() for gradient in gradients), len(parameters)]
    *averages, has = torch.split(flat / world_size(), sizes)
    # Only a rank that misses some has to look, and to wait for a GPU, to learn whether another has them.
    wanted = has.tolist() if missing else [1.0] * len(parameters)
    for parameter, gradient, average, anywhere in zip(parameters, gradients, averages, wanted, strict=True):
        if anywhere:
            parameter.grad = gradient.copy_(average.view_as(gradient))


@torch.no_grad()
def broadcast_module(module: nn.Module) -> None:
    """Gives every rank the first rank's parameters and buffers."""
    if world_size() > 1:
        with meeting():
            for tensor in (*module.parameters(), *module.buffers()):
                dist.broadcast(tensor, src=0)


class _Total(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, value: Tensor) -> Tensor:
        return total(value)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        return total(gradient)


def total_with_gradient(value: Tensor) -> Tensor:
    """Sum over ranks whose backward sums over ranks, as `gather` does."""
    return value if world_size() == 1 else _Total.apply(value)
