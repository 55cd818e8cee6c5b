"""The trials of an entry, and the file in which they outlive whoever searches."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from metriclab.comparison.space import Search
from metriclab.comparison.statistics import search_spread
from metriclab.errors import StorageError
from metriclab.runs.files import read_json, write_json
from metriclab.runs.shapes import Count, Shape

FILE = "trials.json"

FOLDER = "search"
"""Of an entry's trials, beside the folders of its runs."""


@dataclass(frozen=True, slots=True)
class Trial:
    """Settings that were tried.

    Attributes:
        number: from 0, in the order in which they were proposed.
        params: the value of each key that is searched.
        values: what each fold scored, by rung; the last rung has all steps.
        failed: why it has no further values, where it has none.
    """

    number: int
    params: dict[str, Any]
    values: tuple[tuple[float, ...], ...] = ()
    failed: str | None = None

    def value(self, rung: int) -> float | None:
        """The mean over folds; None where there is none."""
        return float(np.mean(self.values[rung])) if rung < len(self.values) else None


@dataclass(frozen=True, slots=True)
class Tuning:
    """What an entry's search has cost and chosen, as a comparison tells it.

    Attributes:
        trials, failed: how many were tried, and how many of these failed.
        steps: of training, all folds and rungs of all trials together.
        chosen: settings of the best trial, None where every one failed.
        value: its mean over the held-out folds.
        metric: by which it was chosen, and whose luck `spread` tells.
        spread: standard deviation of what is chosen over searches; see `statistics.search_spread`.
    """

    trials: int
    failed: int
    steps: int
    chosen: dict[str, Any] | None
    value: float | None
    metric: str
    spread: float = 0.0


class _Trial(Shape):
    number: Count
    params: dict[str, Any]
    values: list[list[float]]
    failed: str | None


class _Trials(Shape):
    of: dict[str, Any]
    trials: list[_Trial]
    steps: list[Count]
    folds: Count
    importance: dict[str, float]
    done: bool


@dataclass(frozen=True, slots=True)
class TrialsFile:
    """trials.json of an entry's search, written whole after every change.

    Attributes:
        of: what the trials depend on; those of anything else are refused.
        trials: so far.
        steps: of a training at each rung, one a fold.
        folds: how many.
        importance: by key, once the search is done.
        done: whether it is.
    """

    of: Mapping[str, Any]
    trials: Sequence[Trial]
    steps: Sequence[int]
    folds: int
    importance: Mapping[str, float]
    done: bool

    def write(self, folder: Path) -> None:
        """Into the folder, which is made."""
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / FILE, asdict(self))

    def tuning(self) -> Tuning:
        """What of it a comparison tells."""
        best, rung = best_of(self.trials)
        rungs = [min(len(trial.values) + (trial.failed is not None), len(self.steps)) for trial in self.trials]
        return Tuning(
            trials=len(self.trials),
            failed=sum(trial.failed is not None for trial in self.trials),
            steps=sum(self.folds * step for reached in rungs for step in self.steps[:reached]),
            chosen=None if best is None else dict(best.params),
            value=None if best is None else best.value(rung),
            metric=str(self.of["metric"]),
            spread=max((self._spread(at) for at in range(len(self.steps))), default=0.0),
        )

    def _spread(self, rung: int) -> float:
        """Of the trials that have a value there; of all rungs the largest counts."""
        values = [trial.values[rung] for trial in self.trials if len(trial.values) > rung]
        return search_spread(np.array(values, np.float64).reshape(len(values), -1)) if values else 0.0


def best_of(trials: Sequence[Trial]) -> tuple[Trial | None, int]:
    """The trial with the highest value at the longest training that any has finished, and which rung that is."""
    longest = max((len(trial.values) for trial in trials), default=0) - 1
    there = [(trial.value(longest), -trial.number, trial) for trial in trials if len(trial.values) > longest >= 0]
    return (max(there, key=lambda one: one[:2])[2], longest) if there else (None, longest)


def read_trials(folder: Path) -> TrialsFile | None:
    """What an entry's search has written into its folder; None where it has written nothing.

    Raises:
        StorageError: where the file is damaged.
    """
    path = folder / FILE
    if not path.is_file():
        return None
    stored = read_json(path, _Trials)
    trials = [
        Trial(one["number"], one["params"], tuple(tuple(part) for part in one["values"]), one["failed"])
        for one in stored["trials"]
    ]
    rest = (stored[key] for key in ("steps", "folds", "importance", "done"))
    return TrialsFile(stored["of"], trials, *rest)


def require_same(stored: Mapping[str, Any], of: Mapping[str, Any], folder: Path) -> None:
    """Raises a StorageError where the trials in a folder were made for something else, naming what differs."""
    differing = [key for key in dict.fromkeys([*stored, *of]) if stored.get(key) != of.get(key)]
    if differing:
        raise StorageError(
            f"{folder} holds the trials of another search, which differs in {', '.join(differing)}",
            help="remove that folder, or choose another one with --out",
        )


def of_search(search: Search, metric: str, space: Sequence[str], settings: str) -> dict[str, Any]:
    """What the trials of an entry depend on, beside the number of them."""
    return {
        "metric": metric,
        "space": list(space),
        "folds": search.folds,
        "sampler": search.sampler,
        "rungs": list(search.rungs),
        "seed": search.seed,
        "settings": settings,
    }
