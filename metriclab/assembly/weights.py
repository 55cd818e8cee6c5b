"""Encoders that start from what an earlier run has trained."""

from __future__ import annotations

import shlex
from dataclasses import replace
from pathlib import Path
from typing import Any

from metriclab.encoders.weights_file import ENDINGS, is_weights_file
from metriclab.errors import DataError, RecipeError, StorageError
from metriclab.recipe import ComponentSpec, Recipe
from metriclab.registry.toml import toml_value
from metriclab.runs import checkpoint as checkpoints
from metriclab.runs.folder import RunFolder

_MAY_DIFFER = (
    *("weights", "weights_prefix", "pretrained", "trainable", "unfreeze_at", "frozen_mode", "freeze_batch_norm"),
    *("drop_rate", "drop_path_rate", "gradient_checkpointing"),
)


def build_encoder(chosen: ComponentSpec, *, initial: bool = True) -> Any:
    """The encoder of a recipe, whose `weights` may be a run folder: then they are those of its best checkpoint.

    Args:
        chosen: the recipe's encoder.
        initial: False leaves out `pretrained` and `weights`, which only say what to start from.

    Raises:
        StorageError: where there is no such run, or it has no checkpoint that is whole.
        RecipeError: where that run trained another encoder.
    """
    if not initial:
        none = {"pretrained": False, "weights": None, "weights_prefix": None}
        return _with(chosen, **{key: value for key, value in none.items() if key in chosen.params}).build()
    weights = chosen.params.get("weights")
    if not isinstance(weights, str) or _is_file(Path(weights)):
        return chosen.build()
    folder = RunFolder(Path(weights))
    file = _checkpoint_file(folder)
    try:
        return _with(chosen, weights=str(file)).build()
    except DataError as error:  # the file is whole, as its hash was right
        raise _mismatch(chosen, folder, error) from error


def has_loaded_weights(recipe: Recipe) -> bool:
    """Whether a run starts from weights that somebody trained."""
    params = recipe.components["encoder"].params
    return bool(params.get("pretrained") or params.get("weights"))


def best_checkpoint(folder: RunFolder) -> checkpoints.Checkpoint | None:
    """The best checkpoint of a finished run, or the newest of an unfinished one; None for a run of no steps.

    Raises:
        StorageError: where it is damaged, or the run has none yet.
    """
    if folder.result_file.exists():
        best = folder.result()["best_step"]
        # A run of no steps has nothing to save: its network is what the recipe builds.
        return checkpoints.read_checkpoint(folder.checkpoints, best) if best else None
    newest, _ = checkpoints.read_newest_checkpoint(folder.checkpoints)
    if newest is None:
        raise StorageError(
            f"{folder.path} has no checkpoint yet",
            help=f"let the run reach its first one; continue it with: {folder.resume_command}",
        )
    return newest


def _with(chosen: ComponentSpec, **params: Any) -> ComponentSpec:
    return replace(chosen, params={**chosen.params, **params})


def _is_file(path: Path) -> bool:
    return not path.is_dir() and (path.is_file() or is_weights_file(path))


def _checkpoint_file(folder: RunFolder) -> Path:
    if not folder.recipe_file.is_file():
        first = shlex.join(["metriclab", "run", "RECIPE", "--out", str(folder.path)])
        raise StorageError(
            f"encoder.weights = {toml_value(str(folder.path))}: there is no run in this folder",
            help=f"run first what it is to start from: {first}; or name a file that ends in {', '.join(ENDINGS)}",
        )
    saved = best_checkpoint(folder)
    if saved is None:
        raise StorageError(
            f"encoder.weights = {toml_value(str(folder.path))}: that run trained nothing and saved no weights",
            help="name a run of some steps, or leave out weights",
        )
    return checkpoints.tensors_file(folder.checkpoints, saved.step)


def _mismatch(chosen: ComponentSpec, folder: RunFolder, error: DataError) -> RecipeError:
    """Says what of its encoder the run had set in another way."""
    ours, theirs = chosen.as_dict(), folder.recipe().components["encoder"].as_dict()
    different = [key for key in theirs if key not in _MAY_DIFFER and theirs[key] != ours.get(key)]
    as_there = [
        f"leave out encoder.{key}" if theirs[key] is None else f"set encoder.{key} = {toml_value(theirs[key])}"
        for key in different
    ]
    return RecipeError(
        f"encoder.weights = {toml_value(str(folder.path))}: the encoder of that run is another one than this recipe's: "
        + error.message,
        help=f"{' and '.join(as_there)}, as in {folder.recipe_file}" if as_there else error.help,
    )
