"""Weights from a file, whole or not at all."""

from __future__ import annotations

import pickle
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from metriclab.errors import DataError

_WRAPPERS = ("state_dict", "model")  # what training scripts put around their weights
_PREFIXES = ("method.network.encoder.", "network.encoder.", "module.")  # as in a checkpoint of a run; in DataParallel


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a weights file by name, on the CPU.

    The parts of a file that hold the encoder are found: weights wrapped as `state_dict` or `model`, and names that
    begin with `method.network.encoder.`, `network.encoder.` or `module.`.

    Args:
        path: a .safetensors file, or a .pth or .pt file with nothing but tensors in it.

    Raises:
        DataError: where the file is missing, of another kind, damaged, or holds pickled objects.
    """
    if not path.is_file():
        problem = "is a folder, not a weights file" if path.is_dir() else "no such file"
        raise DataError(f"{path}: {problem}", help="set encoder.weights to a .safetensors, .pth or .pt file")
    if path.suffix == ".safetensors":
        state = _read_safetensors(path)
    elif path.suffix in (".pth", ".pt"):
        state = _read_torch(path)
    else:
        raise DataError(
            f"{path}: weights of unknown kind '{path.suffix}'", help="give a .safetensors, .pth or .pt file"
        )
    for prefix in _PREFIXES:
        inside = {name.removeprefix(prefix): tensor for name, tensor in state.items() if name.startswith(prefix)}
        state = inside or state
    return state


def load_whole(module: nn.Module, state: Mapping[str, Tensor], path: Path, *, ignored: Iterable[str] = ()) -> None:
    """Loads the weights if every name and shape fits; otherwise changes nothing.

    Args:
        module: what to load into.
        state: tensors by name.
        path: the file they come from, for messages.
        ignored: parts, such as a classifier's, whose tensors may be in the file without a place in the module.

    Raises:
        DataError: naming the tensors that are missing, unexpected or of another shape.
    """
    wanted = module.state_dict()
    left_out = tuple(f"{part}." for part in ignored)
    given = {name: tensor for name, tensor in state.items() if name in wanted or not name.startswith(left_out)}
    # Files older than PyTorch 0.4.1 lack this counter, which no forward pass reads.
    missing = [name for name in wanted if name not in given and not name.endswith("num_batches_tracked")]
    unexpected = [name for name in given if name not in wanted]
    if missing or unexpected:
        raise DataError(
            f"{path}: these are not the weights of this model ({_count('missing', missing)}; "
            f"{_count('unexpected', unexpected)})",
            help="set encoder.model to the model that the file was saved from",
        )
    for name, tensor in given.items():
        if tensor.shape != wanted[name].shape:
            raise DataError(
                f"{path}: '{name}' has shape {tuple(tensor.shape)}, this model needs {tuple(wanted[name].shape)}",
                help="set encoder.model, in_chans, image_size and cifar_stem as they were when the file was saved",
            )
    module.load_state_dict(given, strict=False)


def _read_safetensors(path: Path) -> dict[str, Tensor]:
    try:
        return load_file(path)
    except SafetensorError as error:
        raise DataError(f"{path}: damaged or not a safetensors file: {error}", help="copy the file again") from error


def _read_torch(path: Path) -> dict[str, Tensor]:
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message recommends to run the pickled code; ours must not.
        raise DataError(
            f"{path}: holds pickled objects, which could run code and are not loaded, or is damaged",
            help="where you trust its origin, save only its tensors: torch.save(model.state_dict(), 'weights.pth')",
        ) from error
    except (RuntimeError, EOFError, OSError) as error:
        raise DataError(f"{path}: damaged or not a weights file", help="copy the file again") from error
    for wrapper in _WRAPPERS:
        if isinstance(content, dict) and isinstance(content.get(wrapper), dict):
            content = content[wrapper]
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise DataError(
            f"{path}: holds no weights by name", help="save them by torch.save(model.state_dict(), 'weights.pth')"
        )
    return content


def _count(kind: str, names: list[str]) -> str:
    shown = ", ".join(names[:3]) + (", ..." if len(names) > 3 else "")
    return f"{len(names)} {kind}: {shown}" if names else f"0 {kind}"
