"""Random bits of samplers: numpy keeps those of Philox for ever, but not what its generators make of them."""

from __future__ import annotations

import numpy as np
from jaxtyping import Int64


def bits_of(seed: int) -> np.random.Philox:
    """Random bits that depend on the seed alone."""
    return np.random.Philox(np.random.SeedSequence(seed % 2**64))


def shuffle(count: int, bits: np.random.Philox) -> Int64[np.ndarray, "{count}"]:
    """The numbers below `count` in random order."""
    return np.argsort(bits.random_raw(count), kind="stable").astype(np.int64)
