"""What a comparison tells of the searches behind its entries: whether each got the same chance."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from metriclab.comparison.finished import FinishedRun, flatten
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
        if chosen is not None and all(run.settings.get(key) == value for key, value in flatten(chosen)):
            return stored
    return None


def tuning_of(runs: Sequence[FinishedRun]) -> Tuning | None:
    """What that search cost and chose. Raises as `search_behind` does."""
    found = search_behind(runs)
    return None if found is None else found.tuning()


def unequal_tuning(entries: Sequence[ComparisonEntry]) -> Iterator[str]:
    """A sentence for each way in which trained entries did not get the same chance."""
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
    for entry in trained:
        if entry.tuning and entry.tuning.failed:
            yield f"{entry.name}: {entry.tuning.failed} of its {entry.tuning.trials} trials failed"


def tuning_notes(entries: Sequence[ComparisonEntry]) -> Iterator[str]:
    """What a verdict on chosen settings speaks of."""
    counts = sorted({entry.tuning.trials for entry in entries if entry.tuning})
    if counts:
        numbers = " or ".join(map(str, counts))
        yield (
            f"settings are the best of {numbers} trials by held-out training classes, never by the test; what a "
            "difference needs allows for another search choosing others"
        )
    few = [entry.name for entry in entries if entry.tuning and entry.tuning.trials - entry.tuning.failed < 2]
    if few:
        yield f"how lucky its search was cannot be known of an entry with one trial: {', '.join(few)}"
