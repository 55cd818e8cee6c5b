"""`metriclab measure`."""

from __future__ import annotations

import tomllib
from collections.abc import Generator, Mapping, Sequence
from contextlib import closing
from itertools import takewhile
from pathlib import Path
from typing import Any

import click
import torch
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from metriclab.cli.options import json_option, plugin_option
from metriclab.cli.per_class_text import per_class_json, per_class_tables
from metriclab.core.protocols import Evaluator, Score
from metriclab.core.rows import Rows
from metriclab.errors import DataError, RecipeError
from metriclab.evaluation.evaluate import score_definitions, score_values, steps_of, wants_encoder
from metriclab.evaluation.per_class import per_class
from metriclab.registry import load_component
from metriclab.runs.files import to_json
from metriclab.vectors.rows import Source, read_named_rows

_FILE = click.Path(path_type=Path)
_COUNTS = ("queries_without_matches",)
"""What counts no query right or wrong."""


@click.command()
@click.argument("embeddings", type=_FILE)
@click.option(
    "--labels", type=_FILE, help="Labels of EMBEDDINGS: .npy, .npz, .parquet, .txt with one a line, or a manifest."
)
@click.option("--items", type=_FILE, help="Whole numbers, equal for rows of one thing, which never match each other.")
@click.option("--groups", type=_FILE, help="Groups (camera, sequence), in such a file; a table of labels has its own.")
@click.option("--gallery", type=_FILE, help="Embeddings to look among; by default each row looks among all others.")
@click.option("--gallery-labels", type=_FILE, help="Labels of the gallery.")
@click.option("--gallery-items", type=_FILE, help="Items of the gallery; without any its rows are nobody else's.")
@click.option("--gallery-groups", type=_FILE, help="Groups of the gallery.")
@click.option(
    "--exclude",
    type=click.Choice(["own-item", "same-group"]),
    help="Gallery rows that retrieval leaves out: the query's own item, or also those of its label and group.",
)
@click.option(
    "--by-folder", is_flag=True, help="The class folder of each image is its label, in files of `metriclab embed`."
)
@click.option(
    "--evaluator", "names", multiple=True, metavar="NAME", help="What to measure by; retrieval by default. Repeatable."
)
@click.option(
    "--set",
    "options",
    multiple=True,
    metavar="[NAME.]KEY=VALUE",
    help="A parameter of an evaluator, such as k=[1,10]; with several, retrieval.k=[1,10]. Repeatable.",
)
@click.option(
    "--per-class", "by_class", is_flag=True, help="Also R@1 and MAP@R of each class, and which are taken for which."
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar, and no definitions.")
@json_option
@plugin_option
def measure(
    embeddings: Path,
    labels: Path | None,
    items: Path | None,
    groups: Path | None,
    gallery: Path | None,
    gallery_labels: Path | None,
    gallery_items: Path | None,
    gallery_groups: Path | None,
    exclude: str | None,
    by_folder: bool,
    names: tuple[str, ...],
    options: tuple[str, ...],
    by_class: bool,
    quiet: bool,
    as_json: bool,
) -> None:
    """Measure EMBEDDINGS that you already have: a .safetensors, .npy, .npz or .parquet file, a row a thing.

    A file with names holds them as "embeddings", and may hold "labels", "items" and "groups" too; columns of
    .parquet may be called "embedding", "label", "item" and "group". Labels are whole numbers, negative for unknown,
    or names. With --by-folder they are as in a run: the first folder below the one that has all images, after
    train, val or test. Files of .npy and .safetensors are mapped into memory, and no copy of a large gallery is
    made there: 10,000 queries against 1,000,000 rows need little more than the file.

    With --per-class the classes stand below, the worst first, and the pairs of classes of which one has queries whose
    nearest row is of the other; 20 of each, and all with --json.
    """
    if by_folder and (labels or gallery_labels):
        raise RecipeError("--by-folder and a file of labels exclude each other", help="keep one of them")
    for option, file in (("labels", gallery_labels), ("items", gallery_items), ("groups", gallery_groups)):
        if file and not gallery:
            raise RecipeError(f"--gallery-{option} needs a --gallery", help="name its embeddings")
    names = names or ("retrieval",)
    if exclude is not None and "retrieval" not in names:
        raise RecipeError("--exclude is of retrieval, which is not measured by", help="add --evaluator retrieval")
    excluded = (f"retrieval.exclude={exclude}",) if exclude is not None else ()
    evaluators = _evaluators(names, (*options, *excluded))
    other = None if gallery is None else Source(gallery, gallery_labels, gallery_items, gallery_groups, by_folder)
    queries, among, called = read_named_rows(Source(embeddings, labels, items, groups, by_folder), other)
    sides = queries, among
    scores = _measured(evaluators, *sides, Console(stderr=True, quiet=quiet))
    rule: Any = evaluators.get("retrieval")
    looking, allowed = rule.sides(*sides) if rule else sides
    classes = per_class(looking, allowed, scores.get("retrieval")) if by_class else None

    def name(label: int) -> str | int:
        return label if called is None else str(called[label])

    if as_json:
        found = {} if classes is None else {"per_class": per_class_json(classes, name)}
        numbers = {"metrics": score_values(scores), "definitions": score_definitions(scores)}
        click.echo(to_json({**_what(*sides), **numbers, **found}), nl=False)
        return
    _show(scores, *sides, quiet)
    if classes is not None:
        for title, table in per_class_tables(classes, name):
            Console().print(title, table, sep="\n", highlight=False)


def _evaluators(names: Sequence[str], options: Sequence[str]) -> dict[str, Evaluator]:
    found: dict[str, Evaluator] = {}
    parameters = _parameters(names, options)
    for name in names:
        definition = load_component("evaluator", name)
        if wants_encoder(definition.factory):
            message = f"evaluator '{name}' wants the encoder itself, and here are only embeddings"
            raise RecipeError(message, help="name an evaluator of rows, such as 'retrieval', or put it in a recipe")
        found[name] = definition.held(definition.build(**parameters[name]))
    return found


def _parameters(names: Sequence[str], options: Sequence[str]) -> dict[str, dict[str, Any]]:
    parameters: dict[str, dict[str, Any]] = {name: {} for name in names}
    for option in options:
        key, equals, text = option.partition("=")
        name, _, parameter = key.strip().rpartition(".")
        if not equals or not text.strip() or not parameter:
            raise RecipeError(f"--set {option} is not key=value", help="write --set k=[1,10]")
        name = name or names[0]
        if name not in parameters or ("." not in key and len(parameters) > 1):
            ways = " or ".join(f"--set {other}.{parameter}=..." for other in parameters)
            raise RecipeError(f"--set {option} belongs to no evaluator that is measured by", help=f"write {ways}")
        parameters[name][parameter] = _value(text.strip())
    return parameters


def _value(text: str) -> Any:
    try:
        return tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        return text


def _measured(
    evaluators: Mapping[str, Evaluator], queries: Rows, gallery: Rows, console: Console
) -> dict[str, Mapping[str, Score]]:
    """What every evaluator measures, with a bar for each while it lasts."""
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TaskProgressColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    scores: dict[str, Mapping[str, Score]] = {}
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        for name, evaluator in evaluators.items():
            task = bar.add_task(name, total=None)

            def followed(task: Any = task, evaluator: Evaluator = evaluator) -> Generator[float, None, None]:
                scores[name] = yield from steps_of(evaluator, queries, gallery)  # noqa: B023  # it ends in this round

            with closing(followed()) as shares:
                for share in shares:
                    bar.update(task, total=1.0, completed=share)
            bar.remove_task(task)
            _require_numbers(name, scores[name], queries, gallery)
    return scores


def _require_numbers(name: str, scores: Mapping[str, Score], queries: Rows, gallery: Rows) -> None:
    numbers = [score.value for metric, score in scores.items() if metric not in _COUNTS]
    if all(value != value for value in numbers) and not bool((queries.labels >= 0).any()):
        raise DataError(
            f"evaluator '{name}' measures nothing without labels",
            help="give --labels, or --by-folder for files of `metriclab embed`; of evaluators, health needs none",
        )


def _what(queries: Rows, gallery: Rows) -> dict[str, Any]:
    alone = gallery is queries
    return {
        "protocol": "leave-one-out" if alone else "queries against a gallery",
        **({} if alone else {"queries_in_the_gallery": _shared(queries, gallery)}),
        "queries": len(queries),
        "gallery": len(gallery),
        "embedding_dim": queries.embedding_dim,
        "classes": len(torch.unique(gallery.labels[gallery.labels >= 0])),
    }


def _shared(queries: Rows, gallery: Rows) -> int:
    return int(torch.isin(queries.items, gallery.items).sum())


def _show(scores: Mapping[str, Mapping[str, Score]], queries: Rows, gallery: Rows, quiet: bool) -> None:
    what = _what(queries, gallery)
    title = f"{what['queries']:,} rows"
    title += " against each other" if gallery is queries else f" against {what['gallery']:,}"
    out = Console()
    out.print(f"{title}, {what['embedding_dim']} dimensions, {what['classes']:,} classes", highlight=False)
    if gallery is not queries:
        shared = what["queries_in_the_gallery"]
        told = "no items on both sides: no gallery row is taken for a query's own"
        if shared:
            told = f"{shared:,} queries have rows of their own item in the gallery, which are left out"
        out.print(told, highlight=False)
    for name, part in scores.items():
        shown = {metric: score for metric, score in part.items() if metric not in _COUNTS or score.value}
        rules = "" if quiet else _shared_end([score.definition for name, score in shown.items() if name not in _COUNTS])
        table = Table(box=None, pad_edge=False, show_header=False, title=f"[bold]{name}[/]", title_justify="left")
        for metric, score in shown.items():
            text = score.definition.removesuffix(rules).rstrip(", ")
            table.add_row(f"  {metric}", _number(score.value), *([] if quiet else [f"[dim]{escape(text)}[/]"]))
        out.print(table)
        if rules:
            out.print(f"  [dim]all of them {escape(rules)}[/]", highlight=False)


def _shared_end(texts: Sequence[str]) -> str:
    """The rules that all definitions end with, from a comma on; nothing where they share none."""
    alike = takewhile(lambda letters: len(set(letters)) == 1, zip(*map(reversed, texts), strict=False))
    end = "".join(letters[0] for letters in alike)[::-1]
    return end.partition(", ")[2] if len(texts) > 1 else ""


def _number(value: float) -> str:
    if value != value:
        return "-"
    return f"{value:,.0f}" if value > 1 and value == int(value) else f"{value:.4f}"
