"""Checkpoints: the whole state of a run at one step, as safetensors and JSON with hashes, never pickle."""

from __future__ import annotations

import contextlib
import logging
import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metriclab.core.files import read_regular, repair
from metriclab.errors import StorageError
from metriclab.recipe.document import read_tables
from metriclab.runs.files import digest, digest_of, read_json, write_atomic, write_json
from metriclab.runs.shapes import Manifest, StoredCheckpoint
from metriclab.runs.tensors import parse_tensors

_log = logging.getLogger(__name__)
_BOOKKEEPING = {"threads", "device", "log_every", "checkpoint_every", "keep_checkpoints", "evaluation_batch_size"}
_NAME = re.compile(r"step-(\d{10})\.json")


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """State after `step` steps.

    Attributes:
        step: number of steps done.
        tensors: state of modules and optimizer, flat, by name.
        numbers: everything else, plain values.
        resumable: whether it is more than the weights that a finished run keeps.
    """

    step: int
    tensors: dict[str, Tensor]
    numbers: dict[str, Any]
    resumable: bool = True


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
        raise _misfit(checkpoint, name, error) from error


def restore_optimizer(checkpoint: Checkpoint, optimizer: Optimizer) -> None:
    """Puts the stored moments into an optimizer built by the same recipe. Learning rates come from the schedule."""
    try:
        optimizer.load_state_dict({**optimizer.state_dict(), "state": _moments(checkpoint, optimizer)})
    except (RuntimeError, ValueError, IndexError) as error:
        raise _misfit(checkpoint, "optimizer", error) from error


def _moments(checkpoint: Checkpoint, optimizer: Optimizer) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    stored = {k: v for k, v in checkpoint.tensors.items() if k.startswith("optimizer.")}
    for key, value in {**stored, **checkpoint.numbers["optimizer"]}.items():
        _, index, name = key.split(".", 2)
        state.setdefault(int(index), {})[name] = value
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in state.items():
        parameter = parameters[index]
        for name, value in values.items():
            # Fused optimizers walk memory, not indices: moments must lie as their parameters do (channels last).
            if torch.is_tensor(value) and value.shape == parameter.shape:
                values[name] = torch.empty_like(parameter, dtype=value.dtype).copy_(value)
    return state


def _misfit(checkpoint: Checkpoint, name: str, error: Exception) -> StorageError:
    return StorageError(
        f"the checkpoint of step {checkpoint.step} does not fit this recipe's {name}: {error}",
        help="were metriclab, a plugin or timm changed since the run began? manifest.json names their versions",
    )


def save_checkpoint(folder: Path, checkpoint: Checkpoint, keep: Iterable[int]) -> None:
    """Writes a checkpoint and removes those of other steps, except the newest two and the steps to keep.

    The JSON file is written last and holds the hash of the tensors: without it there is no checkpoint.

    Args:
        folder: `checkpoints` of a run folder, whose recipe goes into it as a digest.
        checkpoint: to write.
        keep: steps.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(
            f"cannot make the folder {folder}: {error.strerror}", help=repair(error, "choose another --out")
        ) from error
    content = safetensors.torch.save(checkpoint.tensors)
    write_atomic(tensors_file(folder, checkpoint.step), content)
    body = {"step": checkpoint.step, "tensors_sha256": digest(content), "numbers": checkpoint.numbers}
    _write_body(folder, {**body, "run": _run_of(folder)})
    known = checkpoint_steps(folder)
    # Later ones were damaged: this run has gone on from before them.
    newest = sorted(step for step in known if step <= checkpoint.step)[-2:]
    _remove(folder, set(known) - {*newest, *keep})


def keep_weights(folder: Path, step: int) -> None:
    """Leaves of all checkpoints the weights of one step's alone: what a finished run is used by.

    At any moment the checkpoint of that step can be read: its JSON knows the smaller file before that takes its place.
    Where this fails, the run has its result all the same, so it is only told.

    Args:
        folder: `checkpoints` of a run folder.
        step: the best one; 0 where nothing was trained.
    """
    if not step:
        return
    try:
        saved = read_checkpoint(folder, step)
        weights = {name: tensor for name, tensor in saved.tensors.items() if name.startswith("method.")}
        content = safetensors.torch.save(weights)
        _remove(folder, set(checkpoint_steps(folder)) - {step})  # first, as it makes room
        body = read_json(_numbers_file(folder, step), StoredCheckpoint)["body"]
        _write_body(folder, {**body, "weights_sha256": digest(content)})
        write_atomic(tensors_file(folder, step), content)
    except StorageError as error:
        _log.warning("the checkpoints stay larger than they need be: %s", error.message)


def _write_body(folder: Path, body: Mapping[str, Any]) -> None:
    write_json(_numbers_file(folder, body["step"]), {"body": body, "sha256": digest_of(body)})


def _remove(folder: Path, steps: Iterable[int]) -> None:
    for step in steps:
        # The JSON goes first: what is left of an interrupted removal is no checkpoint.
        for file in (_numbers_file(folder, step), tensors_file(folder, step)):
            with contextlib.suppress(OSError):  # it only takes room
                file.unlink()


def checkpoint_steps(folder: Path) -> list[int]:
    """Steps of the checkpoints in the folder, whole or not, unordered.

    Raises:
        StorageError: where it is no folder, or cannot be read.
    """
    try:
        names = [_NAME.fullmatch(name) for name in os.listdir(folder)]
    except FileNotFoundError:
        return []
    except OSError as error:
        raise StorageError(
            f"{folder} cannot be read: {error.strerror}", help="put the checkpoints back that the run wrote there"
        ) from error
    return [int(match[1]) for match in names if match]


def tensors_file(folder: Path, step: int) -> Path:
    """Where the tensors of a step's checkpoint are."""
    return folder / f"step-{step:010d}.safetensors"


