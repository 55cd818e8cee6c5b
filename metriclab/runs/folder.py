"""The run folder: everything a run leaves behind, and the truth about it.

recipe.toml         the complete recipe, every default filled in
manifest.json       versions, plugins, hardware, threads, fingerprint of the data
metrics.jsonl       one line a logged step
checkpoints/        state, by step
scores.safetensors  what every query of the test split scored, written at the end
diverged.json       the images of the step in which a run diverged, where one did
result.json         what was measured, written last: a folder that has it is finished
run.lock            who is at work in it, while a run goes on
"""

from __future__ import annotations

import contextlib
import functools
import shlex
import shutil
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, Concatenate, ParamSpec, TypeVar

import safetensors.torch
import torch
from torch import Tensor

from metriclab.core.files import read_regular, repair
from metriclab.errors import RecipeError, StorageError
from metriclab.recipe import Recipe, read_recipe
from metriclab.recipe.renamed import SCHEMA
from metriclab.registry import entries
from metriclab.registry.kinds import BUILTIN
from metriclab.runs.files import digest, parse_json, read_json, without_folders, write_atomic, write_json
from metriclab.runs.lock import RunLock
from metriclab.runs.renamed import rename, upgrade
from metriclab.runs.shapes import Line, Manifest, Result
from metriclab.runs.tensors import parse_tensors
from metriclab.trackers import METRICS_FILE

RECIPE_FILE = "recipe.toml"
P = ParamSpec("P")
T = TypeVar("T")

_UNSAID: Mapping[str, Any] = {"baselines": {}, "best_step": 0, "items": {}, "warnings": []}  # by old results


