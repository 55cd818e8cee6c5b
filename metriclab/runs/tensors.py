"""Tensors out of a file that anyone may have changed."""

from __future__ import annotations

import safetensors.torch
from safetensors import SafetensorError
from torch import Tensor

from metriclab.errors import StorageError


def parse_tensors(content: bytes, place: str) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, on the CPU.

    Args:
        content: of the file.
        place: what to call it in messages.

    Raises:
        StorageError: where it is no such file, or holds tensors of a type that torch does not have.
    """
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(content)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise StorageError(
            f"{place} holds no tensors: {error}", help="put back what the run wrote, or run it again in another folder"
        ) from error
    return tensors
