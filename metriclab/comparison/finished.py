"""The folders of finished runs, as far as a comparison needs them, and whether they may be ranked at all."""

from __future__ import annotations

import json
import re
import shlex
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from os.path import commonprefix
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float64, Int64
from torch import Tensor

from metriclab.errors import MetriclabError, RecipeError, StorageError
from metriclab.recipe import Train
from metriclab.recipe.document import read_document
from metriclab.recipe.problems import show
from metriclab.recipe.renamed import upgrade
from metriclab.registry import KINDS, REQUIRED, load_component, suggest
from metriclab.runs.folder import RECIPE_FILE, RunFolder

_NO_NUMBER = "seed threads log_every checkpoint_every keep_checkpoints baselines"
_BOOKKEEPING = {f"train.{key}" for key in _NO_NUMBER.split()}
_PLACE = re.compile(r"evaluate\.[^.]+\.data\.(?!name$)")  # where an evaluator's data lie, told by earlier versions
_DISAGREE = 1e-4  # between a metric and the float32 mean of its queries


@dataclass(frozen=True, slots=True)
class FinishedRun:
    """What a run folder says of its run, by today's names where an earlier version wrote it.

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

    def per_query(self, metric: str, column: str = "labels") -> tuple[Float64[np.ndarray, "q"], Int64[np.ndarray, "q"]]:
        """The metric of each query, NaN where it is left out, and its label, or its number in another column.

        Raises:
            RecipeError: for a metric that no single query has, and a column that the run did not write.
            StorageError: where the scores of the queries are missing or damaged.
        """
        scores = RunFolder(self.path).scores()
        values = scores[metric].double().numpy() if metric in scores else np.empty(0)
        if not np.isfinite(values).any():
            names = [name for name in scores if "." in name and not name.endswith("queries_without_matches")]
            example = names[0] if names and "retrieval.map_at_r" not in names else "retrieval.map_at_r"
            raise RecipeError(
                f"{metric} is no mean over the queries that {self.path} holds, so it cannot be tested by class",
                help=f"compare by another metric, for example {example}; --also shows this one",
            )
        if column not in scores:
            raise RecipeError(
                f"{self.path} does not say of what {column} its queries are, so these cannot be resampled",
                help=f"its data have no {column}, or an older metriclab ran it: run it again, or resample classes",
            )
        return values, scores[column].numpy()

    def check(self, metric: str | None, others: Iterable[str]) -> list[str]:
        """Holds metrics against the scores of their queries, where they have such.

        Args:
            metric: that all else is about, which has to be their mean.
            others: further ones, of which it is only told where they are not.

        Raises:
            StorageError: with both numbers, where the metric is another one; or where the scores are damaged.
        """
        folder = RunFolder(self.path)
        if not folder.scores_file.exists():
            return [f"{folder.scores_file} is not there, so no metric of {self.path} could be checked by it"]
        scores = folder.scores()
        names = [name for name in dict.fromkeys((metric, *others)) if name in scores and name in self.metrics]
        told = {name: differs for name in names if (differs := self._disagreement(name, scores))}
        if metric in told:
            raise StorageError(
                f"{self.path}: {told[metric]}",
                help="put back what the run wrote, or run it again; where a metric is no mean, choose another one",
            )
        return [f"{self.path}: {differs}" for differs in told.values()]

    def _disagreement(self, metric: str, scores: Mapping[str, Tensor]) -> str | None:
        """Where a metric is not the mean of its queries' scores, or their sum as a count is: what both are."""
        counted, told = scores[metric].double(), self.metrics[metric]
        counted = counted[counted.isfinite()]
        scored = float(counted.sum() if metric.endswith("queries_without_matches") else counted.mean())
        if not len(counted) or abs(scored - told) <= _DISAGREE * max(1.0, abs(told)):
            return None
        return f"{metric} is {told:.4f} in result.json, and {scored:.4f} by the scores of its queries"


