"""`metriclab run` and `metriclab embed`."""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from types import FrameType
from typing import Any, Literal

import click
import numpy as np
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from metriclab import distributed
from metriclab.assembly.embedder import load
from metriclab.cli import plugin_option
from metriclab.cli.run_report import Report, end_with_report, report_option
from metriclab.errors import StorageError
from metriclab.evaluation.shortfall import shortfall
from metriclab.recipe import read_recipe
from metriclab.report.labels import describe_baselines, label, own_column
from metriclab.runs.folder import RunFolder
from metriclab.training.experiment import experiment
from metriclab.training.interruption import Interrupted
from metriclab.vectors.export import find_images, named_features, writer_for

INTERRUPTED = 130
_COSTS = {
    "train_seconds": "{:,.0f} s of training",
    "images_per_second": "{:,.0f} images/s",
    "parameters": "{:,.0f} parameters",
    "peak_memory_mb": "peak memory {:,.0f} MB",
}


@click.command()
@click.argument("recipe", type=click.Path(path_type=Path))
@click.option("--set", "overrides", multiple=True, metavar="TABLE.KEY=VALUE", help="Change one value of the recipe.")
@click.option("--out", type=click.Path(path_type=Path), help="Run folder; runs/<recipe>-<time> by default.")
@click.option("--resume", is_flag=True, help="Continue the run in --out, or the newest run of this recipe.")
@click.option("-q", "--quiet", is_flag=True, help="Print warnings and errors alone.")
@click.option("--json", "as_json", is_flag=True, help="Print the result as JSON on standard output.")
@report_option
@plugin_option
def run(
    recipe: Path,
    overrides: tuple[str, ...],
    out: Path | None,
    resume: bool,
    quiet: bool,
    as_json: bool,
    report: Report,
) -> None:
    """Train and measure what RECIPE describes, on this machine or under torchrun."""
    if quiet:
        logging.getLogger("metriclab").setLevel(logging.WARNING)
    with distributed.process_group(), stop_on_signals() as stop:
        checked = distributed.on_every_rank(lambda: read_recipe(recipe, overrides))
        place = distributed.broadcast_object(str(out or _default_folder(recipe, resume)))
        folder = RunFolder(Path(place))
        first = distributed.rank() == 0
        console = Console(stderr=True, quiet=quiet or not first)
        steps = experiment(checked, folder, resume=resume, stop=stop, quiet=quiet)
        try:
            _follow(steps, console, Console(stderr=True, quiet=not first))
        except Interrupted:
            if first:
                click.echo(f"stopped and saved; continue with: {folder.resume_command}", err=True)
            sys.exit(INTERRUPTED)
    if not first:
        return
    result = folder.result()
    if as_json:
        click.echo(json.dumps(result, indent=2))
    elif not quiet:
        _show(result, folder.path)
    end_with_report(folder.path, report, shown=not (as_json or quiet))


def _default_folder(recipe: Path, resume: bool) -> Path:
    if not resume:
        return Path("runs", f"{recipe.stem}-{datetime.now():%Y%m%d-%H%M%S}")
    of_this_recipe = re.compile(re.escape(recipe.stem) + r"-\d{8}-\d{6}")
    earlier = sorted(path for path in Path("runs").glob("*") if of_this_recipe.fullmatch(path.name))
    if not earlier:
        raise StorageError(f"there is no run of {recipe.stem} under runs/", help="name its folder with --out")
    return earlier[-1]


