"""What ranks tell each other.

The rule that makes every loss exact on any number of ranks: the objective is the mean over ranks of what each rank
returns, the backward of `gather` sums, and parameter gradients are averaged. In one process everything here is the
identity and costs nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from metriclab.distributed.failures import act_together, meet
from metriclab.distributed.group import rank, world_size
from metriclab.errors import MetriclabError

T = TypeVar("T")


def barrier() -> None:
    """Waits for all ranks."""
    if world_size() > 1:
        meet()
        dist.barrier()


def broadcast_object(value: T) -> T:
    """The first rank's value, on every rank. For small plain values, not for tensors."""
    if world_size() == 1:
        return value
    meet()
    box: list[Any] = [value]
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
    meet()
    values: list[Any] = [None] * world_size()
    dist.all_gather_object(values, value)
    return values


def gather(tree: T) -> T:
    """The rows of all ranks, in rank order, on every rank.

    Every tensor in the tree (a tensor, a `Rows`, or a tuple, list or dict of such) is joined along its first axis;
    ranks may bring different numbers of rows. The backward sums what all ranks ask of a row and gives it to the rank
    that owns the row, so with gradients averaged over ranks the result equals one process that saw all rows.
    """
    return tree if world_size() == 1 else _map(_gather_tensor, tree)


def total(value: Tensor) -> Tensor:
    """Sum over ranks, without gradient."""
    if world_size() == 1:
        return value.detach()
    meet()
    value = value.detach().clone()
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
    """Replaces every gradient by its mean over ranks. All ranks must have gradients for the same parameters."""
    if world_size() == 1:
        return
    meet()
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    by_kind: dict[tuple[torch.dtype, torch.device], list[Tensor]] = {}
    for gradient in gradients:
        by_kind.setdefault((gradient.dtype, gradient.device), []).append(gradient)
    for group in by_kind.values():
        flat = torch.cat([gradient.reshape(-1) for gradient in group])
        dist.all_reduce(flat)
        flat /= world_size()
        for gradient, averaged in zip(group, torch.split(flat, [g.numel() for g in group]), strict=True):
            gradient.copy_(averaged.view_as(gradient))


@torch.no_grad()
def broadcast_module(module: nn.Module) -> None:
    """Gives every rank the first rank's parameters and buffers."""
    if world_size() > 1:
        meet()
        for tensor in (*module.parameters(), *module.buffers()):
            dist.broadcast(tensor, src=0)


def _map(function: Any, tree: Any) -> Any:
    if tree is None:  # a column that no row has, on no rank
        return None
    if isinstance(tree, Tensor):
        return function(tree)
    if is_dataclass(tree) and not isinstance(tree, type):
        return type(tree)(**{f.name: _map(function, getattr(tree, f.name)) for f in fields(tree)})
    if isinstance(tree, dict):
        return {key: _map(function, value) for key, value in tree.items()}
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(_map(function, value) for value in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(_map(function, value) for value in tree)
    raise TypeError(f"gather takes tensors, Rows, and tuples, lists and dicts of them, not {type(tree).__name__}")


def map_tensors(function: Any, tree: T) -> T:
    """The tree with `function` applied to each of its tensors."""
    return _map(function, tree)  # type: ignore[no-any-return]  # the shape of the tree is kept


def _gather_tensor(tensor: Tensor) -> Tensor:
    meet()
    counts = torch.zeros(world_size(), dtype=torch.int64, device=tensor.device)
    counts[rank()] = tensor.shape[0]
    dist.all_reduce(counts)
    return _Gather.apply(tensor, counts.tolist())  # type: ignore[no-any-return]  # autograd functions are untyped


class _Gather(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, tensor: Tensor, counts: list[int]) -> Tensor:
        ctx.start, ctx.count = sum(counts[: rank()]), tensor.shape[0]
        largest = max(counts)
        padded = tensor.new_zeros((largest, *tensor.shape[1:]))
        padded[: tensor.shape[0]] = tensor
        parts = [torch.empty_like(padded) for _ in counts]
        dist.all_gather(parts, padded)
        return torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        meet()
        # gloo has no reduce-scatter: every rank sums all and keeps its own rows.
        gradient = gradient.contiguous().clone()
        dist.all_reduce(gradient)
        return gradient.narrow(0, ctx.start, ctx.count), None


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
