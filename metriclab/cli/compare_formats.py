"""A comparison as text: for the terminal, Markdown, JSON or HTML."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from rich.cells import cell_len
from rich.console import Console
from rich.markup import escape as escape_markup
from rich.table import Column, Table

from metriclab.comparison.compare import Comparison, ComparisonEntry, Mean
from metriclab.registry.toml import toml_value
from metriclab.runs.files import to_json

_COSTS = {
    "train_seconds": ("train s", "{:,.0f}"),
    "images_per_second": ("images/s", "{:,.0f}"),
    "peak_memory_mb": ("peak MB", "{:,.0f}"),
    "parameters": ("parameters", "{:,.0f}"),
}


class ComparisonText(NamedTuple):
    """What every format shows.

    Attributes:
        title: of the table.
        header, rows: the table; its first column is text, the others are numbers.
        scored: how many columns from the second on are seeds and metrics; the others are costs.
        verdicts: sentences.
        warnings: sentences.
        settings: a line for each entry, with what its recipe has of its own.
        notes: sentences.
    """

    title: str
    header: list[str]
    rows: list[list[str]]
    scored: int
    verdicts: list[str]
    warnings: list[str]
    settings: list[str]
    notes: list[str]


def describe(comparison: Comparison) -> ComparisonText:
    """The table and the sentences of a comparison."""
    unequal = len({entry.images_seen for entry in comparison.entries}) > 1
    header = ["", "seeds", comparison.metric, *comparison.shown]
    header += ["images seen" + (" (unequal)" if unequal else ""), *(name for name, _ in _COSTS.values())]
    units = f"{comparison.classes:,} {comparison.resampled}"
    title = f"{comparison.metric}, {comparison.protocol}: {comparison.queries:,} queries of {units}"
    intervals = (
        [] if all(len(entry.seeds) < 2 for entry in comparison.entries) else ["± is the 95 % t-interval over seeds"]
    )
    return ComparisonText(
        title=title,
        header=header,
        rows=[_row(comparison, entry) for entry in comparison.entries],
        scored=2 + len(comparison.shown),
        verdicts=[difference.sentence() for difference in comparison.main_differences()],
        warnings=list(comparison.warnings),
        settings=[f"{name}: {own}" for name, own in _own_settings(comparison.entries).items() if own],
        notes=[*comparison.notes, *intervals, comparison.definition],
    )


def _row(comparison: Comparison, entry: ComparisonEntry) -> list[str]:
    metrics = [_mean(entry.metrics.get(name)) for name in (comparison.metric, *comparison.shown)]
    costs = [_number(entry.cost.get(key), form) for key, (_, form) in _COSTS.items()]
    return [entry.name, str(len(entry.seeds)), *metrics, f"{entry.images_seen:,}", *costs]


def _mean(value: Mean | None) -> str:
    if value is None:
        return "-"
    return f"{value.mean:.4f}" + (f" ± {value.interval.half:.4f}" if value.interval else "")


def _number(value: float | None, form: str) -> str:
    return "-" if value is None else form.format(value)


def _own_settings(entries: Sequence[ComparisonEntry]) -> dict[str, str]:
    """By entry what its recipe has and most others have not."""

    def is_own(key: str, value: Any) -> bool:
        return 2 * sum(bool(entry.settings.get(key) == value) for entry in entries) <= len(entries)

    return {
        entry.name: ", ".join(
            f"{key} = {toml_value(value)}" for key, value in entry.settings.items() if is_own(key, value)
        )
        for entry in entries
    }


def to_rich(comparison: Comparison) -> str:
    """For a terminal, in colour where standard output is one."""
    text, out = describe(comparison), Console()
    with out.capture() as captured:
        out.print(f"[bold]{escape_markup(text.title)}[/]", highlight=False, soft_wrap=True)
        for columns in _tables(text, out.width):
            heads = (escape_markup(_head(text.header[column])) for column in columns)
            table = Table(Column("", overflow="fold"), *(Column(head, justify="right", no_wrap=True) for head in heads))
            for row in text.rows:
                table.add_row(*map(escape_markup, (row[0], *(row[column] for column in columns))))
            out.print(table)
        for name, lines in _sections(text):
            out.print(f"\n[bold]{name}[/]")
            for line in lines:
                out.print(f"  {escape_markup(line)}", highlight=False, soft_wrap=True)
    return captured.get()


def _head(name: str) -> str:
    return name.replace(".", "\n")


def _tables(text: ComparisonText, width: int) -> Iterator[list[int]]:
    """The columns of each table: scores, then costs, in as many as show every name and number whole."""
    names = max(cell_len(row[0]) for row in text.rows)
    room = max(width - names - 4, width // 2)  # beyond half of the terminal, names go over several lines
    for columns in (range(1, 1 + text.scored), range(1 + text.scored, len(text.header))):
        table: list[int] = []
        used = 0
        for column in columns:
            lines = [*_head(text.header[column]).split("\n"), *(row[column] for row in text.rows)]
            needed = max(map(cell_len, lines)) + 3
            if table and used + needed > room:
                yield table
                table, used = [], 0
            table.append(column)
            used += needed
        yield table


def _sections(text: ComparisonText) -> list[tuple[str, list[str]]]:
    sections = [
        ("Verdict", text.verdicts),
        ("Warnings", text.warnings),
        ("What differs in the recipes", text.settings),
        ("Notes", text.notes),
    ]
    return [(name, lines) for name, lines in sections if lines]


def to_markdown(comparison: Comparison) -> str:
    """A table of GitHub's Markdown, and lists."""
    text = describe(comparison)
    rules = ["---", *["---:"] * (len(text.header) - 1)]
    lines = [f"**{_plain(text.title)}**", "", *(_cells(row) for row in (text.header, rules, *text.rows))]
    for name, sentences in _sections(text):
        lines += ["", f"{name}:", "", *(f"- {_plain(sentence)}" for sentence in sentences)]
    return "\n".join(lines) + "\n"


def _cells(row: Sequence[str]) -> str:
    return f"| {' | '.join(map(_plain, row))} |"


def _plain(text: str) -> str:
    for character in "\\|<*`[":
        text = text.replace(character, f"\\{character}")
    return text.replace("\n", " ")


def to_json_text(comparison: Comparison) -> str:
    """`Comparison.to_dict` in JSON."""
    return to_json(comparison.to_dict())


FORMATS: dict[str, Callable[[Comparison], str]] = {
    "rich": to_rich,
    "md": to_markdown,
    "json": to_json_text,
}
"""How `--format` names them."""
