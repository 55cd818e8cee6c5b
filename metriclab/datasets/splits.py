"""Which split an item belongs to: decided by a hash of its own name, so that adding items does not move the others."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float64, Shaped

from metriclab.core.splits import SPLITS
from metriclab.errors import DataError, RecipeError


def require_split(split: str) -> None:
    """Raises a RecipeError unless there is such a split."""
    if split not in SPLITS:
        raise RecipeError(f"there is no split {split!r}", help=f"the splits are {', '.join(SPLITS)}")


def shares(keys: Sequence[str]) -> Float64[np.ndarray, "n"]:
    """For each key a number in [0, 1) that depends on that key alone and looks uniformly random."""
    digests = b"".join(hashlib.blake2b(key.encode(errors="surrogateescape"), digest_size=8).digest() for key in keys)
    return (np.frombuffer(digests, dtype="<u8") >> 11) * 2.0**-53


def carve(
    keys: Sequence[str], fractions: Mapping[str, float], *, least: int = 1, what: str = "images", place: str
) -> Shaped[np.ndarray, "n"]:
    """The split of each key: one of those in `fractions`, else "train".

    A key falls by its share alone, but for so few keys that a split would be left with less than `least`: then the
    keys nearest to its border join it.

    Args:
        keys: names that do not depend on where the data lie, without repeats.
        fractions: expected part of the keys in each split; a split with fraction 0 gets none.
        least: smallest number of keys in any split with a fraction, and in train.
        what: the plural of what is split, for the message.
        place: where the keys come from, for the message.

    Raises:
        DataError: if there are too few keys.
    """
    wanted = {split: fraction for split, fraction in fractions.items() if fraction > 0}
    needed = least * (len(wanted) + 1)
    if len(keys) < needed:
        raise DataError(
            f"{place}: {len(keys)} {what} are too few to make {len(wanted) + 1} splits of at least {least}",
            help=f"give it {needed} or more, or make the splits yourself",
        )
    if sum(wanted.values()) >= 1:
        raise RecipeError(
            f"{' and '.join(wanted)} leave nothing to train on: their fractions add up to {sum(wanted.values()):g}",
            help="let them add up to less than 1",
        )
    share = shares(keys)
    order = np.lexsort((np.asarray(keys), share))
    splits = np.full(len(keys), "train", dtype="<U5")
    start, border, still_needed = 0, 0.0, needed
    for split, fraction in wanted.items():
        border += fraction
        still_needed -= least
        stop = int(np.searchsorted(share[order], border))
        stop = min(max(stop, start + least), len(keys) - still_needed)
        splits[order[start:stop]] = split
        start = stop
    return splits