class RunFolder:
    """Paths and files of one run.

    Args:
        path: the folder; `create` or `reopen` checks it.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.checkpoints = path / "checkpoints"
        self.recipe_file = path / RECIPE_FILE
        self.manifest_file = path / "manifest.json"
        self.metrics_file = path / METRICS_FILE
        self.result_file = path / "result.json"
        self.scores_file = path / "scores.safetensors"
        self.diverged_file = path / "diverged.json"
        self.lock = RunLock(path / "run.lock")

    @property
    def resume_command(self) -> str:
        """What a user types to go on with the run. The folder's own recipe is complete: what --set changed is in it."""
        return shlex.join(["metriclab", "run", str(self.recipe_file), "--out", str(self.path), "--resume"])

    def refuse_existing(self) -> None:
        """Checks that a new run may use the folder.

        Raises:
            StorageError: where it exists and is not empty, or another process is at work in it.
        """
        self.lock.refuse_holder()
        try:
            present = [file for file in self.path.iterdir() if file != self.lock.path]
        except FileNotFoundError:
            return
        except OSError as error:
            what = "is no folder" if isinstance(error, NotADirectoryError) else f"cannot be read ({error.strerror})"
            raise StorageError(
                f"run folder {self.path} exists already, and {what}", help="choose another folder with --out"
            ) from error
        if present:
            begun = self.recipe_file in present
            first = "add --resume to continue that run" if begun else "empty it, as it holds no run"
            raise StorageError(
                f"run folder {self.path} exists already", help=f"{first}, or choose another folder with --out"
            )

    def take(self) -> None:
        """Makes the folder this process's until `release`, and clears away halves of files of a killed one.

        Raises:
            StorageError: naming who is at work in it, or where it cannot be made.
        """
        self.lock.take()
        for part in (*self.path.glob(".*.part"), *self.checkpoints.glob(".step-*.part")):
            with contextlib.suppress(OSError):  # they only take room
                part.unlink()

    def release(self) -> None:
        """Gives the folder back, where this process has it."""
        self.lock.release()

    def create(self, recipe: Recipe) -> None:
        """Makes the folder with the complete recipe in it.

        Raises:
            StorageError: where it cannot be made, or exists and is not empty.
        """
        self.refuse_existing()
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise StorageError(
                f"cannot make run folder {self.path}: {error.strerror}", help=repair(error, "choose another --out")
            ) from error
        write_atomic(self.recipe_file, recipe.to_toml().encode())

    def begin(self, recipe: Recipe, manifest: Mapping[str, Any], *, resume: bool) -> None:
        """Writes down what the run is, as far as the folder does not say it yet.

        Raises:
            StorageError: as `take` and `create`.
        """
        if not resume:
            self.take()
            self.create(recipe)
        if not self.manifest_file.exists():
            write_json(self.manifest_file, without_folders(manifest))

    def withdraw(self) -> None:
        """Takes back what `begin` has made, for a new run that cannot begin after all."""
        shutil.rmtree(self.path, ignore_errors=True)

    def reopen(self, recipe: Recipe) -> None:
        """Checks that the folder holds a run of this very recipe.

        Raises:
            StorageError: where it holds no run.
            RecipeError: where the recipe differs, naming the keys.
        """
        if not self.recipe_file.is_file():
            raise StorageError(
                f"{self.path} holds no run to resume",
                help="name a run folder with --out, or leave --resume away to start a run",
            )
        changed = self.differences(recipe)
        if changed:
            raise RecipeError(
                f"the recipe differs from the one {self.path} was started with: {', '.join(changed)}",
                help="resume with the same recipe and --set options, or start a new run with --out",
            )

    def differences(self, recipe: Recipe) -> list[str]:
        """Dotted keys in which a recipe differs from the one the run was started with."""
        return sorted(differing_keys(self.recipe().as_dict(), recipe.as_dict()))

    def recipe(self) -> Recipe:
        """The complete recipe the run was started with, in the keys of today.

        Raises:
            StorageError: where there is none, or a newer metriclab stored it.
        """
        if not self.recipe_file.is_file():
            raise StorageError(f"{self.path} is no run folder: it has no recipe.toml")
        schema = self.manifest().get("recipe_schema", 1) if self.manifest_file.is_file() else SCHEMA
        if schema > SCHEMA:
            raise StorageError(
                f"{self.path} was run by a newer metriclab: its recipe is of version {schema}, of which this one knows "
                f"{SCHEMA}",
                help="update metriclab",
            )
        try:
            return read_recipe(self.recipe_file)
        except RecipeError as error:
            help = self._missing_plugins()
            if help is None:
                raise
            raise RecipeError(f"{error}", help=help) from error

    def _missing_plugins(self) -> str | None:
        """How to have the plugins that the run was made with and that are not there now."""
        made_with = self.manifest().get("plugins", {}) if self.manifest_file.is_file() else {}
        there = {entry.package for entry in entries()} | {BUILTIN}
        missing = {package: version for package, version in made_with.items() if package not in there}
        files = [f"--plugin {package}" for package, version in missing.items() if version == "file"]
        packages = [f"{package} {version}" for package, version in missing.items() if version not in ("file", "code")]
        ways = [f"add {' '.join(files)}, with the path of the file"] if files else []
        ways += [f"install {' and '.join(packages)}"] if packages else []
        return f"the run was made with plugins that are not there: {'; '.join(ways)}" if ways else None

    def manifest(self) -> dict[str, Any]:
        value: dict[str, Any] = read_json(self.manifest_file, Manifest)
        return value

    def result(self) -> dict[str, Any]:
        return {**_UNSAID, **upgrade(read_json(self.result_file, Result))}

    def logged(self) -> Iterator[dict[str, Any]]:
        """What was logged, step by step; nothing where no tracker wrote it. A last line cut short is left out.

        Raises:
            StorageError: naming the line that a run cannot have written.
        """
        for number, line in enumerate(self._lines(), start=1):
            yield upgrade(parse_json(line, Line, f"{self.metrics_file}:{number}"))

    def cut_metrics(self, step: int) -> None:
        """Drops what was logged after the step, and a line that was cut short: those steps will be run again.

        Raises:
            StorageError: as `logged`.
        """
        kept = [line for line, values in zip(self._lines(), self.logged(), strict=True) if values["step"] <= step]
        if self.metrics_file.exists():
            write_atomic(self.metrics_file, b"".join(line + b"\n" for line in kept))

    def _lines(self) -> list[bytes]:
        """The whole lines of what was logged."""
        try:
            return read_regular(self.metrics_file).split(b"\n")[:-1]
        except FileNotFoundError:
            return []

    def finish(self, result: Mapping[str, Any], scores: Mapping[str, Tensor]) -> None:
        """Writes what the run measured, the result last: a folder that has it is finished."""
        stored = {**without_folders(result), "scores_sha256": self.write_scores(scores)}
        write_json(self.result_file, stored)

    def scores(self) -> dict[str, Tensor]:
        """The scores of a finished run query by query, as `write_scores` took them.

        Raises:
            StorageError: where they are not there, or are not those that belong to the result.
        """
        try:
            content = read_regular(self.scores_file)
        except FileNotFoundError as error:
            help = "is this a finished run? One of an older metriclab has to be run again"
            raise StorageError(f"{self.scores_file} is not there", help=help) from error
        if digest(content) != self.result().get("scores_sha256"):
            raise StorageError(f"{self.scores_file} is damaged: its SHA-256 is not the one in {self.result_file}")
        scores = {rename(name): values for name, values in parse_tensors(content, str(self.scores_file)).items()}
        if not _is_table(scores):
            raise StorageError(
                f"{self.scores_file} does not hold labels, items, and scores of as many queries",
                help="put back what the run wrote, or run it again in another folder",
            )
        return scores

    def write_scores(self, scores: Mapping[str, Tensor]) -> str:
        """Stores what every query scored, and returns the file's SHA-256, which goes into the result.

        Args:
            scores: of the test split, in its order: float32 by "evaluator.metric", NaN for a query left out, and int64
                "labels" and "items"; "groups" and "categories" too, where the data have any.
        """
        content = safetensors.torch.save(dict(scores))
        write_atomic(self.scores_file, content)
        return digest(content)


def releasing(
    run: Callable[Concatenate[Recipe, RunFolder, P], Iterator[T]],
) -> Callable[Concatenate[Recipe, RunFolder, P], Iterator[T]]:
    """A run that gives its folder back at the end, however it ends."""

    @functools.wraps(run)
    def run_and_release(recipe: Recipe, folder: RunFolder, /, *arguments: P.args, **options: P.kwargs) -> Iterator[T]:
        try:
            yield from run(recipe, folder, *arguments, **options)
        finally:
            folder.release()

    return run_and_release


def _is_table(scores: Mapping[str, Tensor]) -> bool:
    """Whether labels and items are whole numbers, one a query, and all scores of queries are as many floats."""
    labels, items = (scores.get(name, torch.empty(0)) for name in ("labels", "items"))
    by_query = [values for name, values in scores.items() if "." in name and not name.endswith(".per_class")]
    return labels.dtype == items.dtype == torch.int64 and all(
        values.shape == labels.shape and values.ndim == 1 and (values is items or values.is_floating_point())
        for values in (items, *by_query)
    )


def differing_keys(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys whose values differ. Where a run logs to is no part of what it computes."""
    if isinstance(old, dict) and isinstance(new, dict):
        return [
            key
            for name in {*old, *new} - {"track"}
            for key in differing_keys(old.get(name), new.get(name), f"{path}.{name}" if path else str(name))
        ]
    return [] if old == new else [path]
