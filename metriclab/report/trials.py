"""The searches behind the entries of a comparison: what was tried, how far it led, and which keys mattered."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import accumulate
from typing import Any

from metriclab.comparison.finished import FinishedRun
from metriclab.comparison.trials import TrialsFile, best_of
from metriclab.comparison.tuning import search_behind
from metriclab.registry.toml import show
from metriclab.report.blocks import Cell, Charts, Section, Table, shorten
from metriclab.report.charts import Range, Series, draw_forest, draw_lines, make_legend
from metriclab.report.labels import format_number, metric_label


def search_section(entries: Mapping[str, Sequence[FinishedRun]]) -> Section | None:
    """A chart of the best so far, tables of all trials, and the importance of keys; None where nothing was searched.

    Args:
        entries: runs of one suite, by entry; those without a trial that ended well have no line.
    """
    searches = {name: found for name, runs in entries.items() if (found := search_behind(runs))}
    if not searches:
        return None
    metric = str(next(iter(searches.values())).of["metric"])
    series = [line for at, (name, one) in enumerate(searches.items()) if (line := _best_so_far(name, one, at))]
    blocks: list[Any] = [make_legend(list(searches))]
    if series:
        title = f"Best {metric_label(metric)} on held-out classes so far"
        blocks.append(Charts([draw_lines(title, series, x_name="trial")]))
    for name, one in searches.items():
        blocks.append(_table(name, one, metric))
    weighed = [_importance(name, one) for name, one in searches.items() if one.importance]
    if weighed:
        blocks.append(Charts(weighed, layout="wide"))
    folds = " or ".join(sorted({str(one.folds) for one in searches.values()}))
    lead = (
        f"Settings were chosen on held-out classes, by {folds} folds of the training classes; the test was read once, "
        "for the chosen ones. Importance is PED-ANOVA's share of each key in how the better trials differ from all."
    )
    return Section("search", "Search", blocks, lead)


def _best_so_far(name: str, one: TrialsFile, at: int) -> Series | None:
    """By the first rung, which every trial is trained to."""
    there = [(trial.number, value) for trial in one.trials if (value := trial.value(0)) is not None]
    if not there:
        return None
    return Series(name, [number for number, _ in there], list(accumulate((value for _, value in there), max)), at)


def _table(name: str, one: TrialsFile, metric: str) -> Table:
    keys = list(dict.fromkeys(key for trial in one.trials for key in trial.params))
    rungs = [f"{metric_label(metric)}, {steps:,}" for steps in one.steps]
    best, _ = best_of(one.trials)
    rows: list[list[Cell | str | None]] = []
    for trial in one.trials:
        ended = "chosen" if trial is best else shorten(trial.failed or "", 80)
        values = [format_number(trial.value(rung)) for rung in range(len(rungs))]
        settings = [_setting(trial.params.get(key)) for key in keys]
        rows.append([Cell(str(trial.number), trial.number), *settings, *values, ended])
    return Table(f"Trials of {name}", ["trial", *keys, *rungs, ""], rows)


def _setting(value: Any) -> Cell:
    return Cell(show(value), value if isinstance(value, int | float) else None)


def _importance(name: str, one: TrialsFile) -> Any:
    rows = [Range(key, share, [(0.0, share)], number=at) for at, (key, share) in enumerate(one.importance.items())]
    return draw_forest(f"Importance of keys for {name}", rows, x_name="importance", zero=True)
