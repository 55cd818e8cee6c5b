"""From finished runs to a comparison: entries of several seeds, and what may be said of their differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import combinations
from typing import Any

import numpy as np
from jaxtyping import Float64

from metriclab.comparison.finished import FinishedRun, require_one_benchmark, require_one_run_a_seed
from metriclab.comparison.queries import UNITS, Unit, sum_queries
from metriclab.comparison.statistics import (
    ERROR,
    Interval,
    class_bootstrap,
    class_errors,
    least_difference,
    sign_flip_test,
    smallest_p,
    t_interval,
)
from metriclab.comparison.tuning import tuning_notes, tuning_of, unequal_tuning
from metriclab.comparison.verdicts import Comparison, ComparisonEntry, Difference, Mean, Verdict
from metriclab.comparison.warned import warning_sentences, warnings_of
from metriclab.errors import RecipeError
from metriclab.registry import suggest

__all__ = ["Comparison", "ComparisonEntry", "Difference", "Mean", "compare"]


def compare(
    groups: Mapping[str, Sequence[FinishedRun]],
    *,
    metric: str = "retrieval.map_at_r",
    also: Sequence[str] | None = None,
    reference: str | None = None,
    notes: Sequence[str] = (),
    resample: Unit = "classes",
) -> Comparison:
    """Compares entries.

    Args:
        groups: runs by the name of their entry, at least one; those of an entry differ in their seed alone.
        metric: "evaluator.metric", a mean over queries.
        also: further metrics for the table; by default the first other one of each evaluator.
        reference: the entry that every other one is tested against, in place of all pairs.
        notes: what the comparison shall say besides.
        resample: what is a draw: the classes of the queries, or their groups (cameras, sequences) or categories, where
            these are what makes queries alike.

    Raises:
        RecipeError: for runs of different benchmarks, two runs of one seed, a metric that a run lacks or that is no
            mean over queries, an unknown reference, groups or categories that a run does not tell.
        StorageError: where a file of a run cannot be read.
    """
    if reference is not None and reference not in groups:
        raise RecipeError(f"there is no entry '{reference}' to refer to", help=f"there are {', '.join(groups)}")
    for name, group in groups.items():
        require_one_run_a_seed(name, group)
    runs = [run for group in groups.values() for run in group]
    require_one_benchmark(runs, metric)
    shown = _shown_metrics(runs, metric, also)
    doubts = [doubt for run in runs for doubt in run.check(metric, shown)]
    sums, counts = sum_queries(runs, metric, resample)
    of_run = {run.path: row for run, row in zip(runs, sums, strict=True)}
    of_entry = {name: {run.seed: of_run[run.path] for run in group} for name, group in groups.items()}
    differing = differing_keys([group[0].settings for group in groups.values()])
    entries = [_entry(name, sorted(group, key=_seed), differing, metric) for name, group in groups.items()]
    entries.sort(key=lambda entry: -entry.metrics[metric].mean)
    pairs = list(combinations([entry.name for entry in entries], 2))
    spreads = {one.name: one.tuning.spread if one.tuning and one.tuning.metric == metric else 0.0 for one in entries}
    to_test = [pair for pair in pairs if reference in (None, *pair)]
    differences = _differences(to_test, of_entry, counts, spreads, resample)
    result, (evaluator, _, name) = runs[0].result, metric.partition(".")
    return Comparison(
        metric=metric,
        definition=result["definitions"].get(evaluator, {}).get(name, ""),
        protocol=result["protocol"],
        queries=int(counts.sum()),
        classes=len(counts),
        shown=shown,
        entries=tuple(entries),
        differences=differences,
        reference=reference,
        warnings=(
            *(text for one in entries for text in warning_sentences(one.name, groups[one.name], metric)),
            *unequal_tuning(entries, metric),
        ),
        notes=(*notes, *_notes(entries, metric, runs, differences, f"{len(counts)} {resample}", len(counts)), *doubts),
        resampled=resample,
    )


def differing_keys(settings: Sequence[Mapping[str, Any]]) -> list[str]:
    """Dotted keys whose values differ, in the order in which the recipes have them."""
    keys = dict.fromkeys(key for one in settings for key in one)
    return [key for key in keys if any(one.get(key) != settings[0].get(key) for one in settings)]


def _seed(run: FinishedRun) -> int:
    return run.seed


def _entry(name: str, runs: Sequence[FinishedRun], differing: Sequence[str], metric: str) -> ComparisonEntry:
    common = [key for key in runs[0].metrics if all(key in run.metrics for run in runs)]
    costs = [run.result["cost"] for run in runs]
    return ComparisonEntry(
        name=name,
        seeds=tuple(run.seed for run in runs),
        paths=tuple(str(run.path) for run in runs),
        metrics={key: _mean([run.metrics[key] for run in runs]) for key in common},
        cost={key: _mean_cost([cost.get(key) for cost in costs]) for key in costs[0]},
        steps=runs[0].result["steps"],
        images_seen=runs[0].result["images_seen"],
        settings={key: runs[0].settings[key] for key in differing if key in runs[0].settings},
        warnings=warnings_of(runs, metric),
        tuning=tuning_of(runs),
    )


def _mean(values: Sequence[float]) -> Mean:
    array = np.array(values, np.float64)
    return Mean(float(array.mean()), t_interval(array), tuple(values))


def _mean_cost(values: Sequence[Any]) -> float | None:
    numbers = [value for value in values if isinstance(value, int | float)]
    return float(np.mean(numbers)) if len(numbers) == len(values) else None


def _shown_metrics(runs: Sequence[FinishedRun], metric: str, also: Sequence[str] | None) -> tuple[str, ...]:
    for name in also or ():
        known = list(dict.fromkeys(key for run in runs for key in run.metrics))
        if name not in known:
            raise RecipeError(
                f"no run has a metric {name}", help=suggest(name, known) or f"there are {', '.join(known)}"
            )
    if also is not None:
        return tuple(also)
    first: dict[str, str] = {}
    for name in runs[0].metrics:
        if name != metric and all(name in run.metrics for run in runs):
            first.setdefault(name.partition(".")[0], name)
    return tuple(first.values())


def _differences(
    pairs: Sequence[tuple[str, str]],
    of_entry: Mapping[str, Mapping[int, Float64[np.ndarray, "c"]]],
    counts: Float64[np.ndarray, "c"],
    spreads: Mapping[str, float],
    resample: Unit,
) -> tuple[Difference, ...]:
    if not pairs:
        return ()
    size = counts.sum()
    sums, over_seeds, seeds = [], [], []
    for one, two in pairs:
        common = sorted(of_entry[one].keys() & of_entry[two].keys())
        left, right = (np.stack([runs[seed] for seed in common or runs]) for runs in (of_entry[one], of_entry[two]))
        sums.append(left.mean(0) - right.mean(0))
        over_seeds.append(t_interval((left - right).sum(1) / size) if common else None)
        seeds.append(tuple(common))
    table = np.stack(sums)
    shares = np.array([2 / max(1, len(common)) for common in seeds])
    values = [np.array([row.sum() / size for row in runs.values()]) for runs in of_entry.values()]
    searched = np.array([np.hypot(spreads[one], spreads[two]) for one, two in pairs])
    tested = (sign_flip_test(table), least_difference(values, class_errors(table, counts), shares, searched))
    columns = zip(pairs, table.sum(1) / size, *tested, class_bootstrap(table, counts), over_seeds, seeds, strict=True)
    return tuple(
        replace(
            _difference(pair, float(value), float(p), float(least), by_class, of_seeds, common),
            unit=UNITS[resample].one,
        )
        for pair, value, p, least, by_class, of_seeds, common in columns
    )


def _difference(
    pair: tuple[str, str],
    value: float,
    p: float,
    least: float,
    by_class: Interval,
    over_seeds: Interval | None,
    seeds: tuple[int, ...],
) -> Difference:
    one, two = pair
    if value < 0:  # on the seeds that both have; on all of them it was the other way round
        one, two, value, by_class = two, one, -value, by_class.negated()
        over_seeds = over_seeds and over_seeds.negated()
    verdict: Verdict = "no evidence"
    if over_seeds is None:
        verdict = "better model" if p < ERROR else "no evidence"
        return Difference(one, two, value, p, by_class, None, None, seeds, verdict)
    if p < ERROR and not over_seeds.holds(0.0) and value > least:
        verdict = "better"
    return Difference(one, two, value, p, by_class, over_seeds, least, seeds, verdict)


def _notes(
    entries: Sequence[ComparisonEntry],
    metric: str,
    runs: Sequence[FinishedRun],
    differences: Sequence[Difference],
    units: str,
    count: int,
) -> Iterator[str]:
    for attribute, text in (("images_seen", "trained on unequal numbers of images"), ("steps", "unequal steps")):
        numbers = {entry.name: getattr(entry, attribute) for entry in entries}
        if len(set(numbers.values())) > 1:
            yield f"{text}: " + ", ".join(f"{name} {number:,}" for name, number in numbers.items())
    yield from tuning_notes(entries, metric)
    if len({run.trained_on for run in runs}) > 1:
        yield "the training images are not the same in all runs"
    if len({run.result["output"] for run in runs}) > 1:
        yield "entries are measured by different outputs (train.output): some by h, some by z"
    single = [entry.name for entry in entries if len(entry.seeds) == 1]
    if single:
        have = "has one seed" if len(single) == 1 else "have one seed each"
        yield f"no interval over seeds: {', '.join(single)} {have}; run it with other values of train.seed"
    if any(difference.over_seeds is None for difference in differences):
        yield "where two entries have fewer than two seeds in common, the verdict is on those models alone"
    if differences and smallest_p(count) >= ERROR:
        yield f"the queries are of {units}, too few for any verdict: p cannot be below {smallest_p(count)}"
