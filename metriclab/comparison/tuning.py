"""What a comparison tells of the searches behind its entries: whether each got the same chance."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from metriclab.comparison.finished import FinishedRun
from metriclab.comparison.trials import FOLDER, TrialsFile, Tuning, read_trials
from metriclab.comparison.verdicts import ComparisonEntry


def search_behind(runs: Sequence[FinishedRun]) -> TrialsFile | None:
    """The search that chose the settings of an entry's runs, which lies beside them; None where there was none.

    Raises:
        StorageError: where its file is damaged.
    """
    for run in runs:
        stored = read_trials(run.path.parent / FOLDER)
        chosen = None if stored is None else stored.tuning().chosen
        if chosen is not None and dict(_leaves(chosen)).items() <= dict(_leaves(run.settings)).items():
            return stored
    return None


def _leaves(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Single values by dotted key; of a list its length, and its parts by number, as `--set loss.0.margin` counts."""
    if not isinstance(value, Mapping | list):
        yield key, value
        return
    if isinstance(value, list):
        yield key, len(value)
    for name, part in value.items() if isinstance(value, Mapping) else enumerate(value):
        yield from _leaves(part, f"{key}.{name}")


def tuning_of(runs: Sequence[FinishedRun]) -> Tuning | None:
    """What that search cost and chose. Raises as `search_behind` does."""
    found = search_behind(runs)
    return None if found is None else found.tuning()


def unequal_tuning(entries: Sequence[ComparisonEntry], metric: str) -> Iterator[str]:
    """A sentence for each way in which trained entries did not get the same chance in the metric."""
    trained = [entry for entry in entries if entry.steps > 0]
    if not any(entry.tuning for entry in trained):
        return
    trials = {entry.name: entry.tuning.trials if entry.tuning else 0 for entry in trained}
    steps = {entry.name: entry.tuning.steps if entry.tuning else 0 for entry in trained}
    for what, counts in (("trials", trials), ("steps of trials", steps)):
        if len(set(counts.values())) > 1:
            told = ", ".join(f"{name} {count:,}" for name, count in counts.items())
            yield f"tuned unequally, in {what}: {told}; what was tuned more may be ahead by that alone"
            break
    others = sorted({entry.tuning.metric for entry in trained if entry.tuning} - {metric})
    if others:
        yield (
            f"settings were chosen by {', '.join(others)}, not by {metric}: another search may choose others, and what "
            "a difference needs does not allow for that"
        )
    for entry in trained:
        if entry.tuning and entry.tuning.failed:
            yield f"{entry.name}: {entry.tuning.failed} of its {entry.tuning.trials} trials failed"


def tuning_notes(entries: Sequence[ComparisonEntry], metric: str) -> Iterator[str]:
    """What a verdict on chosen settings, by this metric, speaks of."""
    tunings = [entry.tuning for entry in entries if entry.tuning]
    if tunings:
        numbers = " or ".join(map(str, sorted({one.trials for one in tunings})))
        metrics = sorted({one.metric for one in tunings})
        allows = "; what a difference needs allows for another search choosing others" if metrics == [metric] else ""
        yield (
            f"settings are the best of {numbers} trials by {' or '.join(metrics)} of held-out training classes, never "
            f"by the test{allows}"
        )
    few = [entry.name for entry in entries if entry.tuning and entry.tuning.trials - entry.tuning.failed < 2]
    if few:
        yield f"how lucky its search was cannot be known of an entry with one trial: {', '.join(few)}"
