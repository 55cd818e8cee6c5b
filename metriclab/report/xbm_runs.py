"""What the figures of XBM take from the folders of finished runs."""

from __future__ import annotations

import json
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from metriclab.errors import RecipeError, StorageError
from metriclab.recipe.document import read_document
from metriclab.runs.folder import RunFolder

SCORES = ("r_at_1", "map_at_r")


@dataclass(frozen=True, slots=True)
class XBMRun:
    """A finished run.

    Attributes:
        path: of its folder.
        seed: of everything random in it.
        size: rows of its memory; 0 where it trained without one.
        ratio: the same as a share of the training images.
        scores: by name, on the test split.
        definitions: how each score is defined.
        drift: by lag in steps, D(t, lag) by the step t.
        settings: every key of its recipe, dotted.
        measured: what must be the same in runs that are compared.
    """

    path: Path
    seed: int
    size: int
    ratio: float
    scores: dict[str, float]
    definitions: dict[str, str]
    drift: dict[int, dict[int, float]]
    settings: dict[str, Any]
    measured: dict[str, Any]


def read_runs(paths: Sequence[Path]) -> list[XBMRun]:
    """The runs in these folders, at least one, by memory and seed.

    Raises:
        StorageError: where a folder holds no finished run, or a file of it cannot be read.
        RecipeError: for a run without drift or without retrieval, and for runs that cannot be in one figure.
    """
    runs = sorted(map(read_run, paths), key=lambda run: (run.size, run.seed))
    for one, other in combinations(runs, 2):
        differing = [key for key in one.measured if one.measured[key] != other.measured.get(key)]
        if differing:
            raise RecipeError(
                f"{one.path} and {other.path} cannot be compared: they differ in {', '.join(differing)}",
                help="give runs of one benchmark: the same data, evaluators and train.output",
            )
        if (one.size, one.seed) == (other.size, other.seed):
            raise RecipeError(
                f"{one.path} and {other.path} both have seed {one.seed} and a memory of {one.size} rows",
                help="give one run for each seed and size of the memory",
            )
    return runs


def differing_settings(runs: Sequence[XBMRun]) -> list[str]:
    """Keys of the recipes in which the runs differ, besides the memory and the seed: they move the figures too.

    A run without a memory may be of another method; that alone is no difference.
    """
    ignored = {"memory", "track"}
    found = set[str]()
    for one, other in combinations(runs, 2):
        skipped = ignored | ({"method"} if 0 in (one.size, other.size) else set())
        for key in (one.settings.keys() | other.settings.keys()) - {"train.seed"}:
            if key.split(".")[0] not in skipped and one.settings.get(key) != other.settings.get(key):
                found.add(key)
    return sorted(found)


def read_run(path: Path) -> XBMRun:
    """The run in a folder. Raises as `read_runs` does."""
    folder = RunFolder(path)
    if not folder.recipe_file.is_file():
        raise StorageError(f"{path} is no run folder: it has no recipe.toml")
    if not folder.result_file.is_file():
        again = f"metriclab run {folder.recipe_file} --out {path} --resume"
        raise StorageError(f"{path} has no result yet", help=f"let the run finish: {again}")
    # Plain values: what made the run, a plugin perhaps, need not be installed to draw it.
    tables, result = read_document(folder.recipe_file).values, folder.result()
    settings = dict(_dotted(tables))
    size = _memory_size(path, settings)
    return XBMRun(
        path=path,
        seed=settings["train.seed"],
        size=size,
        ratio=size / result["items"]["train"],
        scores=_scores(path, result["metrics"]),
        definitions={name: result["definitions"]["retrieval"][name] for name in SCORES},
        drift=_drift(folder, settings, result["steps"]),
        settings=settings,
        measured={
            **{key: value for key, value in result["fingerprint"].items() if key != "digest"},
            "training data": folder.manifest()["data"]["train"],
            "train.output": result.get("output", "h"),
        },
    )


def _dotted(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def _memory_size(path: Path, settings: Mapping[str, Any]) -> int:
    if "memory.name" not in settings or settings.get("method.weight") == 0:
        return 0
    if "memory.size" not in settings:
        raise RecipeError(
            f"the memory '{settings['memory.name']}' of {path} has no size to be held against the training images",
            help="give runs with a ring, or without a memory",
        )
    size: int = settings["memory.size"]
    return size


def _scores(path: Path, metrics: Mapping[str, Any]) -> dict[str, float]:
    found = metrics.get("retrieval", {})
    missing = [f"retrieval.{name}" for name in SCORES if found.get(name) is None]
    if missing:
        raise RecipeError(
            f"{path} has no {' and no '.join(missing)} in its result",
            help='measure runs on data with labels by [[evaluate]] name = "retrieval", with 1 among its k',
        )
    return {name: found[name] for name in SCORES}


def _drift(folder: RunFolder, settings: Mapping[str, Any], steps: int) -> dict[int, dict[int, float]]:
    drift: dict[int, dict[int, float]] = defaultdict(dict)
    for line in _logged(folder.metrics_file):
        for name, value in line.items():
            if name.startswith("drift_"):
                drift[int(name.removeprefix("drift_"))][line["step"]] = float(value)
    if drift:
        return dict(sorted(drift.items()))
    if "train.drift_images" not in settings:
        help = "run its recipe again with --set train.drift_images=256"
    else:
        help = f"its {steps} steps are too few for train.drift_every = {settings['train.drift_every']}"
    raise RecipeError(f"{folder.path} has no drift in its metrics.jsonl", help=help)


def _logged(path: Path) -> Iterator[dict[str, Any]]:
    try:
        lines = path.read_text("utf-8").splitlines()
    except FileNotFoundError as error:
        raise StorageError(f"{path} is not there", help='runs write it with [[track]] name = "jsonl"') from error
    except (OSError, UnicodeDecodeError) as error:
        raise StorageError(f"{path} cannot be read: {error}") from error
    for number, line in enumerate(lines, 1):
        try:
            yield json.loads(line)
        except ValueError as error:
            raise StorageError(f"{path}:{number}: this is no line of JSON", help="is the file whole?") from error


def mean(values: Sequence[float]) -> float:
    """Of at least one value."""
    return math.fsum(values) / len(values)
