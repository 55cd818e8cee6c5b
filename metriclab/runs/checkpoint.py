"""Checkpoints: the whole state of a run at one step, as safetensors and JSON with hashes, never pickle."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metriclab.errors import StorageError
from metriclab.runs.files import digest, digest_of, read_json, write_atomic, write_json

_NAME = re.compile(r"step-(\d{10})\.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State after `step` steps.

    Attributes:
        step: number of steps done.
        tensors: state of modules and optimizer, flat, by name.
        numbers: everything else, plain values.
    """

    step: int
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]


def capture(
    step: int, modules: Mapping[str, nn.Module], optimizer: Optimizer | None, numbers: dict[str, Any]
) -> Checkpoint:
    """A copy of the state on the CPU. A module's tensors are stored under its name, which has no dot in it."""
    tensors = {f"{name}.{key}": value for name, module in modules.items() for key, value in module.state_dict().items()}
    scalars: dict[str, Any] = {}
    if optimizer is not None:
        for index, state in optimizer.state_dict()["state"].items():
            for name, value in state.items():
                key = f"optimizer.{index}.{name}"
                if torch.is_tensor(value):
                    tensors[key] = value
                else:
                    scalars[key] = value
    copies = {key: value.detach().to("cpu", copy=True).contiguous() for key, value in tensors.items()}
    return Checkpoint(step, copies, {**numbers, "optimizer": scalars})


def restore_method(checkpoint: Checkpoint, method: nn.Module) -> None:
    """Puts the stored state into a method built by the same recipe."""
    restore_module(checkpoint, "method", method)


def restore_module(checkpoint: Checkpoint, name: str, module: nn.Module) -> None:
    """Puts the state that was stored under a name into a module built by the same recipe."""
    prefix = f"{name}."
    state = {key[len(prefix) :]: value for key, value in checkpoint.tensors.items() if key.startswith(prefix)}
    try:
        module.load_state_dict(state, strict=True)
    except RuntimeError as error:
        raise StorageError(
            f"the checkpoint of step {checkpoint.step} does not fit this recipe's {name}: {error}",
            help="were metriclab, a plugin or timm changed since the run began? manifest.json names their versions",
        ) from error


def restore_optimizer(checkpoint: Checkpoint, optimizer: Optimizer) -> None:
    """Puts the stored moments into an optimizer built by the same recipe. Learning rates come from the schedule."""
    state: dict[int, dict[str, Any]] = {}
    stored = {k: v for k, v in checkpoint.tensors.items() if k.startswith("optimizer.")}
    for key, value in {**stored, **checkpoint.numbers["optimizer"]}.items():
        _, index, name = key.split(".", 2)
        state.setdefault(int(index), {})[name] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in state.items():
        for name, value in values.items():
            # Fused optimizers walk memory, not indices: moments must lie as their parameters do (channels last).
            if torch.is_tensor(value) and value.shape == parameters[index].shape:
                values[name] = torch.empty_like(parameters[index], dtype=value.dtype).copy_(value)
    optimizer.load_state_dict({"state": state, "param_groups": optimizer.state_dict()["param_groups"]})


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: Iterable[int]) -> None:
    """Writes a checkpoint and removes those of other steps, except the newest two and the steps to keep.

    The JSON file is written last and holds the hash of the tensors: without it there is no checkpoint.
    """
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"step-{checkpoint.step:010d}"
    content = safetensors.torch.save(checkpoint.tensors)
    write_atomic(stem.with_suffix(".safetensors"), content)
    body = {"step": checkpoint.step, "tensors_sha256": digest(content), "numbers": checkpoint.numbers}
    write_json(stem.with_suffix(".json"), {"body": body, "sha256": digest_of(body)})
    known = checkpoint_steps(folder)
    # Later ones were damaged: this run has gone on from before them.
    newest = sorted(step for step in known if step <= checkpoint.step)[-2:]
    for step in set(known) - {*newest, *keep}:
        # The JSON goes first: what is left of an interrupted removal is no checkpoint.
        for suffix in (".json", ".safetensors"):
            (folder / f"step-{step:010d}{suffix}").unlink(missing_ok=True)


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in the folder, whole or not, unordered."""
    names = (_NAME.fullmatch(path.name) for path in folder.glob("step-*.json"))
    return [int(match[1]) for match in names if match]


def tensors_file(folder: Path, step: int) -> Path:
    """Where the tensors of a step's checkpoint are."""
    return folder / f"step-{step:010d}.safetensors"


def read_checkpoint(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of a step, checked by its hashes.

    Raises:
        StorageError: where it is missing, cut short or altered.
    """
    stem = tensors_file(folder, step).with_suffix("")
    stored = read_json(stem.with_suffix(".json"))
    damaged = StorageError(f"checkpoint {stem} is damaged: its hash does not match")
    try:
        body = stored["body"]
        content = tensors_file(folder, step).read_bytes()
        if stored["sha256"] != digest_of(body) or body["tensors_sha256"] != digest(content):
            raise damaged
    except (KeyError, TypeError, OSError) as error:
        raise damaged from error
    return Checkpoint(body["step"], safetensors.torch.load(content), body["numbers"])


def read_newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, and what was found wrong with newer ones.

    Raises:
        StorageError: where there are checkpoints and none is whole.
    """
    faults: list[str] = []
    for step in sorted(checkpoint_steps(folder), reverse=True):
        try:
            return read_checkpoint(folder, step), faults
        except StorageError as error:
            faults.append(error.message)
    if faults:
        raise StorageError("no checkpoint is whole: " + "; ".join(faults), help="start a new run in another folder")
    return None, []
