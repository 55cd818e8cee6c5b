"""`gather`: the rows of all ranks on every rank, by one collective for a whole table and one for its gradient."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import fields, is_dataclass
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from metriclab.distributed.failures import meeting
from metriclab.distributed.group import rank, world_size

T = TypeVar("T")


def gather(tree: T) -> T:
    """The rows of all ranks, in rank order, on every rank.

    Every tensor in the tree (a tensor, a `Rows`, or a tuple, list or dict of such) is joined along its first axis;
    ranks may bring different numbers of rows. The backward sums what all ranks ask of a row and gives it to the rank
    that owns the row, so with gradients averaged over ranks the result equals one process that saw all rows.

    All tensors of a device travel as the bytes of one message. How many rows each rank brings is told beforehand, from
    CPU to CPU where the group has a way for that, so that a GPU is not waited for.
    """
    if world_size() == 1:
        return tree
    leaves: list[Tensor] = []
    map_tensors(leaves.append, tree)
    counts = _counts_of_all(leaves)
    joined = list(leaves)
    for device in dict.fromkeys(leaf.device for leaf in leaves):
        # Those of long numbers first: each then starts where a number of its own length may stand.
        places = [place for place, leaf in enumerate(leaves) if leaf.device == device]
        places.sort(key=lambda place: -leaves[place].element_size())
        of_device = [[own[place] for place in places] for own in counts]
        for place, whole in zip(places, _Gather.apply(of_device, *(leaves[p] for p in places)), strict=True):
            joined[place] = whole
    remaining = iter(joined)
    return map_tensors(lambda _: next(remaining), tree)


def map_tensors(function: Callable[[Tensor], Any], tree: T) -> T:
    """The tree with `function` applied to each of its tensors, in the order in which they stand.

    Raises:
        TypeError: for what is neither a tensor nor a table, tuple, list or dict of them.
    """
    return _map(function, tree)  # type: ignore[no-any-return]  # the shape of the tree is kept


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


def _counts_of_all(leaves: Sequence[Tensor]) -> list[list[int]]:
    """Of every rank, the rows of each leaf."""
    device = "cpu" if "cpu" in dist.get_backend_config() else leaves[0].device
    own = torch.tensor([len(leaf) for leaf in leaves], dtype=torch.int64, device=device)
    counts = [torch.empty_like(own) for _ in range(world_size())]
    with meeting():
        dist.all_gather(counts, own)
    return [of_rank.tolist() for of_rank in counts]


class _Gather(torch.autograd.Function):
    """Tensors of one device, those of long numbers first; `counts` are their rows on each rank."""

    @staticmethod
    def forward(ctx: Any, counts: list[list[int]], *leaves: Tensor) -> tuple[Tensor, ...]:
        ctx.counts = counts
        row_bytes = [leaf.element_size() * math.prod(leaf.shape[1:]) for leaf in leaves]
        sizes = [[count * of_row for count, of_row in zip(of_rank, row_bytes, strict=True)] for of_rank in counts]
        own = torch.cat([leaf.detach().contiguous().view(-1).view(torch.uint8) for leaf in leaves])
        message = own.new_zeros(max(sum(of_rank) for of_rank in sizes))
        message[: len(own)] = own
        messages = [torch.empty_like(message) for _ in counts]
        with meeting():
            dist.all_gather(messages, message)
        parts = [torch.split(message[: sum(size)], size) for message, size in zip(messages, sizes, strict=True)]
        rows = [sum(of_leaf) for of_leaf in zip(*counts, strict=True)]
        joined = tuple(
            torch.cat([of_rank[place].view(leaf.dtype) for of_rank in parts]).view(rows[place], *leaf.shape[1:])
            for place, leaf in enumerate(leaves)
        )
        asked = ctx.needs_input_grad[1:]  # what needs no gradient here needs none there
        ctx.mark_non_differentiable(*(whole for whole, needed in zip(joined, asked, strict=True) if not needed))
        return joined

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        result: list[Tensor | None] = [None] * len(gradients)
        asked = [place for place, needed in enumerate(ctx.needs_input_grad[1:]) if needed]
        for dtype in dict.fromkeys(gradients[place].dtype for place in asked):
            places = [place for place in asked if gradients[place].dtype == dtype]
            for place, own in zip(places, _sum_own(gradients, places, ctx.counts), strict=True):
                result[place] = own
        return None, *result


def _sum_own(gradients: Sequence[Tensor], places: list[int], counts: list[list[int]]) -> list[Tensor]:
    """Of each gradient at these places, the sum over ranks of what is this rank's."""
    by_rank = [torch.split(gradients[place], [of_rank[place] for of_rank in counts]) for place in places]
    messages = [torch.cat([parts[other].reshape(-1) for parts in by_rank]) for other in range(len(counts))]
    largest = max(len(message) for message in messages)
    padded = [torch.nn.functional.pad(message, (0, largest - len(message))) for message in messages]
    total = torch.empty_like(padded[0])
    with meeting():
        dist.reduce_scatter(total, padded)
    own = [parts[rank()] for parts in by_rank]
    pieces = torch.split(total[: len(messages[rank()])], [part.numel() for part in own])
    return [piece.view_as(part) for piece, part in zip(pieces, own, strict=True)]
