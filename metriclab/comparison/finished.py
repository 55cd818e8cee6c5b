"""The folders of finished runs, as far as a comparison needs them."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float64, Int64

from metriclab.comparison.statistics import class_sums
from metriclab.errors import MetriclabError, RecipeError, StorageError
from metriclab.recipe.document import load
from metriclab.recipe.problems import show
from metriclab.registry import REQUIRED, suggest
from metriclab.registry import load as load_component
from metriclab.runs.folder import RunFolder

_OF_TRAINING = ("sampler", "optimizer", "schedule")
_BOOKKEEPING = {"train.seed", "train.threads", "train.log_every", "train.checkpoint_every"}
_DISAGREE = 1e-4  # between a metric and the float32 mean of its queries


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What a run folder says of its run.

    Attributes:
        path: of the folder.
        seed: of everything random in it.
        settings: its recipe by dotted key, without the seed, the trackers, and what changes no number: that of
            training where there was none, too.
        metrics: by "evaluator.metric", those that have a value.
        result: the content of result.json.
        trained_on: fingerprint of the training images.
    """

    path: Path
    seed: int
    settings: dict[str, Any]
    metrics: dict[str, float]
    result: dict[str, Any]
    trained_on: str

    def per_query(self, metric: str) -> tuple[Float64[np.ndarray, "q"], Int64[np.ndarray, "q"]]:
        """The metric of each query, NaN where it is left out, and the labels.

        Raises:
            RecipeError: for a metric that is no mean over queries.
        """
        scores = RunFolder(self.path).scores()
        values = scores[metric].double().numpy() if metric in scores else np.empty(0)
        counted = values[np.isfinite(values)]
        if not len(counted) or abs(counted.mean() - self.metrics[metric]) > _DISAGREE:
            raise RecipeError(
                f"{metric} is no mean over the queries that {self.path} holds, so it cannot be tested by class",
                help=f"compare by another metric, for example {_example(scores)}; --also shows this one",
            )
        return values, scores["labels"].numpy()


def _example(scores: Mapping[str, Any]) -> str:
    names = [name for name in scores if "." in name and not name.endswith("queries_without_matches")]
    return "retrieval.map_at_r" if "retrieval.map_at_r" in names or not names else names[0]


def find_runs(paths: Sequence[Path]) -> tuple[list[FinishedRun], list[str]]:
    """The finished runs in these folders, each a run or a folder of runs, and what to say of the unfinished ones.

    Raises:
        StorageError: where a folder holds no run, or none is finished.
    """
    folders = list(dict.fromkeys(folder for path in paths for folder in _folders(path)))
    unfinished = [path for path in folders if not (path / "result.json").is_file()]
    notes = [f"{path} is not finished and is left out; finish it with: {resume_command(path)}" for path in unfinished]
    runs = [read_run(path) for path in folders if path not in unfinished]
    if not runs:
        again = f"finish one with: {resume_command(unfinished[0])}"
        raise StorageError(f"no finished run among {', '.join(map(str, unfinished))}", help=again)
    return runs, notes


def resume_command(path: Path) -> str:
    """What finishes the run in a folder."""
    return shlex.join(["metriclab", "run", str(path / "recipe.toml"), "--out", str(path), "--resume"])


def _folders(path: Path) -> list[Path]:
    found = [path] if (path / "recipe.toml").is_file() else []
    found = found or sorted(file.parent for depth in ("*", "*/*") for file in path.glob(f"{depth}/recipe.toml"))
    if not found:
        raise StorageError(f"{path} is no run folder, and holds none", help="name folders that `metriclab run` wrote")
    return found


def read_run(path: Path) -> FinishedRun:
    """The finished run in a folder.

    Raises:
        StorageError: where a file is missing or cannot be read.
    """
    folder = RunFolder(path)
    # Plain values: what made the run, a plugin perhaps, need not be installed to compare it.
    tables, result = load(folder.recipe_file).values, folder.result()
    # How it is measured is no part of an entry: runs that are measured otherwise are refused.
    idle = ("track", "evaluate", *(_OF_TRAINING if result["steps"] == 0 else ()))
    settings = dict(_dotted({table: value for table, value in tables.items() if table not in idle}))
    metrics = dict(_dotted(result["metrics"]))
    return FinishedRun(
        path=path,
        seed=settings["train.seed"],
        settings={key: value for key, value in settings.items() if key not in _BOOKKEEPING},
        metrics={name: value for name, value in metrics.items() if isinstance(value, int | float)},
        result=result,
        trained_on=folder.manifest()["data"]["train"],
    )


