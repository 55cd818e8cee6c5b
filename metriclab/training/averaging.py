"""The moving average of a network's weights: measured, saved and used in place of those that train."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from metriclab.assembly.assemble import Training


class WeightAverage:
    """An exponential moving average of encoder and head, where `train.ema` asks for one; otherwise it does nothing.

    After step t the average a becomes d a + (1 - d) w, with d the smaller of `train.ema` and 1 - t^(-2/3), so that it
    begins with the weights of the first step and has soon forgotten those. Running statistics of BatchNorm are averaged
    alike, counters copied. Every rank keeps the same one by itself.

    A run saves the average as its method's network, so that whatever reads a checkpoint has it, and the weights that
    train beside it, for `--resume` alone.

    Args:
        training: what is trained; its network holds the weights that train, but for within `swapped`.
    """

    def __init__(self, training: Training) -> None:
        self.network = training.method.get_submodule("network")
        decay = training.settings.ema
        self.average = None
        if decay is not None and training.optimizer is not None and any(True for _ in self.network.parameters()):
            self.average = ModelEmaV3(self.network, decay=decay, use_warmup=True)

    def modules(self) -> dict[str, nn.Module]:
        """What a checkpoint saves besides the method, with the weights swapped."""
        return {} if self.average is None else {"trained": self.average.module}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Takes in the weights after a step, counted from 1."""
        if self.average is not None:
            weight = 1 - self.average.get_decay(step)
            for own, kept in self._pairs(self.average.module):
                kept.lerp_(own, weight) if kept.is_floating_point() else kept.copy_(own)

    @torch.no_grad()
    def swap(self) -> None:
        """Exchanges the network's weights and their average."""
        if self.average is not None:
            for own, other in self._pairs(self.average.module):
                kept = own.clone()
                own.copy_(other)
                other.copy_(kept)

    def _pairs(self, average: nn.Module) -> Iterator[tuple[Tensor, Tensor]]:
        """Every tensor and its average, once, also where layers share it."""
        sides = ([*net.parameters(), *net.buffers()] for net in (self.network, average))
        return zip(*sides, strict=True)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """The average in place of the weights for as long as the `with` lasts."""
        self.swap()
        try:
            yield
        finally:
            self.swap()
