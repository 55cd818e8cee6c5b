"""The warnings that the runs of a comparison gave: who ranks them should not have to open each run to see them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Sequence

import numpy as np

from metriclab.comparison.finished import FinishedRun
from metriclab.evaluation.shortfall import BELOW_FROZEN, FROZEN, better_frozen

_TEXTS = {
    "collapse": "the embeddings had collapsed at some step",
    "anchors_without_positives": "most anchors of some batch had no positive",
    "zero_rows": "some embeddings were zero",
    BELOW_FROZEN: "ends below the encoder that it started from, by the metric of train.select",
}


def warnings_of(runs: Sequence[FinishedRun], metric: str) -> dict[str, tuple[int, ...]]:
    """By name, the seeds of the runs that gave it, or end below the encoder they started from by the metric."""
    seeds: dict[str, list[int]] = defaultdict(list)
    for run in runs:
        below = [BELOW_FROZEN] if better_frozen(run.result, metric) else []
        for name in dict.fromkeys([*run.result["warnings"], *below]):
            seeds[name].append(run.seed)
    return {name: tuple(sorted(numbers)) for name, numbers in seeds.items()}


def warning_sentences(entry: str, runs: Sequence[FinishedRun], metric: str) -> Iterator[str]:
    """A sentence for each warning of an entry, with its seeds."""
    for name, seeds in warnings_of(runs, metric).items():
        text = _TEXTS.get(name, name.replace("_", " "))
        if name == BELOW_FROZEN:
            text = _below(runs, metric) or text
        numbers = ", ".join(map(str, seeds))
        yield f"{entry}: {text} (seed{'s' if len(seeds) > 1 else ''} {numbers} of {len(runs)})"


def _below(runs: Sequence[FinishedRun], metric: str) -> str | None:
    """Both sides, averaged over the runs that are below; None where none is by this metric."""
    better = {run.seed: found for run in runs if (found := better_frozen(run.result, metric))}
    if not better:
        return None
    value = np.mean([run.metrics[metric] for run in runs if run.seed in better])
    columns = [column for column in FROZEN if any(column in found for found in better.values())]
    held = ", ".join(
        f"{FROZEN[column]} has {np.mean([found[column] for found in better.values() if column in found]):.4f}"
        for column in columns
    )
    return f"ends below the encoder that it started from, {metric} {value:.4f} where {held}"
