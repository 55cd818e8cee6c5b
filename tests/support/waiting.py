"""What makes a program wait for a GPU, seen where there is none: tensors that claim to be on one, without data."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


class Copies(TorchDispatchMode):
    """Notes each copy between the host and the device."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        if "copy" in function.overloadpacket.__name__:
            places = {leaf.device.type for leaf in tree_leaves((args, kwargs, result)) if torch.is_tensor(leaf)}
            if len(places) > 1:
                self.found.append(str(function))
        return result


@contextmanager
def a_gpu_without_data() -> Iterator[Copies]:
    """Inside, `torch.zeros(..., device="cuda")` works anywhere, and whatever needs a value of it raises an error.

    That is `.item()`, `.tolist()`, `bool()`, `nonzero`, a boolean index, `.cpu().numpy()`: all that would have a GPU
    wait, however it is written. Copies between host and device are noted.
    """
    with FakeTensorMode(), Copies() as copies:
        yield copies
