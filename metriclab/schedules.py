"""Learning rate schedules: pure functions from a step to a factor of the learning rate.

What makes one is a function, and has the kind of name that the components of all kinds have.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated

from annotated_types import Ge, Le

from metriclab.registry import RunStep, register

__all__ = ["Constant", "Cosine"]

Warmup = Annotated[float, Ge(0), Le(1), RunStep("there is no warm-up", "share")]


@register("schedule", "constant")
def Constant(total_steps: int, /, *, warmup: Warmup = 0.0) -> Callable[[int], float]:
    """A constant rate, after a linear warm-up.

    Args:
        total_steps: of the run.
        warmup: fraction of all steps that the rate takes to rise; its first step has 1/n of the rate, its nth all.
    """
    rising = round(warmup * total_steps)

    def factor(step: int) -> float:
        return _rise(step, rising)

    return factor


@register("schedule", "cosine")
def Cosine(
    total_steps: int,
    /,
    *,
    warmup: Warmup = 0.0,
    final: Annotated[float, Ge(0), Le(1)] = 0.0,
) -> Callable[[int], float]:
    """Half a cosine from the full rate down, after a linear warm-up.

    Paper: Loshchilov & Hutter, SGDR: Stochastic Gradient Descent with Warm Restarts, ICLR 2017, equation 5, without
        restarts.

    Args:
        total_steps: of the run.
        warmup: fraction of all steps that the rate takes to rise; its first step has 1/n of the rate, its nth all.
        final: factor that is reached when all steps are done; the last step is still a little above it.
    """
    rising = round(warmup * total_steps)
    falling = max(1, total_steps - rising)

    def factor(step: int) -> float:
        if step < rising:
            return _rise(step, rising)
        done = min(1.0, (step - rising) / falling)
        return final + (1 - final) * (1 + math.cos(math.pi * done)) / 2

    return factor


def _rise(step: int, rising: int) -> float:
    return min(1.0, (step + 1) / max(1, rising))
