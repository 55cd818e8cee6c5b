"""The splits of a data set, from whatever builds one of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from metriclab.core.protocols import Dataset, Split

SPLITS: tuple[Split, ...] = ("train", "val", "test")


def has_features(data: Dataset) -> bool:
    """Whether a data set has features in place of images."""
    return bool(getattr(data, "has_features", False))


def build_splits(build: Callable[[Split], Any], splits: Sequence[Split]) -> list[Dataset]:
    """These splits. Where the data set has `with_split`, its files are looked for once, for the first of them.

    Args:
        build: the registered callable of the data set, with its parameters.
        splits: which ones, in the order in which they come back.
    """
    first = build(splits[0])
    other: Callable[[Split], Dataset] = getattr(first, "with_split", build)
    return [first, *map(other, splits[1:])]
