"""The objective of a step with its gradient, and what each of several losses has of both."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metriclab import distributed
from metriclab.core.promises import check_objective
from metriclab.core.protocols import Objective
from metriclab.core.rows import Rows
from metriclab.losses.composite import Composite, Part


def differentiate(method: Any, local: Any, world: Any) -> Objective:
    """The objective of this rank's outputs; gradients are left in what they come from.

    For each part of a composite loss its metrics have `loss.NAME`, the mean over ranks of what that part would give as
    the only one, and `gradient_norm.NAME`, the norm over all ranks of the gradient of that with respect to the
    embeddings z; along the sphere, as what changes their length never reaches the network.
    """
    with _noting(method) as noted:
        objective: Objective = method.objective(local, world)
    check_objective(method, objective)
    metrics = {**_of_parts(objective.loss, noted, local), **objective.metrics}
    objective.loss.backward()  # type: ignore[no-untyped-call]
    return Objective(objective.loss, metrics)


def rows_in(tree: Any) -> Iterator[Rows]:
    """Every `Rows` among a method's outputs."""
    if isinstance(tree, Rows):
        yield tree
    elif isinstance(tree, tuple | list):
        for part in tree:
            yield from rows_in(part)


_Noted = dict[str, tuple[float, list[Tensor]]]
"""By name, a part's weight and what each of its calls in this step gave: a method may have several."""


@contextmanager
def _noting(method: nn.Module) -> Iterator[_Noted]:
    noted: _Noted = {}

    def note(name: str, part: Part, _: Any, value: Tensor) -> None:
        if value.requires_grad:  # else nothing learns from it, and nothing says how it counts
            noted.setdefault(name, (part.weight, []))[1].append(value)

    losses = [module for module in method.modules() if isinstance(module, Composite)]
    parts = [named for loss in losses for named in zip(loss.names, loss.parts, strict=True)]
    hooks = [part.register_forward_hook(partial(note, name)) for name, part in parts]
    try:
        yield noted
    finally:
        for hook in hooks:
            hook.remove()


def _of_parts(loss: Tensor, noted: _Noted, local: Any) -> dict[str, Tensor]:
    """Values and gradient norms. A call counts by the factor that the method gave it, as a memory's weight."""
    rows = [one for one in rows_in(local) if one.z.requires_grad]
    found = {}
    for name, (weight, values) in noted.items():
        shares = [factor / weight for factor in _gradients(loss, values)]
        alone = sum(share * value.detach() for share, value in zip(shares, values, strict=True))
        found[f"loss.{name}"] = distributed.mean(torch.as_tensor(alone))
        if rows:
            found[f"gradient_norm.{name}"] = _norm(rows, _gradients(values, [one.z for one in rows], shares))
    return found


def _gradients(of: Any, by: list[Tensor], factors: list[Tensor] | None = None) -> tuple[Tensor, ...]:
    return torch.autograd.grad(of, by, factors, retain_graph=True, allow_unused=True, materialize_grads=True)


@torch.no_grad()
def _norm(rows: list[Rows], gradients: tuple[Tensor, ...]) -> Tensor:
    """Over all ranks; the objective is the mean over ranks, and so is its gradient."""
    along = [g - (g * one.z).sum(1, keepdim=True) * one.z for one, g in zip(rows, gradients, strict=True)]
    squares = torch.stack([gradient.square().sum() for gradient in along]).sum()
    return distributed.total(squares).sqrt() / distributed.world_size()
