"""The report of a single run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from metriclab.comparison.benchmark import require_metric
from metriclab.comparison.finished import FinishedRun
from metriclab.report.curves import curves_section, read_curves
from metriclab.report.details import manifest_section, recipe_section
from metriclab.report.embedded import Data, Embedded, embed_run, open_data
from metriclab.report.gallery import Pictures, confusion_section, gallery_section
from metriclab.report.html import Markup, Section, join, tag
from metriclab.report.labels import cost, label, metric_label, number
from metriclab.report.map import map_section
from metriclab.report.summary import (
    Notes,
    columns,
    costs_section,
    health_sections,
    metrics_section,
    robustness_sections,
)
from metriclab.report.thumbnails import Sizes
from metriclab.runs.folder import RunFolder

DEFAULT_METRIC = "retrieval.map_at_r"


class OneRun:
    """Everything that a report of one run shows, read and embedded once.

    Args:
        run: a finished run.
        metric: "evaluator.metric" that the report is about; MAP@R where there is one.
        images: whether to embed the data once more and to show images.

    Raises:
        RecipeError: where the run has no such metric.
        DataError: where its data are not there, or have changed.
        StorageError: where its checkpoint is damaged.
    """

    def __init__(self, run: FinishedRun, *, metric: str | None, images: bool) -> None:
        self.run = run
        self.metric = choose_metric(run, metric)
        self.title = run.path.resolve().name
        self.data: Data | None = open_data(run.path) if images else None
        self.embedded: Embedded | None = embed_run(run.path, self.data) if self.data else None

    def opening(self) -> Markup:
        """Name, what was trained, and the figures to remember."""
        settings, result = self.run.settings, self.run.result
        parts = [settings.get(f"{table}.name") for table in ("method", "loss", "memory", "miner")]
        network = settings.get("encoder.model", settings.get("encoder.name"))
        told = f"{' · '.join(filter(None, parts))} · {network} · {settings.get('data.name')} · seed {self.run.seed}"
        warned = ", ".join(label(name) for name in result.get("warnings", []))
        notice = tag("p", f"The run gave warnings: {warned}.", class_="notice") if warned else None
        return join(tag("h1", self.title), tag("p", told, class_="about"), self._tiles(), notice)

    def _tiles(self) -> Markup:
        tiles = list(self._scores())
        tiles += [(label(name), cost(name, value).shown) for name, value in self._main_costs()]
        return tag("dl", [tag("div", tag("dt", name), tag("dd", value)) for name, value in tiles], class_="tiles")

    def _scores(self) -> Iterator[tuple[str, str]]:
        if self.metric is None:
            return
        evaluator, _, name = self.metric.partition(".")
        for column, parts in columns(self.run.result).items():
            value = parts.get(evaluator, {}).get(name)
            if value is not None and column != "output h" and column != "output z":
                yield (metric_label(self.metric) if column == "trained" else column), number(value).shown

    def _main_costs(self) -> Iterator[tuple[str, Any]]:
        for name in ("train_seconds", "parameters"):
            if self.run.result["cost"].get(name):
                yield name, self.run.result["cost"][name]

    def sections(self, sizes: Sizes) -> Iterator[Section | None]:
        """All parts of the page, with images of these sizes."""
        result, path, notes = self.run.result, self.run.path, Notes()
        metrics = metrics_section(result, notes)
        robustness = list(robustness_sections(result, notes))
        yield Section(metrics.name, metrics.title, join(metrics.markup, notes.listed()))
        yield curves_section({self.title: read_curves(path)}, self.metric, result.get("best_step"))
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


def choose_metric(run: FinishedRun, wanted: str | None) -> str | None:
    """The metric that a report is about: the wanted one, else MAP@R, else the first; None where there is none."""
    if wanted is not None:
        require_metric(run, wanted)
    return wanted or next(iter(sorted(run.metrics, key=lambda name: name != DEFAULT_METRIC)), None)