def find_runs(paths: Sequence[Path]) -> tuple[list[FinishedRun], list[str]]:
    """The finished runs in these folders, each a run or a folder of runs, and what to say of the unfinished ones.

    Raises:
        StorageError: where a folder holds no run, or none is finished.
    """
    folders = list(dict.fromkeys(folder for path in paths for folder in _run_folders(path)))
    unfinished = [path for path in folders if not RunFolder(path).result_file.exists()]
    notes = [
        f"{path} is not finished and is left out; finish it with: {RunFolder(path).resume_command}"
        for path in unfinished
    ]
    runs = with_defaults([read_run(path) for path in folders if path not in unfinished])
    if not runs:
        again = f"finish one with: {RunFolder(unfinished[0]).resume_command}"
        raise StorageError(f"no finished run among {', '.join(map(str, unfinished))}", help=again)
    return runs, notes


def _run_folders(path: Path) -> list[Path]:
    for depth in (("",), ("*/", "*/*/")):
        if recipes := sorted(file for level in depth for file in path.glob(f"{level}{RECIPE_FILE}")):
            return [recipe.parent for recipe in recipes]
    raise StorageError(f"{path} is no run folder, and holds none", help="name folders that `metriclab run` wrote")


def read_run(path: Path) -> FinishedRun:
    """The finished run in a folder.

    Raises:
        StorageError: where a file is missing or cannot be read.
    """
    folder = RunFolder(path)
    # Plain values: what made the run, a plugin perhaps, need not be installed to compare it.
    tables, result = upgrade(read_document(folder.recipe_file).values), folder.result()
    # How it is measured is no part of an entry: runs that are measured otherwise are refused.
    idle = ("track", "evaluate", *(("sampler", "optimizer", "schedule") if result["steps"] == 0 else ()))
    settings = dict(flatten({table: value for table, value in tables.items() if table not in idle}))
    metrics = dict(flatten(result["metrics"]))
    seed = settings.get("train.seed")
    if not isinstance(seed, int):
        raise StorageError(f"{folder.recipe_file} has no seed in [train]", help="put back what the run wrote")
    return FinishedRun(
        path=path,
        seed=seed,
        settings={key: value for key, value in settings.items() if key not in _BOOKKEEPING},
        metrics={name: value for name, value in metrics.items() if isinstance(value, int | float)},
        result=result,
        trained_on=folder.manifest()["data"]["train"],
    )


def with_defaults(runs: Sequence[FinishedRun]) -> list[FinishedRun]:
    """The runs, with what some of them set at its default in those of an older version, which had no such key."""
    everywhere = dict.fromkeys(key for run in runs for key in run.settings)
    filled = []
    for run in runs:
        missing = [key for key in everywhere if key not in run.settings]
        defaults = {key: value for key in missing for value in _default(key, run.settings)}
        filled.append(replace(run, settings={**run.settings, **defaults}))
    return filled


def _default(key: str, settings: Mapping[str, Any]) -> list[Any]:
    """What a run that does not name the key has there, as it comes back from a file; empty where that is not known."""
    table, _, name = key.partition(".")
    if table == "train":
        field = Train.model_fields.get(name)
        return [] if field is None or field.is_required() or field.default is None else [field.default]
    kind = next((kind for kind in KINDS.values() if kind.table == table), None)
    if kind is None or f"{table}.name" not in settings:
        return []
    return _parameter_default(kind.name, str(settings[f"{table}.name"]), name)


def _parameter_default(kind: str, component: str, parameter: str) -> list[Any]:
    try:
        parameters = load_component(kind, component).parameters
    except MetriclabError:
        return []
    defaults = [one.default for one in parameters if one.name == parameter and one.default is not REQUIRED]
    return [value for value in json.loads(json.dumps(defaults)) if value is not None]  # TOML has no null


