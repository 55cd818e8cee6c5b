"""What runs logged while they trained, and the two charts of XBM (Wang et al., CVPR 2020): drift, and memory size."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from metriclab.comparison.finished import FinishedRun
from metriclab.report.blocks import Charts, Data, Section
from metriclab.report.charts import Point, Series, draw_lines, draw_scatter, make_legend
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

    What was validated once has no curve; the metric alone is shown even then. The best step is marked there.
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


SCORES = ("r_at_1", "map_at_r")
_FAR = 20  # from the smallest memory to the largest: beyond, the axis is logarithmic


def memory_section(entries: Mapping[str, Sequence[FinishedRun]], curves: Mapping[Path, Curves]) -> Section | None:
    """Drift over steps, and retrieval over the memory's size: means over seeds, each seed, and the numbers as data.

    None where no run logged its drift and no two memories differ in size.

    Args:
        entries: runs by the name of their entry.
        curves: what each run logged, by its path.
    """
    numbers = collect_numbers(entries, curves)
    charts = [*_draw_drift(numbers["drift"], list(entries))]
    if not charts and len({entry["memory_ratio"] for entry in numbers["memory_ratio"]}) < 2:
        return None
    charts += _draw_ratios(numbers["memory_ratio"], list(entries))
    lead = "Lines and marks are means over seeds. " if any(len(runs) > 1 for runs in entries.values()) else ""
    lead += f"{numbers['definitions']['drift']} The memory is a share of the training images; 0 is none."
    key = [make_legend(list(entries))] if len(entries) > 1 else []
    return Section("memory", "Drift and memory", [*key, Charts(charts), Data("memory-data", numbers)], lead)


def collect_numbers(entries: Mapping[str, Sequence[FinishedRun]], curves: Mapping[Path, Curves]) -> dict[str, Any]:
    """Every number that is drawn, as plain values; drift is averaged at the steps that all seeds logged."""
    definitions = next(iter(entries.values()))[0].result["definitions"].get("retrieval", {})
    return {
        "runs": [
            {"entry": name, "run": str(run.path), "seed": run.seed, "memory_size": memory_size(run), **_scores(run)}
            for name, runs in entries.items()
            for run in runs
        ],
        "memory_ratio": [_average_scores(name, runs) for name, runs in entries.items() if _ratio(runs[0]) is not None],
        "drift": [part for name, runs in entries.items() for part in _average_drift(name, runs, curves)],
        "definitions": {
            **{name: definitions[name] for name in SCORES if name in definitions},
            "drift": "D(t, dt): mean over fixed images of val of the squared distance between their unit embeddings z "
            "after t and after t - dt steps, in evaluation mode.",
        },
    }


def memory_size(run: FinishedRun) -> int | None:
    """Rows of the memory that a run trained with, 0 where it did without one, None where that has no size."""
    if "memory.name" not in run.settings or run.settings.get("method.weight") == 0:
        return 0
    size = run.settings.get("memory.size")
    return size if isinstance(size, int) else None


def _ratio(run: FinishedRun) -> float | None:
    size = memory_size(run)
    images = run.result["items"].get("train")
    return size / images if size is not None and images else None


def _scores(run: FinishedRun) -> dict[str, float]:
    return {name: run.metrics[f"retrieval.{name}"] for name in SCORES if f"retrieval.{name}" in run.metrics}


def _average_scores(name: str, runs: Sequence[FinishedRun]) -> dict[str, Any]:
    scores = [_scores(run) for run in runs]
    common = [score for score in SCORES if all(score in one for one in scores)]
    by_seed = {score: [one[score] for one in scores] for score in common}
    return {
        "entry": name,
        "memory_size": memory_size(runs[0]),
        "memory_ratio": _ratio(runs[0]),
        "seeds": [run.seed for run in runs],
        **{score: {"mean": _mean(values), "by_seed": values} for score, values in by_seed.items()},
    }


def _average_drift(name: str, runs: Sequence[FinishedRun], curves: Mapping[Path, Curves]) -> Iterator[dict[str, Any]]:
    for lag in sorted(int(key.removeprefix(DRIFT)) for key in curves[runs[0].path] if key.startswith(DRIFT)):
        by_seed = [dict(zip(*curves[run.path].get(f"{DRIFT}{lag}", ((), ())), strict=True)) for run in runs]
        steps = sorted(set.intersection(*map(set, by_seed)))
        if steps:
            yield {
                "entry": name,
                "lag": lag,
                "steps": steps,
                "mean": [_mean([values[step] for values in by_seed]) for step in steps],
                "by_seed": [[values[step] for step in steps] for values in by_seed],
            }


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _draw_drift(drift: Sequence[Mapping[str, Any]], entries: Sequence[str]) -> Iterator[Markup]:
    """D(t, dt) over t, a chart for each dt."""
    for lag in sorted({part["lag"] for part in drift}):
        of_lag = [(entries.index(part["entry"]), part) for part in drift if part["lag"] == lag]
        faint = [
            Series(part["entry"], part["steps"], values, number, faint=True)
            for number, part in of_lag
            for values in part["by_seed"]
            if len(part["by_seed"]) > 1
        ]
        means = [Series(part["entry"], part["steps"], part["mean"], number) for number, part in of_lag]
        yield draw_lines(f"drift D(t, dt), dt = {lag}", [*faint, *means], x_name="step t", within=[0.0])


def _draw_ratios(ratios: Sequence[Mapping[str, Any]], entries: Sequence[str]) -> Iterator[Markup]:
    """Retrieval on the test split over the memory's size."""
    positive = [one["memory_ratio"] for one in ratios if one["memory_ratio"] > 0]
    far = bool(positive) and max(positive) > _FAR * min(positive)
    places = {
        one["memory_ratio"]: math.asinh(one["memory_ratio"] / min(positive)) if far else one["memory_ratio"]
        for one in ratios
    }
    for score in SCORES:
        points = [
            Point(
                one["entry"],
                places[one["memory_ratio"]],
                one[score]["mean"],
                entries.index(one["entry"]),
                one[score]["by_seed"] if len(one["seeds"]) > 1 else (),
            )
            for one in ratios
            if score in one
        ]
        if points:
            yield draw_scatter(
                f"{label(score)} on test",
                points,
                x_name="memory / training images",
                y_name=label(score),
                ticks=[(place, f"{ratio:.3g}") for ratio, place in places.items()] if far or len(places) == 1 else (),
                joined=1 < len(points) == len({point.x for point in points}),
            )
