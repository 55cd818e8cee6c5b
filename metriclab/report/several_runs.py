"""The report of several runs: what may be said of their differences, and the same queries side by side."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from metriclab.comparison.compare import ComparisonEntry, Mean, compare
from metriclab.comparison.finished import FinishedRun, group
from metriclab.comparison.statistics import Interval
from metriclab.report.charts import Point, Range, forest, legend, scatter
from metriclab.report.curves import curves_section, read_curves
from metriclab.report.embedded import Data, embed_run, open_data
from metriclab.report.gallery import Pictures
from metriclab.report.html import Cell, Markup, Section, join, section, short, table, tag
from metriclab.report.labels import cost, label, metric_label, number
from metriclab.report.one_run import DEFAULT_METRIC
from metriclab.report.side_by_side import MOST, Answers, side_by_side_section
from metriclab.report.thumbnails import Sizes

_COSTS = (
    "train_seconds",
    "peak_memory_mb",
    "peak_gpu_memory_mb",
    "parameters",
    "flops_per_image",
    "embedded_per_second",
)
_ALIKE = 0.02


class SeveralRuns:
    """Everything that a report of several runs shows, compared and embedded once.

    Args:
        runs: finished ones; those whose recipes differ in the seed alone are one entry.
        metric: "evaluator.metric" to rank and test by; MAP@R by default.
        images: whether to embed the data once more and to show images.
        notes: what a reader has to know besides.

    Raises:
        RecipeError: for runs that cannot be compared.
        DataError: where the data are not there, or have changed.
        StorageError: where a file of a run is missing or damaged.
    """

    def __init__(self, runs: Sequence[FinishedRun], *, metric: str | None, images: bool, notes: Sequence[str]) -> None:
        self.runs = {str(run.path): run for run in runs}
        self.compared = compare(group(runs), metric=metric or DEFAULT_METRIC, notes=notes)
        self.metric = self.compared.metric
        self.number = {entry.name: at for at, entry in enumerate(self.compared.entries)}
        self.title = f"Comparison of {len(self.number)} {'entries' if len(self.number) > 1 else 'entry'}"
        self.data: Data | None = open_data(runs[0].path) if images else None
        self.embedded = (
            {entry.name: embed_run(Path(entry.paths[0]), self.data) for entry in self._shown} if self.data else {}
        )

    @property
    def _shown(self) -> Sequence[ComparisonEntry]:
        return self.compared.entries[:MOST]

    def opening(self) -> Markup:
        """What was compared, and the verdicts."""
        one = self.compared
        told = f"{metric_label(self.metric)} · {one.protocol} · {one.queries:,} queries of {one.classes:,} classes"
        verdicts = [tag("li", difference.sentence()) for difference in one.main_differences()]
        notices = [tag("p", f"{note[:1].upper()}{note[1:]}.", class_="notice") for note in one.notes]
        return join(
            tag("h1", self.title),
            tag("p", told, class_="about"),
            tag("ul", verdicts, class_="verdicts") if verdicts else None,
            notices,
        )

    def sections(self, sizes: Sizes) -> Iterator[Section | None]:
        """All parts of the page, with images of these sizes."""
        yield self._table()
        yield self._intervals()
        yield self._costs()
        curves = {entry.name: read_curves(Path(entry.paths[0])) for entry in self.compared.entries}
        yield curves_section(curves, self.metric)
        yield self._differences_of_recipes()
        yield self._side_by_side(sizes)
        yield self._folders()

    def _table(self) -> Section:
        one = self.compared
        costs = [name for name in _COSTS if any(entry.cost.get(name) is not None for entry in one.entries)]
        head = ["entry", "seeds", metric_label(self.metric), "95 % over seeds", *map(metric_label, one.shown), "steps"]
        rows = [
            [
                entry.name,
                Cell(str(len(entry.seeds)), len(entry.seeds)),
                _mean(entry.metrics.get(self.metric)),
                _interval(entry.metrics[self.metric].interval),
                *(_mean(entry.metrics.get(name)) for name in one.shown),
                Cell(f"{entry.steps:,}", entry.steps),
                *(cost(name, entry.cost.get(name)) for name in costs),
            ]
            for entry in one.entries
        ]
        shown = table([*head, *map(label, costs)], rows, caption="Means over seeds, best first")
        definition = tag("p", one.definition, class_="quiet")
        return section("summary", "Summary", shown, definition)

    def _intervals(self) -> Section:
        rows = [
            Range(
                entry.name,
                entry.metrics[self.metric].mean,
                [_pair(entry.metrics[self.metric].interval)],
                entry.metrics[self.metric].per_seed,
                self.number[entry.name],
            )
            for entry in self.compared.entries
        ]
        name = metric_label(self.metric)
        charts = [forest(f"{name} by entry, with Student's 95 % interval over seeds", rows, x_name=name)]
        differences = [
            Range(
                f"{one.first} − {one.second}",
                one.value,
                [_pair(one.by_class), _pair(one.over_seeds)],
                number=self.number[one.first],
            )
            for one in self.compared.main_differences()
        ]
        if differences:
            title = f"Differences in {name}: 95 % interval by class (solid), over seeds (dashed)"
            charts.append(forest(title, differences, x_name=f"difference in {name}", zero=True))
        single = all(len(entry.seeds) == 1 for entry in self.compared.entries)
        lead = "One run an entry: there is no interval over seeds." if single else "A tick is one run."
        return section("intervals", "Intervals", [tag("div", chart, class_="wide") for chart in charts], lead=lead)

    def _costs(self) -> Section | None:
        name = metric_label(self.metric)
        charts = []
        for key in _COSTS:
            known = [entry for entry in self.compared.entries if entry.cost.get(key) is not None]
            values = [float(entry.cost[key] or 0) for entry in known]
            if len(known) < 2 or max(values) - min(values) <= _ALIKE * max(values):
                continue  # it costs the same
            unit = cost(key, 1.0).shown.partition(" ")[2]
            points = [
                Point(entry.name, value, entry.metrics[self.metric].mean, self.number[entry.name])
                for entry, value in zip(known, values, strict=True)
            ]
            x_name = f"{label(key)}, {unit}" if unit else label(key)
            charts.append(scatter(f"{name} against {label(key)}", points, x_name=x_name, y_name=name))
        if not charts:
            return None
        key_of_entries = legend(list(self.number))
        return section("quality-and-cost", "Quality and cost", key_of_entries, tag("div", charts, class_="charts"))

    def _differences_of_recipes(self) -> Section | None:
        entries = self.compared.entries
        keys = list(dict.fromkeys(key for entry in entries for key in entry.settings))
        if not keys:
            return None
        rows = [[tag("span", key, class_="key"), *(_setting(entry, key) for entry in entries)] for key in keys]
        head = ["recipe key", *(short(entry.name, 40) for entry in entries)]
        shown = table(head, rows, caption="Keys in which the recipes differ", numbers_from=len(head))
        return section("recipes", "Recipes", shown, lead="Everything else is the same in all entries, the seed apart.")

    def _side_by_side(self, sizes: Sizes) -> Section | None:
        if self.data is None:
            return None
        entries = [
            Answers(
                entry.name,
                entry.seeds[0],
                self.embedded[entry.name],
                self.runs[entry.paths[0]].per_query(self.metric)[0],
            )
            for entry in self._shown
        ]
        left_out = len(self.compared.entries) - len(entries)
        return side_by_side_section(entries, self.metric, Pictures(self.data, sizes), left_out=left_out)

    def _folders(self) -> Section:
        rows = [
            [path, entry.name, Cell(str(seed), seed), number(self.runs[path].metrics[self.metric])]
            for entry in self.compared.entries
            for path, seed in zip(entry.paths, entry.seeds, strict=True)
        ]
        head = ["run folder", "entry", "seed", metric_label(self.metric)]
        return section("runs", "Runs", table(head, rows, caption="Every run of this comparison", numbers_from=2))


def _mean(value: Mean | None) -> Cell:
    return number(None if value is None else value.mean)


def _interval(value: Interval | None) -> Cell:
    return Cell("-") if value is None else Cell(f"{value.low:.4f} to {value.high:.4f}", value.low)


def _pair(value: Interval | None) -> tuple[float, float] | None:
    return None if value is None else (value.low, value.high)


def _setting(entry: ComparisonEntry, key: str) -> str | None:
    return short(str(entry.settings[key]), 60) if key in entry.settings else None
