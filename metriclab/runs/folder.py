"""The run folder: everything a run leaves behind, and the truth about it.

recipe.toml         the complete recipe, every default filled in
manifest.json       versions, plugins, hardware, threads, fingerprint of the data
metrics.jsonl       one line a logged step
checkpoints/        state, by step
scores.safetensors  what every query of the test split scored, written at the end
result.json         what was measured, written last: a folder that has it is finished
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import safetensors.torch
from torch import Tensor

from metriclab import distributed
from metriclab.errors import RecipeError, StorageError
from metriclab.recipe import Recipe, read_recipe
from metriclab.runs.files import digest, read_json, write_atomic, write_json
from metriclab.runs.renamed import rename, upgrade


class RunFolder:
    """Paths and files of one run.

    Args:
        path: the folder; `create` or `reopen` checks it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.recipe_file = path / "recipe.toml"
        self.manifest_file = path / "manifest.json"
        self.metrics_file = path / "metrics.jsonl"
        self.result_file = path / "result.json"
        self.scores_file = path / "scores.safetensors"

    def refuse_existing(self) -> None:
        """Checks that a new run may use the folder.

        Raises:
            StorageError: where it exists and is not empty.
        """
        if self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir())):
            raise StorageError(
                f"run folder {self.path} exists already",
                help="add --resume to continue that run, or choose another folder with --out",
            )

    def create(self, recipe: Recipe) -> None:
        """Makes the folder with the complete recipe in it.

        Raises:
            StorageError: where it cannot be made, or exists and is not empty.
        """
        self.refuse_existing()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(f"cannot make run folder {self.path}: {error.strerror}") from error
        write_atomic(self.recipe_file, recipe.to_toml().encode())

    def reopen(self, recipe: Recipe) -> None:
        """Checks that the folder holds a run of this very recipe.

        Raises:
            StorageError: where it holds no run.
            RecipeError: where the recipe differs, naming the keys.
        """
        if not self.recipe_file.is_file():
            raise StorageError(f"{self.path} holds no run to resume", help="leave --resume away to start one")
        self._sweep()
        changed = self.differences(recipe)
        if changed:
            raise RecipeError(
                f"the recipe differs from the one {self.path} was started with: {', '.join(changed)}",
                help="resume with the same recipe and --set options, or start a new run with --out",
            )

    def _sweep(self) -> None:
        # Halves of files that a killed process was writing.
        if distributed.rank() == 0:
            for part in (*self.path.glob(".*.part"), *self.checkpoints.glob(".step-*.part")):
                part.unlink(missing_ok=True)

    def differences(self, recipe: Recipe) -> list[str]:
        """Dotted keys in which a recipe differs from the one the run was started with."""
        return sorted(_differences(read_recipe(self.recipe_file).as_dict(), recipe.as_dict()))

    def recipe(self) -> Recipe:
        """The complete recipe the run was started with."""
        if not self.recipe_file.is_file():
            raise StorageError(f"{self.path} is no run folder: it has no recipe.toml")
        return read_recipe(self.recipe_file)

    def manifest(self) -> dict[str, Any]:
        value: dict[str, Any] = read_json(self.manifest_file)
        return value

    def result(self) -> dict[str, Any]:
        value: dict[str, Any] = upgrade(read_json(self.result_file))
        return value

    def logged(self) -> Iterator[dict[str, Any]]:
        """What was logged, step by step; nothing where no tracker wrote it. A line that was cut short is left out."""
        for text in self.metrics_file.read_text("utf-8").splitlines() if self.metrics_file.is_file() else []:
            if _step_of(text) < float("inf"):
                yield upgrade(json.loads(text))

    def cut_metrics(self, step: int) -> None:
        """Drops what was logged after the step, and a line that was cut short: those steps will be run again."""
        if not self.metrics_file.exists():
            return
        kept = [line for line in self.metrics_file.read_text("utf-8").splitlines() if _step_of(line) <= step]
        write_atomic(self.metrics_file, "".join(f"{line}\n" for line in kept).encode())

    def write_result(self, result: Mapping[str, Any]) -> None:
        write_json(self.result_file, result)

    def scores(self) -> dict[str, Tensor]:
        """The scores of a finished run query by query, as `write_scores` took them.

        Raises:
            StorageError: where they are not there, or are not those that belong to the result.
        """
        try:
            content = self.scores_file.read_bytes()
        except FileNotFoundError as error:
            help = "is this a finished run? One of an older metriclab has to be run again"
            raise StorageError(f"{self.scores_file} is not there", help=help) from error
        except OSError as error:
            raise StorageError(f"{self.scores_file} cannot be read: {error.strerror}") from error
        if digest(content) != self.result().get("scores_sha256"):
            raise StorageError(f"{self.scores_file} is damaged: its SHA-256 is not the one in {self.result_file}")
        return {rename(name): values for name, values in safetensors.torch.load(content).items()}

    def write_scores(self, scores: Mapping[str, Tensor]) -> str:
        """Stores what every query scored, and returns the file's SHA-256, which goes into the result.

        Args:
            scores: of the test split, in its order: float32 by "evaluator.metric", NaN for a query left out, and int64
                "labels" and "items".
        """
        content = safetensors.torch.save(dict(scores))
        write_atomic(self.scores_file, content)
        return digest(content)


def _step_of(line: str) -> float:
    try:
        return float(json.loads(line)["step"])
    except (ValueError, KeyError, TypeError):
        return float("inf")


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ. Where a run logs to is no part of what it computes."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            key
            for name in {*old, *new} - {"track"}
            for key in _differences(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))
        ]
    return [] if old == new else [path]
