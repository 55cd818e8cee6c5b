"""Steps of a method as the loop takes them, and whether they go downhill."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from metriclab.core.batch import Batch
from metriclab.distributed import average_gradients, gather

_RATES = (0.3, 0.03, 0.003)
_STEPS = 8


def copy_of(method: Any, batch: Batch) -> tuple[Any, Batch]:
    """A copy of the method and the batch in float64, or in float32 where it cannot compute in float64."""
    wide = copy.deepcopy(method).double(), _cast(batch, torch.float64)
    try:
        with torch.random.fork_rng(devices=[]):
            take_step(copy.deepcopy(wide[0]), wide[1], 0)
    except (RuntimeError, TypeError):
        narrow = copy.deepcopy(method).float(), _cast(batch, torch.float32)
        try:
            with torch.random.fork_rng(devices=[]):
                take_step(copy.deepcopy(narrow[0]), narrow[1], 0)
        except (RuntimeError, TypeError):
            return wide  # it is no matter of precision
        return narrow
    return wide


def _cast(batch: Batch, dtype: torch.dtype) -> Batch:
    features = None if batch.features is None else batch.features.to(dtype)
    return replace(batch, views=tuple(view.to(dtype) for view in batch.views), features=features)


def take_step(method: Any, batch: Batch, step: int, rate: float = 0.1) -> Tensor:
    """A step of plain gradient descent, and its loss."""
    torch.manual_seed(step)  # as the loop does, so that dropout and the like resume too
    method.zero_grad()
    local = method(batch)
    world = gather(local)
    loss, _ = method.objective(local, world)
    loss.backward()
    average_gradients(method.parameters())
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.sub_(rate * parameter.grad)
        method.after_step(world, step)
    return loss.detach()  # type: ignore[no-any-return]


def check_descent(name: str, method: Any, batch: Batch) -> None:
    """Asserts that steps lower the method's own loss, at one rate at least, and that of a loss that it was given.

    Both are taken with the buffers as they were, so that a memory that fills up changes nothing.
    """
    method, batch = copy_of(method, batch)
    with torch.random.fork_rng(devices=[]):
        start = _losses(method, batch)
        ends = [_losses(_trained(method, batch, rate), batch) for rate in _RATES]
        _check_averages(name, method, batch)
    for what in start:
        moved = any(bool(end[what] != start[what]) for end in ends)
        lower = any(bool(end[what] < start[what]) for end in ends)
        assert lower or not moved, (
            f"steps of {name} raise {what}, from {float(start[what]):.4g} to {float(ends[-1][what]):.4g} at the least "
            f"rate of {_RATES[-1]}: is a sign, or a moving average, the wrong way round?"
        )


def _trained(method: Any, batch: Batch, rate: float) -> Any:
    trained = copy.deepcopy(method)
    for step in range(_STEPS):
        take_step(trained, batch, step, rate)
    now = dict(trained.named_parameters())
    fresh = copy.deepcopy(method)
    with torch.no_grad():
        for key, parameter in fresh.named_parameters():
            parameter.copy_(now[key])
    return fresh


def _losses(method: Any, batch: Batch) -> dict[str, Tensor]:
    """Its loss, and what each scalar module in it gave, as a loss that it was given does."""
    method = copy.deepcopy(method)
    torch.manual_seed(0)
    local = method(batch)
    with _heard(method) as inner:
        own = method.objective(local, local).loss.detach()
    return {"its own loss": own, **inner}


@contextmanager
def _heard(method: nn.Module) -> Iterator[dict[str, Tensor]]:
    heard: dict[str, Tensor] = {}

    def hear(module: nn.Module, given: Any, value: Any) -> None:
        if isinstance(value, Tensor) and value.shape == ():
            key = f"the loss {type(module).__name__} it was given"
            heard[key] = heard.get(key, torch.zeros(())) + value.detach()

    hooks = [child.register_forward_hook(hear) for child in method.children()]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _check_averages(name: str, method: Any, batch: Batch) -> None:
    """Whether what no gradient trains, but a step moves, moves towards the trained parameter of the same place."""
    method = copy.deepcopy(method)
    for step in range(_STEPS):
        before = {key: parameter.detach().clone() for key, parameter in method.named_parameters()}
        take_step(method, batch, step)
        now = dict(method.named_parameters())
        trained = {key.partition(".")[2]: p.detach() for key, p in now.items() if p.requires_grad}
        for key, parameter in now.items():
            source = trained.get(key.partition(".")[2])
            if parameter.requires_grad or source is None or source.shape != parameter.shape:
                continue
            distances = [float((one - source).norm()) for one in (before[key], parameter.detach())]
            assert distances[1] <= distances[0] * (1 + 1e-9) + 1e-9, (
                f"'{key}' of {name} moves away from what it averages: by a step its distance goes from "
                f"{distances[0]:.3g} to {distances[1]:.3g}; is the momentum the wrong way round?"
            )
            left = distances[1] / distances[0] if distances[0] > 1e-6 else 1.0
            # Half, but for rounding, is neither way round; a copy at each step may be meant.
            assert left > 0.5 * (1 - 1e-3) or left < 1e-4, (
                f"'{key}' of {name} keeps {left:.2g} of itself in a step, and takes the rest from what it averages: is "
                "the momentum the wrong way round?"
            )
