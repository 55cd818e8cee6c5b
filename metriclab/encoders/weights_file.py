"""The tensors of a weights file, read without running anything that is pickled in it."""

from __future__ import annotations

import argparse
import pickle
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from metriclab.errors import DataError

ENDINGS = (".safetensors", ".pth", ".pt", ".pth.tar", ".ckpt", ".bin")
"""Of the files that are read; all but the first are what torch.save writes."""

_DEEPEST = 8
"""Dicts within dicts that are looked into; one may hold itself."""


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file, on the CPU, by name; within dicts by the path to them ("state_dict.fc.weight").

    Args:
        path: of one of `ENDINGS`, with nothing in it but tensors and plain values.

    Raises:
        DataError: where the file is missing, of another kind, damaged, or holds pickled objects.
    """
    endings = f"{', '.join(ENDINGS[:-1])} or {ENDINGS[-1]}"
    if not path.is_file():
        problem = "is a folder, not a weights file" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {problem}", help=f"set encoder.weights to a {endings} file")
    if not is_weights_file(path):
        raise DataError(f"{path}: weights of unknown kind '{path.suffix}'", help=f"give a {endings} file")
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    state = dict(_tensors(_read_torch(path), ()))
    if not state:
        raise DataError(
            f"{path}: holds no weights by name", help="save them by torch.save(model.state_dict(), 'weights.pth')"
        )
    return state


def is_weights_file(path: Path) -> bool:
    """Whether a path is called as one."""
    return path.name.lower().endswith(ENDINGS)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path}: damaged or not a safetensors file: {error}", help="copy the file again") from error


def _read_torch(path: Path) -> Any:
    try:
        # Many training scripts save their command line, which is such a plain bag of values.
        with torch.serialization.safe_globals([argparse.Namespace]):
            return torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message recommends to run the pickled code; ours must not do so without a condition.
        found = re.search(r"GLOBAL (\S+)", str(error))
        raise DataError(
            f"{path}: holds pickled objects{f' ({found[1]})' if found else ''}, which could run code and are not "
            "loaded, or is damaged",
            help=f"where you trust its origin, save only its tensors: content = torch.load({str(path)!r}, "
            "map_location='cpu', weights_only=False); torch.save(content['state_dict'], 'weights.pth'), or whatever "
            "key of content holds the model's state_dict()",
        ) from error
    except Exception as error:  # bytes that are no pickle fail in any way
        raise DataError(f"{path}: damaged or not a weights file", help="copy the file again") from error


def _tensors(content: Any, where: tuple[str, ...]) -> Iterator[tuple[str, Tensor]]:
    """The tensors in dicts, and in dicts of these; an optimizer's are numbered and no part of a network."""
    if isinstance(content, Tensor):
        yield ".".join(where), content
    elif isinstance(content, Mapping) and all(isinstance(key, str) for key in content) and len(where) < _DEEPEST:
        for key, value in content.items():
            yield from _tensors(value, (*where, key))