def flatten(tables: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Values of nested tables by dotted key."""
    for key, value in tables.items():
        if isinstance(value, Mapping):
            yield from flatten(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", value


def group(runs: Sequence[FinishedRun]) -> dict[str, list[FinishedRun]]:
    """Runs by recipe without its seed, named by what their folders' names have in common."""
    by_recipe: dict[str, list[FinishedRun]] = defaultdict(list)
    for run in runs:
        by_recipe[repr(sorted(run.settings.items()))].append(run)
    groups = list(by_recipe.values())
    names = [_common_name([run.path.resolve() for run in alike]) for alike in groups]
    for apart in ([alike[0].path.name for alike in groups], [str(alike[0].path) for alike in groups]):
        often = Counter(names)
        names = [name if often[name] == 1 else other for name, other in zip(names, apart, strict=True)]
    return dict(zip(names, groups, strict=True))


def _common_name(paths: Sequence[Path]) -> str:
    """Of "triplet-0" and "triplet-1" it is "triplet", of "triplet/seed-0" and "triplet/seed-1" as well."""
    common = commonprefix([path.name for path in paths])  # noqa: RUF071  # of letters, as is meant
    return re.sub(r"(^|[-_.])(seed)?[-_.\d]*$", "", common) or paths[0].parent.name


def require_metric(run: FinishedRun, metric: str) -> None:
    """Checks that a run has a value of the metric; a RecipeError says why it has none."""
    if metric in run.metrics:
        return
    evaluator, _, name = metric.partition(".")
    if name not in run.result["metrics"].get(evaluator, {}):
        near = suggest(metric, list(run.metrics)) or f"it has {', '.join(run.metrics) or 'none'}"
        raise RecipeError(f"{run.path} has no metric {metric}", help=near)
    reason = "its test split has no image of known class"
    if without := run.metrics.get(f"{evaluator}.queries_without_matches"):
        reason = f"none of its {without:,.0f} test queries of known class has another image of its class to find"
    raise RecipeError(
        f"{run.path} has no value of {metric}: {reason} (of {run.result['items'].get('test', 0):,} images)",
        help=f"see `metriclab check {shlex.quote(str(RunFolder(run.path).recipe_file))} --data`, and run it again",
    )


def require_one_run_a_seed(name: str, runs: Sequence[FinishedRun]) -> None:
    """Checks that no two runs of an entry have one seed; a RecipeError names both."""
    by_seed: dict[int, FinishedRun] = {}
    for run in runs:
        if (other := by_seed.setdefault(run.seed, run)) is not run:
            raise RecipeError(
                f"{other.path} and {run.path} are runs of one recipe ({name}) with one seed, {run.seed}",
                help="name one of them: the same run twice would make the interval over seeds too narrow",
            )


def require_one_benchmark(runs: Sequence[FinishedRun], metric: str) -> None:
    """Checks that runs were measured alike and have the metric; a RecipeError names two that differ, and how."""
    for run in runs:
        require_metric(run, metric)
    first, benchmark = runs[0], _benchmark(runs[0], metric)
    for run in runs[1:]:
        other = _benchmark(run, metric)
        for key in dict.fromkeys([*benchmark, *other]):
            one, two = benchmark.get(key), other.get(key)
            if one != two and not (None in (one, two) and _has_default(first, key, one if two is None else two)):
                raise RecipeError(
                    f"{first.path} and {run.path} are measured by different benchmarks and cannot be ranked: {key} is "
                    f"{_show(one)} in the first and {_show(two)} in the second",
                    help="compare runs that are tested on the same data by the same [[evaluate]] tables",
                )


def _benchmark(run: FinishedRun, metric: str) -> dict[str, Any]:
    evaluator, _, name = metric.partition(".")
    definition = run.result["definitions"].get(evaluator, {}).get(name)
    # By its version, where it has one: the words may have become better since.
    version = re.search(r"\(([\w-]+/\d+)\)", definition or "")
    keys = {name: of for name, of in flatten(run.result["fingerprint"]) if name != "digest" and not _PLACE.match(name)}
    return {**keys, f"the definition of {metric}": version[1] if version else definition}


def _has_default(run: FinishedRun, key: str, value: Any) -> bool:
    """Whether this is the default of an evaluator's parameter, which a version before it had no need to name."""
    table, label, name = [*key.split("."), "", ""][:3]
    evaluator = run.result["fingerprint"]["evaluate"].get(label)
    if table != "evaluate" or evaluator is None:
        return False
    return _parameter_default("evaluator", str(evaluator.get("name", label)), name) == [value]


def _show(value: Any) -> str:
    return "not there" if value is None else show(value)
