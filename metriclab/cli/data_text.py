"""What is found in the data of a recipe, as text for the terminal."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Column, Table

from metriclab.audit.check import DataReport, Finding, SplitSummary
from metriclab.core.reading import printable

_SHOWN = 5  # items named of one finding; unreadable files are all named, as each needs its own repair


def data_text(report: DataReport) -> str:
    """A table of the splits, the findings with the first items of each, and the verdict; in colour on a terminal."""
    out = Console()
    with out.capture() as captured:
        if report.splits:
            out.print(_table(report.splits))
        for finding in report.findings:
            mark = "[bold red]wrong[/]  " if finding.wrong else "[yellow]warning[/]"
            out.print(f"{mark}  {escape(printable(finding.message))}", highlight=False, soft_wrap=True)
            for line in _lines(finding):
                out.print(f"           {escape(printable(line))}", highlight=False, soft_wrap=True)
        for note in report.notes:
            out.print(f"note     {escape(note)}", highlight=False, soft_wrap=True)
        wrong = sum(finding.wrong for finding in report.findings)
        warnings = len(report.findings) - wrong
        verdict = "data are fine" if report.fine else f"data are not fine: {wrong} wrong"
        out.print(verdict + (f", {warnings} to look at" if warnings else ""), highlight=False)
    return captured.get()


def _table(splits: Mapping[str, SplitSummary]) -> Table:
    table = Table(Column("data"), *(Column(escape(name), justify="right") for name in splits))

    def row(name: str, *cells: str) -> None:
        if any(cells):
            table.add_row(name, *cells)

    total = sum(split.images for split in splits.values())
    row("images", *(_part(split.images, total) for split in splits.values()))
    row("  without a class", *(f"{split.unlabelled:,}" if split.unlabelled else "" for split in splits.values()))
    row("  grey", *(_part(split.grey, split.images) for split in splits.values()))
    row("  without contrast", *(f"{split.flat:,}" if split.flat else "" for split in splits.values()))
    row("height", *(_span(split.height) for split in splits.values()))
    row("width", *(_span(split.width) for split in splits.values()))
    row("classes", *(f"{len(split.classes):,}" if split.classes else "" for split in splits.values()))
    bins = {name: Counter(count.bit_length() for count in split.classes.values()) for name, split in splits.items()}
    for bits in sorted(set().union(*bins.values())):
        low, high = 2 ** (bits - 1), 2**bits - 1
        images = "1 image" if low == high else f"{low:,} to {high:,} images"
        row(f"  of {images}", *(f"{counts[bits]:,}" if counts[bits] else "" for counts in bins.values()))
    return table


def _part(count: int, total: int) -> str:
    return f"{count:,} ({count / total:.0%})" if count else ""


def _span(span: tuple[float, float, float] | None) -> str:
    if span is None:
        return ""
    low, middle, high = (f"{value:g}" for value in span)
    return low if low == high else f"{low} / {middle} / {high}"


def _lines(finding: Finding) -> list[str]:
    shown = len(finding.items) if finding.kind == "unreadable" else _SHOWN
    rest = len(finding.items) - shown
    sign = "=" if finding.kind == "copies" else "~"
    return [_line(item, sign) for item in finding.items[:shown]] + ([f"and {rest:,} more"] if rest > 0 else [])


def _line(item: Mapping[str, Any], sign: str) -> str:
    if "file" in item:
        return f"{item['file']}: {item['reason']}"
    if "image" in item:
        return f"{item['image']}  {sign}  {item['other']}"
    return str(item["class"])
