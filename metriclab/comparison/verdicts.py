"""What a comparison says, as plain data."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, Literal

from metriclab.comparison.statistics import LEVEL, Interval
from metriclab.comparison.trials import Tuning

Verdict = Literal["better", "better model", "no evidence"]


@dataclass(frozen=True, slots=True)
class Mean:
    """A metric of an entry: its mean over seeds, and Student's interval, None for one seed."""

    mean: float
    interval: Interval | None
    per_seed: tuple[float, ...]


@dataclass(frozen=True, slots=True)
class ComparisonEntry:
    """The runs of one recipe, which differ in their seed alone.

    Attributes:
        name: what to call it.
        seeds, paths: of its runs, by seed.
        metrics: by "evaluator.metric", those that all its runs have.
        cost: means over its runs of the numbers in the result's `cost`; None where a run has none.
        steps, images_seen: of each run.
        settings: the dotted recipe keys in which the entries differ, as far as this one has them.
        warnings: that its runs gave, by name, with the seeds of those that did.
        tuning: the search that chose its settings, None where there was none.
    """

    name: str
    seeds: tuple[int, ...]
    paths: tuple[str, ...]
    metrics: dict[str, Mean]
    cost: dict[str, float | None]
    steps: int
    images_seen: int
    settings: dict[str, Any]
    warnings: dict[str, tuple[int, ...]]
    tuning: Tuning | None = None


@dataclass(frozen=True, slots=True)
class Difference:
    """Two entries in the main metric.

    Attributes:
        first, second: names; the first scores no less on the seeds that both have.
        value: how much more.
        p: of the sign-flip test by class, for all pairs of the comparison together.
        by_class: bootstrap interval of the value over classes.
        over_seeds: Student's interval of the value over the seeds that both have; None for fewer than two.
        least: what the value has to exceed, given the luck of classes, of seeds and of searches and the number of
            entries; None for fewer than two seeds that both have.
        seeds: those that both have; where there are none, all of either entry are taken.
        verdict: "better"; "better model", where fewer than two seeds allow no more; or "no evidence".
        unit: what is resampled, and has its sign flipped, in place of a class.
    """

    first: str
    second: str
    value: float
    p: float
    by_class: Interval
    over_seeds: Interval | None
    least: float | None
    seeds: tuple[int, ...]
    verdict: Verdict
    unit: str = "class"

    def sentence(self) -> str:
        """The verdict in words, with the numbers behind it."""
        numbers = f"{self.value:+.4f}, by {self.unit} {_range(self.by_class)}"
        numbers += f", over seeds {_range(self.over_seeds)}" if self.over_seeds else ""
        numbers += f", p = {self.p:.4f}" + ("" if self.least is None else f", needs {self.least:.4f}")
        if self.verdict == "better":
            return f"{self.first} is better than {self.second} ({numbers})"
        if self.verdict == "better model":
            text = f"this model of {self.first} is better than this one of {self.second}"
            return f"{text} ({numbers}; of other seeds it says nothing)"
        return f"no evidence of a difference between {self.first} and {self.second} ({numbers})"


@dataclass(frozen=True, slots=True)
class Comparison:
    """Everything that a comparison says; `to_dict` gives it as plain values.

    Attributes:
        metric: the main one, by which entries are ranked and tested.
        definition: how it is computed.
        protocol: queries and gallery, in words.
        queries: how many count in the test.
        classes: of how many they are, or of how many groups or categories: what `resampled` names.
        shown: further metrics for the table.
        entries: best first.
        differences: of all pairs, or of each entry and the reference.
        reference: the entry that all others are held against, if there is one.
        warnings: a sentence for each of those that runs gave.
        notes: what else a reader has to know.
    """

    metric: str
    definition: str
    protocol: str
    queries: int
    classes: int
    shown: tuple[str, ...]
    entries: tuple[ComparisonEntry, ...]
    differences: tuple[Difference, ...]
    reference: str | None
    warnings: tuple[str, ...]
    notes: tuple[str, ...]
    resampled: str = "classes"

    def to_dict(self) -> dict[str, Any]:
        """Plain values; every difference with its sentence."""
        differences = [{**asdict(difference), "sentence": difference.sentence()} for difference in self.differences]
        return {**asdict(self), "differences": differences, "level": LEVEL}

    def main_differences(self) -> list[Difference]:
        """Those of the reference, or else those of the best entry."""
        against = self.reference or self.entries[0].name
        return [one for one in self.differences if against in (one.first, one.second)]


def _range(interval: Interval) -> str:
    return f"{interval.low:+.4f} to {interval.high:+.4f}"
