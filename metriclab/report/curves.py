"""What runs logged while they trained, as small charts."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path

from markupsafe import Markup

from metriclab.report.blocks import Charts, Section
from metriclab.report.charts import Series, draw_lines, make_legend
from metriclab.report.labels import label, metric_label
from metriclab.runs.folder import RunFolder

MOST = 24
DRIFT = "drift_"
"""What a run calls its drift, before the lag in steps. It has a section of its own."""

_HIDDEN = {"step", "seconds"}
Curves = Mapping[str, tuple[list[float], list[float]]]


def read_curves(path: Path) -> Curves:
    """By name, the steps and values of everything that a run logged; what is not finite, or no number, is left out."""
    curves: dict[str, tuple[list[float], list[float]]] = {}
    for line in RunFolder(path).logged():
        for name, value in line.items():
            if name not in _HIDDEN and isinstance(value, int | float) and math.isfinite(value):
                steps, values = curves.setdefault(name, ([], []))
                steps.append(float(line["step"]))
                values.append(float(value))
    return curves


def curves_section(runs: Mapping[str, Curves], metric: str | None, best_step: int | None = None) -> Section | None:
    """A chart for each number that was logged and that changes, the loss and the metric first.

    What was validated once has no curve; the metric alone is shown even then.

    Args:
        runs: by name.
        metric: that the report is about.
        best_step: marked in the charts of the validation split.
    """
    names = list(dict.fromkeys(name for curves in runs.values() for name in curves if not name.startswith(DRIFT)))
    first = [name for name in ("loss", f"val.{metric}") if name in names]
    names = [*first, *(name for name in names if name not in first and _changes(name, runs))]
    if not names:
        return None
    charts = [_draw(name, runs, best_step) for name in names[:MOST]]
    few = max(len(first), 3) if len(names) > 4 else len(names)
    lead = f"The best checkpoint, of step {best_step:,}, is the one measured here." if best_step else ""
    key = [make_legend(list(runs))] if len(runs) > 1 else []
    return Section("training", "Training", [*key, Charts(charts[:few], charts[few:])], lead)


def _changes(name: str, runs: Mapping[str, Curves]) -> bool:
    curves = [curves[name] for curves in runs.values() if name in curves]
    if name.startswith("val."):
        return any(len(steps) > 1 for steps, _ in curves)
    return len({value for _, values in curves for value in values}) > 1


def _draw(name: str, runs: Mapping[str, Curves], best_step: int | None) -> Markup:
    series = [Series(run, *curves[name], number=at) for at, (run, curves) in enumerate(runs.items()) if name in curves]
    if not name.startswith("val."):
        return draw_lines(label(name), series, x_name="step")
    title = f"{metric_label(name.removeprefix('val.'))}, validation"
    return draw_lines(title, series, x_name="step", mark=best_step)
