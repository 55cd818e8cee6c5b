"""Images of one shape that all fit into memory: what most data sets are made of."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Int64, UInt8

from metriclab.core.batch import Images


class ArrayImages:
    """One split as arrays; a data set holds one and hands out what is in it.

    Args:
        pixels: 1 or 3 channels.
        labels: index into classes, negative for unknown.
        classes: names.
        names: one an image.
        origin: what the fingerprint depends on besides pixels and labels.
    """

    def __init__(
        self,
        pixels: UInt8[np.ndarray, "n c h w"],
        labels: Int64[np.ndarray, "n"],
        classes: Sequence[str],
        names: Sequence[str],
        *,
        origin: str = "",
    ) -> None:
        assert len(pixels) == len(labels) == len(names)
        self.pixels, self.labels, self.classes, self.names = pixels, labels, classes, names
        self._origin = origin

    @cached_property
    def fingerprint(self) -> str:
        head = repr((self._origin, self.pixels.shape)).encode()
        return digest([head, np.ascontiguousarray(self.pixels).data, label_bytes(self.labels, self.classes)])

    def images(self, items: Int64[np.ndarray, "m"]) -> Images:
        pixels = self.pixels[items]
        sizes = torch.tensor(pixels.shape[2:], dtype=torch.int64).expand(len(pixels), 2).contiguous()
        return Images(torch.from_numpy(pixels), sizes)


def digest(parts: Iterable[bytes | memoryview]) -> str:
    """Hex digest of the parts one after the other."""
    state = hashlib.sha256()
    for part in parts:
        state.update(part)
    return state.hexdigest()


def label_bytes(labels: Int64[np.ndarray, "n"], classes: Sequence[str]) -> bytes:
    """The name of each item's class: it says what labels mean even where another split adds classes."""
    return "\0".join(classes[label] if label >= 0 else "" for label in labels).encode(errors="surrogateescape")
