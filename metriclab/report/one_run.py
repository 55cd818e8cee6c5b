"""The report of a single run."""

from __future__ import annotations

from collections.abc import Iterator

from metriclab.comparison.benchmark import require_metric
from metriclab.comparison.finished import FinishedRun
from metriclab.report.blocks import Notes, Opening, Section
from metriclab.report.curves import curves_section, read_curves
from metriclab.report.embedded import Data, Embedded, embed_run, open_data
from metriclab.report.gallery import Pictures, confusion_section, gallery_section
from metriclab.report.labels import format_cost, format_number, label, metric_label
from metriclab.report.map import map_section
from metriclab.report.memory import memory_section
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
        StorageError: where its checkpoint or its scores are damaged, or the metric is not what its queries scored.
    """

    def __init__(self, run: FinishedRun, *, metric: str | None, images: bool) -> None:
        if metric is not None:
            require_metric(run, metric)
        self.run = run
        self.metric = metric or min(run.metrics, key=lambda name: name != DEFAULT_METRIC, default=None)
        self.doubts = run.check(self.metric, run.metrics)
        self.title = run.path.resolve().name
        self.data: Data | None = open_data(run.path) if images else None
        self.embedded: Embedded | None = embed_run(run.path, self.data) if self.data else None

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
        return Opening(self.title, about, tiles, notices=[*notices, *(f"{doubt}." for doubt in self.doubts)])

    def _scores(self) -> Iterator[tuple[str, str]]:
        evaluator, _, name = (self.metric or "").partition(".")
        for column, parts in columns(self.run.result).items():
            value = parts.get(evaluator, {}).get(name)
            if value is not None and not column.startswith("output "):
                yield metric_label(f"{evaluator}.{name}") if column == "trained" else column, format_number(value).text

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
