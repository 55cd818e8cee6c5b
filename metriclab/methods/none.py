"""No training: the baseline that every trained encoder is held against."""

from __future__ import annotations

from typing import Any, NoReturn

from torch import nn

from metriclab.core.batch import Batch
from metriclab.core.network import Network
from metriclab.errors import RecipeError
from metriclab.registry import register


@register("method", "none")
class Untrained(nn.Module):
    """Measures a network as it is: raw pixels, an untrained encoder, a pretrained one. Needs `train.steps = 0`.

    Args:
        network: encoder and head.
    """

    def __init__(self, network: Network, /) -> None:
        super().__init__()
        self.network = network

    def forward(self, batch: Batch) -> NoReturn:
        raise RecipeError("method 'none' does not train", help="set train.steps = 0, or name another method")

    def objective(self, local: Any, world: Any) -> NoReturn:
        raise AssertionError("forward has refused already")

    def after_step(self, world: Any, step: int) -> None:
        pass