def _numbers_file(folder: Path, step: int) -> Path:
    return tensors_file(folder, step).with_suffix(".json")


def _run_of(folder: Path) -> dict[str, str]:
    """By what its checkpoints know a run, as far as its folder says it: what it trains, and on what.

    The recipe's values as they were stored, as a later version may add keys to them. Where the data lie, what is
    measured and how it is logged may be changed by hand.
    """
    of_run, run = {}, folder.parent
    if (run / "recipe.toml").is_file():
        tables = read_tables(run / "recipe.toml").values
        trained = {table: values for table, values in tables.items() if table not in ("data", "evaluate", "track")}
        settings = trained.get("train")
        if isinstance(settings, Mapping):
            trained["train"] = {key: value for key, value in settings.items() if key not in _BOOKKEEPING}
        of_run["recipe"] = digest_of(trained)
    if (run / "manifest.json").is_file():
        of_run["data"] = read_json(run / "manifest.json", Manifest)["data"]["train"]
    return of_run


def read_checkpoint(folder: Path, step: int) -> Checkpoint:
    """The checkpoint of a step, checked by its hashes.

    Raises:
        ForeignCheckpointError: where it is of another run than the folder.
        StorageError: where it is missing, cut short or altered.
    """
    stem = tensors_file(folder, step).with_suffix("")
    if not os.path.lexists(_numbers_file(folder, step)):
        raise StorageError(
            f"{folder} has no checkpoint of step {step}",
            help="a finished run has that of its best step alone, unless it was run with train.keep_checkpoints = true",
        )
    stored = read_json(_numbers_file(folder, step), StoredCheckpoint)
    damaged = StorageError(f"checkpoint {stem} is damaged: its hash does not match")
    try:
        content = read_regular(tensors_file(folder, step))
    except FileNotFoundError as error:
        raise damaged from error
    body, found = stored["body"], digest(content)
    weights = found == body.get("weights_sha256")
    if stored["sha256"] != digest_of(body) or (found != body["tensors_sha256"] and not weights):
        raise damaged
    if body["step"] != step:
        raise StorageError(f"checkpoint {stem} is that of step {body['step']}, under another name")
    own, its = _run_of(folder), body.get("run", {})
    if other := [part for part in own if its.get(part, own[part]) != own[part]]:
        raise ForeignCheckpointError(
            f"checkpoint {stem} is of another run: it has not the {' and '.join(other)} of {folder.parent}",
            help="move it back to the run that wrote it; without it this one goes on from its own",
        )
    return Checkpoint(step, parse_tensors(content, str(stem)), body["numbers"], resumable=not weights)


class ForeignCheckpointError(StorageError):
    """A checkpoint lies in the folder of a run that did not write it."""


def read_newest_checkpoint(folder: Path) -> tuple[Checkpoint | None, list[str]]:
    """The newest checkpoint that is whole, to go on from, and what was found wrong with newer ones.

    Raises:
        StorageError: where there are checkpoints and none is whole, one is of another run, or a finished run has kept
            the weights alone.
    """
    _run_of(folder)  # damage to what a run is known by is no fault of its checkpoints
    faults: list[str] = []
    for step in sorted(checkpoint_steps(folder), reverse=True):
        try:
            newest = read_checkpoint(folder, step)
        except ForeignCheckpointError:
            raise
        except StorageError as error:
            faults.append(error.message)
            continue
        if not newest.resumable:
            raise StorageError(
                f"{folder} has kept the weights alone, as a run does at its end, so it cannot be continued",
                help="put result.json back, or start a new run in another folder",
            )
        return newest, faults
    if faults:
        raise StorageError("no checkpoint is whole: " + "; ".join(faults), help="start a new run in another folder")
    return None, []