def _dotted(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from _dotted(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def group(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Runs by recipe without its seed, named by what their folders' names have in common."""
    by_recipe: dict[str, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        by_recipe[repr(sorted(run.settings.items()))].append(run)
    groups = list(by_recipe.values())
    names = [_common_name([run.path.resolve() for run in found]) for found in groups]
    for apart in ([found[0].path.name for found in groups], [str(found[0].path) for found in groups]):
        often = Counter(names)
        names = [name if often[name] == 1 else other for name, other in zip(names, apart, strict=True)]
    return dict(zip(names, groups, strict=True))


def _common_name(paths: Sequence[Path]) -> str:
    """Of "triplet-0" and "triplet-1" it is "triplet", of "triplet/seed-0" and "triplet/seed-1" as well."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*(path.name for path in paths), strict=False))
    common = "".join(letters[0] for letters in alike)
    return re.sub(r"(^|[-_.])(seed)?[-_.\d]*$", "", common) or paths[0].parent.name


def refuse_twice(name: str, runs: Sequence[FinishedRun]) -> None:
    """Checks that an entry has one run a seed."""
    by_seed: dict[int, FinishedRun] = {}
    for run in runs:
        if run.seed in by_seed:
            raise RecipeError(
                f"{by_seed[run.seed].path} and {run.path} are runs of one recipe ({name}) with one seed, {run.seed}",
                help="name one of them: the same run twice would make the interval over seeds too narrow",
            )
        by_seed[run.seed] = run


def require_metric(run: FinishedRun, metric: str) -> None:
    """Checks that a run has a value of the metric.

    Raises:
        RecipeError: naming the run, and why it has none.
    """
    if metric in run.metrics:
        return
    evaluator, _, name = metric.partition(".")
    if name not in run.result["metrics"].get(evaluator, {}):
        near = suggest(metric, list(run.metrics)) or f"it has {', '.join(run.metrics) or 'none'}"
        raise RecipeError(f"{run.path} has no metric {metric}", help=near)
    images, lone = run.result["items"]["test"], run.metrics.get(f"{evaluator}.queries_without_matches")
    reason = "its test split has no image of known class"
    if lone:
        reason = f"none of its {lone:,.0f} test queries of known class has another image of its class to find"
    raise RecipeError(
        f"{run.path} has no value of {metric}: {reason} (of {images:,} images)",
        help=f"see `metriclab check {shlex.quote(str(run.path / 'recipe.toml'))} --data`, and run it again",
    )


def refuse_unlike(runs: Sequence[FinishedRun], metric: str) -> None:
    """Checks that runs were measured alike, and all have the metric.

    Raises:
        RecipeError: naming two runs, the key in which their benchmarks differ, and both values; or the run that lacks
            the metric.
    """
    for run in runs:
        require_metric(run, metric)
    first, measured = runs[0], _measured(runs[0], metric)
    for run in runs[1:]:
        other = _measured(run, metric)
        for key in dict.fromkeys([*measured, *other]):
            if not _alike(first, key, measured.get(key), other.get(key)):
                raise RecipeError(
                    f"{first.path} and {run.path} are measured by different benchmarks and cannot be ranked: {key} is "
                    f"{_shown(measured.get(key))} in the first and {_shown(other.get(key))} in the second",
                    help="compare runs that are tested on the same data by the same [[evaluate]] tables",
                )


def _alike(run: FinishedRun, key: str, *values: Any) -> bool:
    """Whether two values are one, or an older version did not know the parameter and the newer one has its default."""
    if values[0] == values[1]:
        return True
    table, label, name = [*key.split("."), "", ""][:3]
    measured = run.result["fingerprint"]["evaluate"].get(label)
    if table != "evaluate" or measured is None or None not in values:
        return False
    try:
        definition = load_component("evaluator", measured.get("name", label))
    except MetriclabError:
        return False
    # As they come back from a file.
    return any(
        json.loads(json.dumps(parameter.default)) in values
        for parameter in definition.parameters
        if parameter.name == name and parameter.default not in (REQUIRED, None)
    )


def _measured(run: FinishedRun, metric: str) -> dict[str, Any]:
    evaluator, _, name = metric.partition(".")
    definition = run.result["definitions"].get(evaluator, {}).get(name)
    keys = {key: value for key, value in run.result["fingerprint"].items() if key != "digest"}
    return {**dict(_dotted(keys)), f"the definition of {metric}": definition}


def _shown(value: Any) -> str:
    return "not there" if value is None else show(value)


class ByClass(NamedTuple):
    """The main metric of several runs.

    Attributes:
        sums: of each run, over the queries of each class.
        counts: queries of each class.
    """

    sums: Float64[np.ndarray, "r c"]
    counts: Float64[np.ndarray, "c"]


def by_class(runs: Sequence[FinishedRun], metric: str) -> ByClass:
    """The metric summed over the queries of each class that count in all runs.

    Raises:
        RecipeError: for a metric that is no mean over queries.
        StorageError: where the queries cannot be read, or are not the same.
    """
    values, labels = zip(*(run.per_query(metric) for run in runs), strict=True)
    for run, own in zip(runs, labels, strict=True):
        if not np.array_equal(own, labels[0]):
            raise StorageError(f"{run.path} and {runs[0].path} hold scores of different queries", help="run one again")
    table = np.stack(values)
    counted = np.isfinite(table).all(0)
    return ByClass(*class_sums(table[:, counted], labels[0][counted]))
