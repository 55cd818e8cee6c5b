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
        repeats: how often each item had been drawn before in this epoch.
    """

    seed: int
    epoch: int
    items: Int64[Tensor, "n"]
    repeats: Int64[Tensor, "n"]

    def __getitem__(self, index: slice) -> RandomKeys:
        return RandomKeys(self.seed, self.epoch, self.items[index], self.repeats[index])

    def uniform(self, view: int, stream: int, count: int = 1) -> Float[Tensor, "n {count}"]:
        """Uniform numbers in [0, 1), independent between items, repeats, views, streams and columns.

        Args:
            view: index of the view.
            stream: what the numbers are for; every use in a view has a stream of its own.
            count: numbers an image.
        """
        state = absorb(torch.zeros_like(self.items), self.seed)
        for part in (self.epoch, self.items, self.repeats, view, stream):
            state = absorb(state, part)
        columns = torch.arange(count, device=self.items.device)
        return to_uniform(absorb(state[:, None].expand(-1, count), columns.expand(len(self.items), -1)))


def pair_uniform(seed: int, anchor_ids: Int64[Tensor, "b"], reference_ids: Int64[Tensor, "m"]) -> Float[Tensor, "b m"]:
    """Uniform numbers in [0, 1) for a miner that draws: each a pure function of the seed and of both rows' ids.

    So a pair has the same number in whatever order, on whichever rank and in whichever tile it is met, and a new one in
    every step, as the rows of a step have new ids.

    Args:
        seed: of the miner.
        anchor_ids, reference_ids: `pairs.anchors.ids` and `pairs.references.ids`.

    Example:
        >>> half = pair_uniform(0, pairs.anchors.ids, pairs.references.ids) < 0.5
        >>> replace(pairs, negative=pairs.negative & half)
    """
    state = absorb(absorb(torch.zeros_like(anchor_ids), seed), anchor_ids)
    state = state[:, None].expand(-1, len(reference_ids))
    return to_uniform(absorb(state, reference_ids.expand(len(anchor_ids), -1)))