@contextmanager
def stop_on_signals() -> Iterator[Callable[[], bool]]:
    """The first Ctrl-C (or SIGTERM) asks the run to save and stop; the second one stops it where it is."""
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if asked:
            raise KeyboardInterrupt
        asked.append(number)
        # A handler may interrupt whoever is writing to standard error: past its buffer, nobody is met.
        os.write(2, b"stopping after this step, or this part of the evaluation; once more stops at once\n")

    before = {number: signal.signal(number, ask) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: distributed.any_rank(bool(asked))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _follow(steps: Iterator[Any], console: Console, warnings: Console) -> None:
    """Draws the progress of a run until its end."""
    columns = (
        TextColumn("{task.description:<8}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[values]}"),
        TimeRemainingColumn(),
    )
    # A log file is no place for a bar: there the console tracker's plain lines stand alone.
    with Progress(*columns, console=console, disable=not console.is_terminal, transient=True) as bar:
        task = bar.add_task("train", total=None, values="")
        for step in steps:
            bar.update(task, description=step.stage, total=step.total, completed=step.done)
            if "loss" in step.values:
                bar.update(task, values=f"loss {step.values['loss']:.4f}")
            if step.message:
                warnings.print(f"[yellow]warning:[/] {escape(step.message)}", highlight=False, soft_wrap=True)


def _show(result: dict[str, Any], folder: Path) -> None:
    """The trained encoder beside its baselines."""
    out = Console()
    columns = {label(name): part for name, part in result["baselines"].items()}
    own = own_column(result)
    columns[own] = result["metrics"]
    suffix, other = ("-h", f"{own}, without head") if result["output"] == "z" else ("-z", f"{own}, with head")
    of_other = {name.removesuffix(suffix): part for name, part in result["metrics"].items() if name.endswith(suffix)}
    table = Table(title=f"{result['protocol']}, {result['items'].get('test', 0):,} images", title_justify="left")
    table.add_column(no_wrap=True)  # a narrow terminal breaks the heads of the others, and cuts no metric's name
    for name in (*columns, *([other] if of_other else [])):
        table.add_column(name, justify="right")
    for evaluator, part in result["metrics"].items():
        if evaluator.endswith(suffix):
            continue
        if all(value is None for metric, value in part.items() if metric != "queries_without_matches"):
            continue  # without labels there are no numbers
        table.add_row(f"[bold]{evaluator}[/]")
        for metric in part:
            cells = [column.get(evaluator, {}).get(metric) for column in columns.values()]
            cells += [of_other.get(evaluator, {}).get(metric)] if of_other else []
            if metric != "queries_without_matches" or any(cells):
                table.add_row(f"  {metric}", *map(_number, cells))
        table.add_section()
    if table.row_count:
        out.print(table)
        if baselines := describe_baselines(result["baselines"]):
            out.print(baselines, highlight=False, soft_wrap=True)
    if below := shortfall(result, result.get("select", "")):
        out.print(f"[yellow]warning:[/] {below}", highlight=False, soft_wrap=True)
    costs = [text.format(value) for name, text in _COSTS.items() if (value := result["cost"].get(name))]
    costs += [f"{label(name)} not measured" for name in _COSTS if f"cost.{name}" in result.get("missing", {})]
    out.print(f"{result['steps']} steps: {', '.join(costs)}", highlight=False, soft_wrap=True)
    out.print(f"run folder: {folder}", highlight=False, soft_wrap=True)


def _number(value: float | None) -> str:
    if value is None:
        return "-"
    return f"{value:,.0f}" if value > 1 and value == int(value) else f"{value:.4f}"


@click.command()
@click.argument("run_folder", metavar="RUN", type=click.Path(path_type=Path))
@click.argument("images", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, type=click.Path(path_type=Path), help=".npy, .safetensors or .parquet")
@click.option(
    "--output",
    type=click.Choice(["h", "z"]),
    help="The encoder's features h or the head's embedding z; by default what the run was measured by.",
)
@plugin_option
def embed(run_folder: Path, images: tuple[Path, ...], out: Path, output: Literal["h", "z"] | None) -> None:
    """Embed IMAGES (files, folders or tables of them) with the trained encoder of RUN.

    For a run on features, IMAGES is one file of features, as its data.root was.
    """
    write, embedder = writer_for(out), load(run_folder)
    if embedder.takes_features:
        paths, features = named_features(images)
        parts, what = embedder.rows(features, output=output), "rows"
    else:
        paths, what = find_images(images, embedder.pixels, embedder.columns), "images"
        parts = embedder.files(paths, output=output)
    embeddings = np.concatenate([part.numpy() for part in parts])
    write(embeddings, paths)
    click.echo(f"{len(paths)} {what} x {embeddings.shape[1]} dimensions written to {out}", err=True)
