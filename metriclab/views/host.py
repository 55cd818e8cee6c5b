"""Whether the shape of the work may depend on values."""

from __future__ import annotations

from torch import Tensor


def knows(x: Tensor) -> bool:
    """Whether the host can look at these values without waiting for a GPU: then what changes nothing is passed over."""
    return x.device.type == "cpu"
