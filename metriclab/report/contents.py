"""What a page shows: of a single run, or of several, with what may be said of their differences."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from markupsafe import Markup

from metriclab.comparison.compare import ComparisonEntry, Mean, compare
from metriclab.comparison.finished import FinishedRun, require_metric
from metriclab.comparison.statistics import Interval
from metriclab.comparison.suite import Suite
from metriclab.evaluation.shortfall import shortfall
from metriclab.report.blocks import Cell, Charts, Notes, Opening, Section, Table, Text, shorten
from metriclab.report.charts import Point, Range, draw_forest, draw_grid, draw_scatter, make_legend
from metriclab.report.curves import curves_section, memory_section, read_curves
from metriclab.report.embedded import Data, Embedded, embed_run, open_data
from metriclab.report.gallery import (
    MOST,
    EmbeddedEntry,
    Pictures,
    confusion_section,
    gallery_section,
    side_by_side_section,
)
from metriclab.report.labels import format_cost, format_number, label, metric_label, own_column
from metriclab.report.map import map_section
from metriclab.report.summary import (
    columns,
    costs_section,
    health_sections,
    manifest_section,
    metrics_section,
    recipe_section,
    robustness_sections,
)
from metriclab.report.thumbnails import Sizes
from metriclab.report.trials import search_section
from metriclab.runs.folder import RunFolder

DEFAULT_METRIC = "retrieval.map_at_r"


class OneRun:
    """Everything that a report of one run shows, read and embedded once; see `page.write_report`."""

    def __init__(self, run: FinishedRun, *, metric: str | None, images: bool) -> None:
        if metric is not None:
            require_metric(run, metric)
        self.run = run
        self.metric = metric or min(run.metrics, key=lambda name: name != DEFAULT_METRIC, default=None)
        self.doubts = run.check(self.metric, run.metrics)
        self.title = run.path.resolve().name
        self.data: Data | None = open_data(run.path) if images else None
        self.embedded: Embedded | None = embed_run(run.path, self.data, self.metric) if self.data else None

    def opening(self) -> Opening:
        """Name, what was trained, and the figures to remember."""
        settings, result = self.run.settings, self.run.result
        parts = [str(settings.get(f"{table}.name", "")) for table in ("method", "loss", "memory", "miner")]
        network = settings.get("encoder.model", settings.get("encoder.name"))
        about = f"{' · '.join(filter(None, parts))} · {network} · {settings.get('data.name')} · seed {self.run.seed}"
        costs = [(name, result["cost"].get(name)) for name in ("train_seconds", "parameters")]
        tiles = [*self._scores(), *((label(name), format_cost(name, value).text) for name, value in costs if value)]
        warned = ", ".join(label(name) for name in result.get("warnings", []))
        notices = [f"The run gave warnings: {warned}."] if warned else []
        below = shortfall(result, self.metric) if self.metric else None
        notices += [f"{text[:1].upper()}{text[1:]}." for text in filter(None, (below, *self.doubts))]
        return Opening(self.title, about, tiles, notices=notices)

    def _scores(self) -> Iterator[tuple[str, str]]:
        evaluator, _, name = (self.metric or "").partition(".")
        own = own_column(self.run.result)
        for column, parts in columns(self.run.result).items():
            value = parts.get(evaluator, {}).get(name)
            if value is not None and not column.startswith("output "):
                yield (
                    metric_label(f"{evaluator}.{name}") if column == own else column,
                    format_number(value).text,
                )

    def sections(self, sizes: Sizes) -> Iterator[Section | None]:
        """All parts of the page, with images of these sizes."""
        result, path, notes = self.run.result, self.run.path, Notes()
        curves = read_curves(path)
        yield metrics_section(result, notes)  # which lists the notes of the next ones too
        robustness = list(robustness_sections(result, notes))
        yield curves_section({self.title: curves}, self.metric, result.get("best_step"))
        yield memory_section({self.title: [self.run]}, {path: curves})
        yield from self._pictures(sizes)
        yield from robustness
        yield from health_sections(result)
        yield costs_section(result)
        yield recipe_section(path)
        yield manifest_section(path)

    def _pictures(self, sizes: Sizes) -> Iterator[Section | None]:
        if self.data is None or self.embedded is None:
            return
        pictures = Pictures(self.data, sizes)
        scores = RunFolder(self.run.path).scores()
        if self.metric in scores:
            yield gallery_section(self.embedded, scores[self.metric].double().numpy(), self.metric, pictures)
        yield confusion_section(self.embedded, pictures)
        yield map_section(self.embedded, self.data, sizes)


_COSTS = (
    "train_seconds",
    "peak_memory_mb",
    "peak_gpu_memory_mb",
    "parameters",
    "flops_per_image",
    "embedded_per_second",
)
_ALIKE = 0.02
_KEY = Markup('<span class="key">{}</span>')


class SeveralRuns:
    """Everything that a report of several runs shows, compared and embedded once; see `page.write_report`."""

    def __init__(
        self,
        groups: Mapping[str, Sequence[FinishedRun]],
        *,
        metric: str | None,
        images: bool,
        notes: Sequence[str],
        suite: Suite | None = None,
    ) -> None:
        runs = [run for alike in groups.values() for run in alike]
        self.runs = {str(run.path): run for run in runs}
        self.compared = compare(
            groups,
            metric=metric or (suite.metric if suite else DEFAULT_METRIC),
            also=suite.also if suite else None,
            reference=suite.reference if suite else None,
            resample=suite.resample if suite else "classes",
            notes=notes,
        )
        self.places = {entry.name: entry.at for entry in suite.entries if entry.at} if suite else {}
        self.metric = self.compared.metric
        self.number = {entry.name: at for at, entry in enumerate(self.compared.entries)}
        self.title = f"Comparison of {len(self.number)} {'entries' if len(self.number) > 1 else 'entry'}"
        self.data: Data | None = open_data(runs[0].path) if images else None
        self.embedded = (
            {entry.name: embed_run(Path(entry.paths[0]), self.data, self.metric) for entry in self._shown}
            if self.data
            else {}
        )

    @property
    def _shown(self) -> Sequence[ComparisonEntry]:
        return self.compared.entries[:MOST]

    def opening(self) -> Opening:
        """What was compared, and the verdicts."""
        one = self.compared
        among = f"{one.queries:,} queries of {one.classes:,} {one.resampled}"
        about = f"{metric_label(self.metric)} · {one.protocol} · {among}"
        verdicts = [difference.sentence() for difference in one.main_differences()]
        notices = [f"{note[:1].upper()}{note[1:]}." for note in (*one.warnings, *one.notes)]
        return Opening(self.title, about, verdicts=verdicts, notices=notices)

    def sections(self, sizes: Sizes) -> Iterator[Section | None]:
        """All parts of the page, with images of these sizes."""
        entries = {one.name: [self.runs[path] for path in one.paths] for one in self.compared.entries}
        curves = {run.path: read_curves(run.path) for runs in entries.values() for run in runs}
        yield self._summary()
        yield self._grid()
        yield self._intervals()
        yield search_section(entries)
        yield self._costs()
        yield curves_section({name: curves[runs[0].path] for name, runs in entries.items()}, self.metric)
        yield memory_section(entries, curves)
        yield self._recipes()
        yield self._side_by_side(sizes)
        yield self._folders()

    def _summary(self) -> Section:
        one = self.compared
        costs = [name for name in _COSTS if any(entry.cost.get(name) is not None for entry in one.entries)]
        head = ["entry", "seeds", metric_label(self.metric), "95 % over seeds", *map(metric_label, one.shown), "steps"]
        rows: list[list[Cell | str | None]] = [
            [
                entry.name,
                Cell(str(len(entry.seeds)), len(entry.seeds)),
                _format_mean(entry.metrics.get(self.metric)),
                _format_interval(entry.metrics[self.metric].interval),
                *(_format_mean(entry.metrics.get(name)) for name in one.shown),
                Cell(f"{entry.steps:,}", entry.steps),
                *(format_cost(name, entry.cost.get(name)) for name in costs),
            ]
            for entry in one.entries
        ]
        table = Table("Means over seeds, best first", [*head, *map(label, costs)], rows)
        return Section("summary", "Summary", [table, Text(one.definition)])

    def _grid(self) -> Section | None:
        means = {entry.name: entry.metrics[self.metric].mean for entry in self.compared.entries}
        values = {place: means[name] for name, place in self.places.items() if name in means}
        if not values:
            return None
        chart = draw_grid(f"{metric_label(self.metric)}, averaged over seeds", values)
        return Section("grid", "Grid", [Charts([chart], layout="wide")], "Entries by the two things that they join.")

    def _intervals(self) -> Section:
        means = {entry.name: entry.metrics[self.metric] for entry in self.compared.entries}
        rows = [
            Range(name, of.mean, [_ends(of.interval)], of.per_seed, self.number[name]) for name, of in means.items()
        ]
        name = metric_label(self.metric)
        charts = [draw_forest(f"{name} by entry, with Student's 95 % interval over seeds", rows, x_name=name)]
        differences = [
            Range(
                f"{one.first} − {one.second}",
                one.value,
                [_ends(one.by_class), _ends(one.over_seeds)],
                number=self.number[one.first],
            )
            for one in self.compared.main_differences()
        ]
        if differences:
            by = self.compared.differences[0].unit
            title = f"Differences in {name}: 95 % interval by {by} (solid), over seeds (dashed)"
            charts.append(draw_forest(title, differences, x_name=f"difference in {name}", zero=True))
        single = all(len(entry.seeds) == 1 for entry in self.compared.entries)
        lead = "One run an entry: there is no interval over seeds." if single else "A tick is one run."
        return Section("intervals", "Intervals", [Charts(charts, layout="wide")], lead)

    def _costs(self) -> Section | None:
        name = metric_label(self.metric)
        charts = []
        for key in _COSTS:
            entries = [entry for entry in self.compared.entries if entry.cost.get(key) is not None]
            values = [float(entry.cost[key] or 0) for entry in entries]
            if len(entries) < 2 or max(values) - min(values) <= _ALIKE * max(values):
                continue  # it costs the same
            unit = format_cost(key, 1.0).text.partition(" ")[2]
            points = [
                Point(entry.name, value, entry.metrics[self.metric].mean, self.number[entry.name])
                for entry, value in zip(entries, values, strict=True)
            ]
            x_name = f"{label(key)}, {unit}" if unit else label(key)
            charts.append(draw_scatter(f"{name} against {label(key)}", points, x_name=x_name, y_name=name))
        if not charts:
            return None
        return Section("quality-and-cost", "Quality and cost", [make_legend(list(self.number)), Charts(charts)])

    def _recipes(self) -> Section | None:
        entries = self.compared.entries
        keys = list(dict.fromkeys(key for entry in entries for key in entry.settings))
        if not keys:
            return None
        rows = [[_KEY.format(key), *(_format_setting(entry, key) for entry in entries)] for key in keys]
        head = ["recipe key", *(shorten(entry.name, 40) for entry in entries)]
        table = Table("Keys in which the recipes differ", head, rows, numbers_from=len(head))
        return Section("recipes", "Recipes", [table], "Everything else is the same in all entries, the seed apart.")

    def _side_by_side(self, sizes: Sizes) -> Section | None:
        if self.data is None:
            return None
        entries = [
            EmbeddedEntry(
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
        rows: list[list[Cell | str | None]] = [
            [path, entry.name, Cell(str(seed), seed), format_number(self.runs[path].metrics[self.metric])]
            for entry in self.compared.entries
            for path, seed in zip(entry.paths, entry.seeds, strict=True)
        ]
        head = ["run folder", "entry", "seed", metric_label(self.metric)]
        return Section("runs", "Runs", [Table("Every run of this comparison", head, rows, numbers_from=2)])


def _format_mean(value: Mean | None) -> Cell:
    return format_number(None if value is None else value.mean)


def _format_interval(value: Interval | None) -> Cell:
    return Cell("-") if value is None else Cell(f"{value.low:.4f} to {value.high:.4f}", value.low)


def _ends(value: Interval | None) -> tuple[float, float] | None:
    return None if value is None else (value.low, value.high)


def _format_setting(entry: ComparisonEntry, key: str) -> str | None:
    return shorten(str(entry.settings[key]), 60) if key in entry.settings else None
