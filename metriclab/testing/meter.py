"""Counting operators and the largest tensor: guards against slow-downs that no busy machine can upset."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Meter(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What ran inside the block, forwards and backwards.

    Attributes:
        largest: elements of the largest storage that any operator returned; views of it count as it.
        largest_bytes: bytes of the largest one.
        operators: how often each operator ran.
    """

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.largest = self.largest_bytes = 0
        self.operators: Counter[str] = Counter()

    def __torch_dispatch__(
        self, function: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        given = function(*args, **(kwargs or {}))
        self.operators[str(function)] += 1
        for tensor in tree_leaves(given):
            if isinstance(tensor, Tensor):
                size = tensor.untyped_storage().nbytes()
                self.largest = max(self.largest, size // tensor.element_size())
                self.largest_bytes = max(self.largest_bytes, size)
        return given


@contextmanager
def measure() -> Iterator[Meter]:
    """`with measure() as meter: ...`; backward passes are seen where they run in the calling thread, as on a CPU."""
    with torch.autograd.set_multithreading_enabled(False), Meter() as meter:
        yield meter
