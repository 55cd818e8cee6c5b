"""What every optimizer and every schedule keeps."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metriclab.core.promises import check_built, check_factor
from metriclab.core.protocols import Schedule
from metriclab.testing.checks import Check, check, running
from metriclab.testing.state import assert_stateless

MakeOptimizer = Callable[[Mapping[str, nn.Module]], Optimizer]
MakeSchedule = Callable[[int], Schedule]


def optimizer_checks(make: MakeOptimizer) -> list[Check]:
    """Checks an optimizer: that it trains all that trains, at the rate the run sets, and goes on after a resume.

    Every parameter that wants a gradient is in one group, every frozen one in none; groups have a `name` and an
    `initial_lr`, and obey the `lr` that the run sets before each step; steps lower a plain loss; a saved and
    loaded optimizer goes on bit by bit.

    Args:
        make: builds it from modules by group name, as `functools.partial(build, "optimizer", "mine")`.

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    return [
        check("every parameter in one group", _check_groups, make),
        check("learning rate", _check_rate, make),
        check("descent", _check_descent, make),
        check("state saved", _check_saved, make),
    ]


check_optimizer = running(optimizer_checks)


def schedule_checks(make: MakeSchedule) -> list[Check]:
    """Checks a schedule: a finite factor, 0 or more and somewhere above it, for every step, by the step alone.

    Args:
        make: builds it from the number of all steps, as `functools.partial(build, "schedule", "mine")`.

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    return [check("factors", _check_factors, make), check("pure function of the step", _check_pure, make)]


check_schedule = running(schedule_checks)


def _modules() -> dict[str, nn.Module]:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        encoder = nn.Sequential(nn.Linear(4, 6), nn.LayerNorm(6), nn.Linear(6, 3))
        frozen = encoder.get_submodule("2")
        frozen.requires_grad_(False)
        return {"encoder": encoder, "head": nn.Linear(3, 2), "method": nn.ModuleList([encoder])}


def _parameters(modules: Mapping[str, nn.Module]) -> dict[str, nn.Parameter]:
    return {f"{group}.{key}": one for group in ("encoder", "head") for key, one in modules[group].named_parameters()}


def _loss(modules: Mapping[str, nn.Module]) -> Tensor:
    x = torch.linspace(-1, 1, 20).view(5, 4)
    output: Tensor = modules["head"](modules["encoder"](x))
    return (output - 0.3).square().mean()


def _step(optimizer: Optimizer, modules: Mapping[str, nn.Module], factor: float = 1.0) -> float:
    loss = _loss(modules)
    for group in optimizer.param_groups:
        group["lr"] = group["initial_lr"] * factor
    loss.backward()  # type: ignore[no-untyped-call]
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def _check_groups(make: MakeOptimizer) -> None:
    modules = _modules()
    check_built("optimizer", make(modules), modules)


def _check_rate(make: MakeOptimizer) -> None:
    modules = _modules()
    optimizer = make(modules)
    before = copy.deepcopy(_parameters(modules))
    _step(optimizer, modules, factor=0.0)
    for key, parameter in _parameters(modules).items():
        same = torch.equal(parameter, before[key])
        assert same, f"{type(optimizer).__name__} moves '{key}' at a learning rate of 0: it must obey the group's lr"


def _check_descent(make: MakeOptimizer) -> None:
    modules = _modules()
    optimizer, before = make(modules), copy.deepcopy(_parameters(modules))
    losses = [_step(optimizer, modules) for _ in range(30)]
    name = type(optimizer).__name__
    lowered = any(loss < losses[0] for loss in losses)
    assert lowered, f"{name} never lowers a plain loss in 30 steps: is the sign right?"
    assert all(map(math.isfinite, losses)), f"{name} diverges on a plain loss: {losses[-1]}"
    for key, parameter in _parameters(modules).items():
        moved = not parameter.requires_grad or not torch.equal(parameter, before[key])
        assert moved, (
            f"{name} never moves '{key}' in 30 steps, though it has a gradient: does a step look at every group?"
        )


def _check_saved(make: MakeOptimizer) -> None:
    modules = _modules()
    optimizer = make(modules)
    for _ in range(3):
        _step(optimizer, modules)
    others = copy.deepcopy(modules)
    resumed = make(others)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for _ in range(3):
        _step(optimizer, modules)
        _step(resumed, others)
    for key, parameter in _parameters(modules).items():
        same = torch.equal(parameter, _parameters(others)[key])
        assert same, f"{type(optimizer).__name__} moves '{key}' differently after its state was saved and loaded"


def _check_factors(make: MakeSchedule) -> None:
    for total in (1, 2, 7, 100):
        schedule = make(total)
        factors: list[Any] = [schedule(step) for step in range(total)]
        for step, factor in enumerate(factors):
            check_factor(factor, step, total)
        assert max(factors) > 0, f"the schedule is 0 in every one of {total} steps"


def _check_pure(make: MakeSchedule) -> None:
    schedule, other = make(20), make(20)
    upwards = [schedule(step) for step in range(20)]
    downwards = [other(step) for step in reversed(range(20))][::-1]
    again = [schedule(step) for step in range(20)]
    assert upwards == downwards == again, (
        "the schedule gives another factor when steps are asked for again or in another order: a resumed run starts "
        "in the middle, so it must be a pure function of the step"
    )
    assert_stateless("the schedule", schedule, lambda: schedule(3), "it must be a pure function of the step")
