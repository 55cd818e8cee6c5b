"""Numbers for the rows of a tensor that are no other tensor's: what they are told apart by where nobody says more."""

from __future__ import annotations

import threading

import torch
from jaxtyping import Int64
from torch import Tensor
from torch.utils.weak import WeakTensorKeyDictionary

from metriclab import distributed

_RANK_SHIFT = 40
_next, _lock = 1, threading.Lock()
_numbered = WeakTensorKeyDictionary()
"""The version and the numbers of each tensor that was asked for, as long as the tensor lives."""


def fresh_numbers(z: Tensor) -> Int64[Tensor, "n"]:
    """Positive numbers that no other tensor gets, on any rank; the same ones again for this tensor while unchanged."""
    version = None if z.is_inference() else z._version  # tensors made for inference are not followed
    if version is not None and z in _numbered:
        of_version, numbers = _numbered[z]
        if of_version == version:
            return numbers  # type: ignore[no-any-return]  # the dictionary is untyped
    with _lock:
        global _next
        start, _next = _next, _next + len(z)
    numbers = torch.arange(start, start + len(z), device=z.device) + (distributed.rank() << _RANK_SHIFT)
    if version is not None:
        _numbered[z] = version, numbers
    return numbers
