"""Randomness as a pure function: a counter-based generator instead of a stream.

What a draw gives depends on its key alone, so the composition of batches, the number of workers or ranks, and
resuming a run cannot change it.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int64
from torch import Tensor


def _signed(value: int) -> int:
    return value - (1 << 64) if value >= 1 << 63 else value


_INCREMENT = _signed(0x9E3779B97F4A7C15)
_FIRST = _signed(0xBF58476D1CE4E5B9)
_SECOND = _signed(0x94D049BB133111EB)


def _shift_right(x: Int64[Tensor, "*s"], bits: int) -> Int64[Tensor, "*s"]:
    return (x >> bits) & ((1 << (64 - bits)) - 1)  # int64 shifts carry the sign along; the mask takes it off


def mix(x: Int64[Tensor, "*s"]) -> Int64[Tensor, "*s"]:
    """The 64-bit finaliser of SplitMix64 (Steele et al. 2014): a bijection whose output bits look independent."""
    x = (x ^ _shift_right(x, 30)) * _FIRST
    x = (x ^ _shift_right(x, 27)) * _SECOND
    return x ^ _shift_right(x, 31)


def absorb(state: Int64[Tensor, "*s"], value: Int64[Tensor, "*s"] | int) -> Int64[Tensor, "*s"]:
    """The state after one more part of the key."""
    return mix(state * 3 + value + _INCREMENT)


def to_uniform(bits: Int64[Tensor, "*s"]) -> Float[Tensor, "*s"]:
    """Float32 in [0, 1) from the upper 24 bits."""
    return _shift_right(bits, 40).float() * 2.0**-24


@dataclass(frozen=True, slots=True)
class RandomKeys:
    """The random draws of n images: each its own, and each a pure function of its key.

    Attributes:
        seed, epoch: of the run.
        items: indices of the images in their data set.
        draws: how often each item had been drawn before in this epoch.
    """

    seed: int
    epoch: int
    items: Int64[Tensor, "n"]
    draws: Int64[Tensor, "n"]

    def __getitem__(self, index: slice) -> RandomKeys:
        return RandomKeys(self.seed, self.epoch, self.items[index], self.draws[index])

    def uniform(self, view: int, slot: int, count: int = 1) -> Float[Tensor, "n {count}"]:
        """Uniform numbers in [0, 1), independent between items, draws, views, slots and columns.

        Args:
            view: index of the view.
            slot: what the numbers are for; every use in a view has a slot of its own.
            count: numbers an image.
        """
        state = absorb(torch.zeros_like(self.items), self.seed)
        for part in (self.epoch, self.items, self.draws, view, slot):
            state = absorb(state, part)
        columns = torch.arange(count, device=self.items.device)
        return to_uniform(absorb(state[:, None].expand(-1, count), columns.expand(len(self.items), -1)))
