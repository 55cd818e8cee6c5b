"""Whether the shape of the work may depend on values."""

from __future__ import annotations

from torch import Tensor


def is_cpu(x: Tensor) -> bool:
    """Whether values can be looked at without waiting for a GPU: then what changes nothing is passed over."""
    return x.device.type == "cpu"
