"""What `metriclab measure --per-class` shows: the worst classes, and the pairs that are taken for each other."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

from rich.markup import escape
from rich.table import Table

from metriclab.evaluation.per_class import PerClass

SHOWN = 20
"""Classes, and pairs of classes, in a table; JSON has all."""


def per_class_json(found: PerClass, name: Callable[[int], str | int]) -> dict[str, Any]:
    """All classes and all confused pairs, as plain values."""
    return {
        "classes": [
            {"class": name(one.label), "queries": one.queries, "r_at_1": one.r_at_1, "map_at_r": one.map_at_r}
            for one in found.classes
        ],
        "confused": [
            {"classes": [name(label) for label in one.labels], "wrong": one.wrong, "queries": one.queries}
            for one in found.confused
        ],
    }


def per_class_tables(found: PerClass, name: Callable[[int], str | int]) -> Iterator[tuple[str, Table]]:
    """The worst classes and the most confused pairs, each with its title."""
    classes = found.classes
    table = _table("class", "queries", "R@1", "MAP@R")
    for one in classes[:SHOWN]:
        values = (_number(one.r_at_1), _number(one.map_at_r))
        table.add_row(f"  {escape(str(name(one.label)))}", f"{one.queries:,}", *values)
    yield _title("classes, the worst by MAP@R first", len(classes)), table
    if found.confused:
        table = _table("classes", "wrong", "of queries")
        for pair in found.confused[:SHOWN]:
            both = " and ".join(escape(str(name(label))) for label in pair.labels)
            table.add_row(f"  {both}", f"{pair.wrong:,.4g}", f"{pair.queries:,}")
        title = "pairs of classes, by queries of one whose nearest row is of the other"
        yield _title(title, len(found.confused)), table


def _title(text: str, count: int) -> str:
    return f"[bold]{text}[/]" + (f" ({SHOWN} of {count:,}; --json has all)" if count > SHOWN else "")


def _table(*heads: str) -> Table:
    table = Table(box=None, pad_edge=False)
    for place, head in enumerate(heads):
        table.add_column(f"  {head}" if place == 0 else head, justify="left" if place == 0 else "right")
    return table


def _number(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.4f}"
