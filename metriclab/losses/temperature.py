"""A temperature that is learned, as the logarithm of its inverse, in the bounds of CLIP."""

from __future__ import annotations

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.errors import RecipeError

LARGEST_SCALE = 100.0
"""1 / t at most; 1 at least. Beyond it training becomes unstable.

Paper: Radford et al., Learning Transferable Visual Models From Natural Language Supervision, ICML 2021, section 2.5."""


def learned_scale(temperature: float) -> nn.Parameter:
    """log(1 / t) as a parameter, which optimizers do not decay.

    Raises:
        RecipeError: for a temperature that is out of bounds.
    """
    if not 1 / LARGEST_SCALE <= temperature <= 1:
        raise RecipeError(
            f"loss.temperature = {temperature} cannot be learned from: a learned one stays between "
            f"{1 / LARGEST_SCALE} and 1",
            help="set it between these, 0.07 for instance, or leave out learnable_temperature",
        )
    return nn.Parameter(torch.tensor(-math.log(temperature)))


def logged_temperature(self: nn.Module) -> dict[str, Tensor]:
    """The `logged_values` of a loss with a `log_scale`: the temperature, where it is learned."""
    if self.log_scale is None:
        return {}
    log_scale: Any = self.log_scale
    return {"temperature": (-log_scale.detach().clamp(0, math.log(LARGEST_SCALE))).exp()}


def scaled(
    similarity: Float[Tensor, "b m"], temperature: float, log_scale: nn.Parameter | None
) -> Float[Tensor, "b m"]:
    """s / t, of the learned temperature where there is one."""
    if log_scale is None:
        return similarity / temperature
    with torch.no_grad():  # what a step has moved out of bounds comes back, so that its gradient stays alive there
        log_scale.clamp_(0, math.log(LARGEST_SCALE))
    return similarity * log_scale.exp()
