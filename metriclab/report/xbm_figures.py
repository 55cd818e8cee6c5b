"""The two figures of XBM (Wang et al., CVPR 2020): slow drift, and retrieval against the size of the memory."""

from __future__ import annotations

import io
from collections.abc import Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from metriclab.errors import RecipeError, StorageError
from metriclab.report.xbm_runs import SCORES, XBMRun, differing_settings, mean
from metriclab.runs.files import to_json, write_atomic

NAMES = {"r_at_1": "R@1", "map_at_r": "MAP@R"}


def write_figures(numbers: dict[str, Any], folder: Path) -> list[Path]:
    """Draws what `summary` gave into a folder, with the numbers beside; returns the files.

    Raises:
        StorageError: where the folder or a file cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise StorageError(f"cannot make the folder {folder}: {error.strerror}") from error
    contents = {
        "drift.png": png(draw_drift(numbers)),
        "memory_ratio.png": png(draw_memory_ratio(numbers)),
        "xbm.json": to_json(numbers).encode(),
        "xbm.md": markdown(numbers).encode(),
    }
    for name, content in contents.items():
        write_atomic(folder / name, content)
    return [folder / name for name in contents]


def summary(runs: Sequence[XBMRun]) -> dict[str, Any]:
    """Every number that is drawn, as plain values; means are over seeds, of drift at the steps that all of them logged.

    Args:
        runs: comparable ones, by memory size, at least one.

    Raises:
        RecipeError: where there is no such step.
    """
    groups = [list(group) for _, group in groupby(runs, key=lambda run: run.size)]
    drift = [part for group in groups for part in _drift_of(group)]
    if not drift:
        raise RecipeError(
            "the runs of a memory size logged their drift at no step in common",
            help="give runs with the same train.drift_every",
        )
    return {
        "runs": [
            {"run": str(run.path), "seed": run.seed, "memory_size": run.size, "memory_ratio": run.ratio, **run.scores}
            for run in runs
        ],
        "memory_ratio": [
            {
                "memory_size": group[0].size,
                "memory_ratio": group[0].ratio,
                "seeds": [run.seed for run in group],
                **{name: _over_seeds([run.scores[name] for run in group]) for name in SCORES},
            }
            for group in groups
        ],
        "drift": drift,
        "definitions": {
            **runs[0].definitions,
            "drift": "D(t, dt): mean over fixed images of val of the squared distance between their unit embeddings z "
            "after t and after t - dt steps, in evaluation mode.",
        },
        "also_differ": differing_settings(runs),
    }


def _over_seeds(values: list[float]) -> dict[str, Any]:
    return {"mean": mean(values), "by_seed": values}


def _drift_of(group: Sequence[XBMRun]) -> Iterator[dict[str, Any]]:
    for lag in sorted(set.intersection(*(set(run.drift) for run in group))):
        by_seed = [run.drift[lag] for run in group]
        steps = sorted(set.intersection(*map(set, by_seed)))
        if steps:
            yield {
                "memory_size": group[0].size,
                "memory_ratio": group[0].ratio,
                "lag": lag,
                "steps": steps,
                "mean": [mean([values[step] for values in by_seed]) for step in steps],
                "by_seed": [[values[step] for step in steps] for values in by_seed],
            }


def draw_drift(numbers: dict[str, Any]) -> Figure:
    """D(t, dt) over t, a panel for each dt: the mean over seeds, and each seed faintly."""
    lags = sorted({part["lag"] for part in numbers["drift"]})
    ratios = [group["memory_ratio"] for group in numbers["memory_ratio"]]
    colours = matplotlib.colormaps["viridis"]
    figure = Figure(figsize=(4 * len(lags), 3.4), layout="constrained")
    panels: list[Axes] = figure.subplots(1, len(lags), squeeze=False)[0].tolist()
    for lag, panel in zip(lags, panels, strict=True):
        for part in (part for part in numbers["drift"] if part["lag"] == lag):
            colour = colours(0.9 * ratios.index(part["memory_ratio"]) / max(1, len(ratios) - 1))
            for values in part["by_seed"]:
                panel.plot(part["steps"], values, color=colour, alpha=0.3, linewidth=0.8)
            # With a dot at each point a series of one is seen too.
            name = _ratio(part["memory_ratio"])
            panel.plot(part["steps"], part["mean"], color=colour, marker=".", markersize=3, label=name)
        panel.set(title=f"dt = {lag}", xlabel="step t", ylabel="drift D(t, dt)")
        panel.set_ylim(bottom=0)
    panels[0].legend(title="memory / training images", fontsize="small", title_fontsize="small")
    return figure


def draw_memory_ratio(numbers: dict[str, Any]) -> Figure:
    """R@1 and MAP@R on the test split over the memory ratio: the mean over seeds, and a point for each seed."""
    groups = numbers["memory_ratio"]
    ratios = [group["memory_ratio"] for group in groups]
    figure = Figure(figsize=(8, 3.4), layout="constrained")
    panels: list[Axes] = figure.subplots(1, len(SCORES), squeeze=False)[0].tolist()
    for name, panel in zip(SCORES, panels, strict=True):
        panel.plot(ratios, [group[name]["mean"] for group in groups], color="tab:blue", label="mean over seeds")
        places = [group["memory_ratio"] for group in groups for _ in group["seeds"]]
        values = [value for group in groups for value in group[name]["by_seed"]]
        panel.scatter(places, values, s=14, color="tab:blue", alpha=0.5, label="one seed")
        panel.set(xlabel="memory / training images", ylabel=f"{NAMES[name]} on test")
        positive = [ratio for ratio in ratios if ratio > 0]
        if positive and max(positive) > 20 * min(positive):
            panel.set_xscale("symlog", linthresh=min(positive))
            panel.minorticks_off()
            panel.set_xticks(ratios, [_ratio(ratio) for ratio in ratios])
    panels[0].legend(fontsize="small")
    return figure


def png(figure: Figure) -> bytes:
    """The drawing as a PNG file; no window system is asked."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=150)
    return buffer.getvalue()


def markdown(numbers: dict[str, Any]) -> str:
    """The same numbers as two tables."""
    lines = ["# Memory ratio", "", "| memory / training images | rows | seeds | R@1 | MAP@R |", "|---|---|---|---|---|"]
    for group in numbers["memory_ratio"]:
        seeds = ", ".join(map(str, group["seeds"]))
        scores = " | ".join(_score(group[name]) for name in SCORES)
        lines.append(f"| {_ratio(group['memory_ratio'])} | {group['memory_size']:,} | {seeds} | {scores} |")
    lines += ["", "Mean over seeds, and in brackets each seed.", "", "# Drift", ""]
    lines += ["| memory / training images | dt | first D(t, dt) | last D(t, dt) |", "|---|---|---|---|"]
    for part in numbers["drift"]:
        ends = " | ".join(f"{part['mean'][end]:.4g} at t = {part['steps'][end]:,}" for end in (0, -1))
        lines.append(f"| {_ratio(part['memory_ratio'])} | {part['lag']} | {ends} |")
    lines += ["", *(f"- {text}" for text in numbers["definitions"].values())]
    if numbers["also_differ"]:
        lines.append(f"- The recipes differ in more than memory and seed: {', '.join(numbers['also_differ'])}.")
    return "\n".join(lines) + "\n"


def _score(score: dict[str, Any]) -> str:
    return f"{score['mean']:.4f} ({', '.join(f'{value:.4f}' for value in score['by_seed'])})"


def _ratio(ratio: float) -> str:
    return f"{ratio:.3g}"
