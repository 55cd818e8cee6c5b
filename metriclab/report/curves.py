"""What runs logged while they trained, as small charts."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from metriclab.report.charts import Series, legend, lines
from metriclab.report.html import Markup, Section, section, tag
from metriclab.report.labels import label, metric_label
from metriclab.runs.folder import RunFolder

MOST = 24
_HIDDEN = {"step", "seconds"}
Curves = Mapping[str, tuple[list[float], list[float]]]


def read_curves(path: Path) -> Curves:
    """By name, the steps and values of everything that a run logged; what is not finite, or no number, is left out."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for line in _logged(RunFolder(path).metrics_file):
        for name, value in line.items():
            if name not in _HIDDEN and isinstance(value, int | float) and math.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(float(line["step"]))
                values.append(float(value))
    return curves


def _logged(file: Path) -> Iterator[dict[str, float]]:
    # A run without the tracker that writes it has none.
    for text in file.read_text("utf-8").splitlines() if file.is_file() else []:
        try:
            line = json.loads(text)
        except ValueError:
            continue  # cut short when the machine went down
        if isinstance(line, dict) and isinstance(line.get("step"), int | float):
            yield line


def curves_section(runs: Mapping[str, Curves], metric: str | None, best_step: int | None = None) -> Section | None:
    """A chart for each number that was logged and that changes, the loss and the metric first.

    What was validated once has no curve; the metric alone is shown even then.

    Args:
        runs: by name.
        metric: that the report is about.
        best_step: marked in the charts of the validation split.
    """
    main = ("loss", f"val.{metric}")
    names = list(dict.fromkeys(name for curves in runs.values() for name in curves))
    first = [name for name in main if name in names]
    names = [name for name in names if name in main or _changes(name, runs)]
    names = [*first, *(name for name in names if name not in first)]
    if not names:
        return None
    charts = [_chart(name, runs, best_step) for name in names[:MOST]]
    few = max(len(first), 3) if len(names) > 4 else len(names)
    more = None
    if charts[few:]:
        rest = tag("div", charts[few:], class_="charts")
        more = tag("details", tag("summary", f"{len(charts) - few} more curves"), rest)
    key = legend(list(runs)) if len(runs) > 1 else None
    lead = f"The best checkpoint, of step {best_step:,}, is the one measured here." if best_step else None
    return section("training", "Training", key, tag("div", charts[:few], class_="charts"), more, lead=lead)


def _changes(name: str, runs: Mapping[str, Curves]) -> bool:
    found = [curves[name] for curves in runs.values() if name in curves]
    if name.startswith("val."):
        return any(len(steps) > 1 for steps, _ in found)
    return len({value for _, values in found for value in values}) > 1


def _chart(name: str, runs: Mapping[str, Curves], best_step: int | None) -> Markup:
    drawn: Sequence[Series] = [
        Series(run, *curves[name], number=at) for at, (run, curves) in enumerate(runs.items()) if name in curves
    ]
    if not name.startswith("val."):
        return lines(label(name), drawn, x_name="step")
    return lines(f"{metric_label(name.removeprefix('val.'))}, validation", drawn, x_name="step", mark=best_step)
