"""`metriclab compare`."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import get_args

import click

from metriclab.cli.compare_formats import FORMATS
from metriclab.cli.run_commands import INTERRUPTED, stop_on_signals
from metriclab.comparison.compare import Comparison
from metriclab.comparison.compare import compare as compare_entries
from metriclab.comparison.finished import find_runs, group
from metriclab.comparison.launch import Event, SuiteRun, finished, launch, plan, with_result
from metriclab.comparison.queries import Unit
from metriclab.comparison.search import EntrySearch, searches_of, tune, tuned
from metriclab.comparison.suite import Suite, read_suite
from metriclab.errors import RecipeError
from metriclab.registry import load_plugin_file, suggest
from metriclab.runs.files import write_json


@click.command()
@click.argument("paths", metavar="RUN...|SUITE", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("--metric", help="EVALUATOR.METRIC to rank and test by; retrieval.map_at_r by default.")
@click.option("--also", multiple=True, metavar="METRIC", help="A further metric for the table. Repeatable.")
@click.option("--reference", metavar="ENTRY", help="Test every entry against this one, in place of all pairs.")
@click.option(
    "--resample",
    type=click.Choice(get_args(Unit)),
    help="What makes queries alike, and is a draw of many: classes by default.",
)
@click.option("--format", "form", type=click.Choice(list(FORMATS)), default="rich", show_default=True)
@click.option("--out", type=click.Path(path_type=Path), help="Of a suite: its folder; runs/suites/<name> by default.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True, help="Of a suite: runs at a time.")
@click.option("--dry-run", is_flag=True, help="Of a suite: list its runs, and run nothing.")
@click.option(
    "--plugin",
    "plugins",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Of a suite: import a Python file that registers components. Repeatable.",
)
def compare(
    paths: tuple[Path, ...],
    metric: str | None,
    also: tuple[str, ...],
    reference: str | None,
    resample: Unit | None,
    form: str,
    out: Path | None,
    jobs: int,
    dry_run: bool,
    plugins: tuple[Path, ...],
) -> None:
    """Compare finished runs, or run what a SUITE file is missing and compare that.

    A RUN is a run folder, or a folder of them. Runs whose recipes differ in the seed alone are one entry.
    """
    if not any(path.is_file() or path.suffix == ".toml" for path in paths):
        if out is not None or dry_run or plugins:
            raise RecipeError(
                "--out, --dry-run and --plugin are for suites", help="name a suite file, or leave them out"
            )
        runs, notes = find_runs(paths)
        compared = compare_entries(
            group(runs),
            metric=metric or "retrieval.map_at_r",
            also=also or None,
            reference=reference,
            notes=notes,
            resample=resample or "classes",
        )
        click.echo(FORMATS[form](compared), nl=False)
        return
    if len(paths) > 1:
        raise RecipeError("a suite is compared on its own", help="name one suite file, or folders of runs")
    for plugin in plugins:
        load_plugin_file(plugin)
    suite = read_suite(paths[0])
    if reference is not None:
        names = [entry.name for entry in suite.entries]
        if reference not in names:
            told = f"there is no entry '{reference}' to refer to"
            raise RecipeError(told, help=suggest(reference, names) or f"there are {', '.join(names)}")
        suite = replace(suite, reference=reference)
    place = out or suite.folder
    searches = searches_of(suite, place)
    if dry_run and not all(search.is_done for search in searches):
        for search in searches:
            click.echo(search.outlook())
        return
    _search(searches, jobs, plugins)
    suite, left_out = tuned(suite, place)
    planned = plan(suite, place)
    if dry_run:
        for run in planned:
            command = "" if run.state == "finished" else "  " + shlex.join(["metriclab", *run.arguments(plugins)])
            click.echo(f"{run.state:<11}  {run}{command}")
        return
    failed = _run_missing(planned, jobs, plugins)
    compared = _compare_suite(suite, planned, metric, also, resample, left_out)
    write_json(place / "comparison.json", compared.to_dict())
    click.echo(FORMATS[form](compared), nl=False)
    if failed:
        click.echo(f"{len(failed)} of {len(planned)} runs failed: {'; '.join(map(str, failed))}", err=True)
        sys.exit(1)


def _search(searches: Sequence[EntrySearch], jobs: int, plugins: Sequence[Path]) -> None:
    """Runs all trials that are left and says how it goes. Exits where it is told to stop."""
    total, left = (sum(map(of, searches)) for of in (EntrySearch.runs_in_all, EntrySearch.runs_left))
    with stop_on_signals() as stop:
        _follow(tune(searches, jobs=jobs, plugins=plugins, stop=stop), stop, total, total - left)


def _run_missing(planned: Sequence[SuiteRun], jobs: int, plugins: Sequence[Path]) -> list[SuiteRun]:
    """Runs what is missing, says how it goes, and returns the runs that failed. Exits where it is told to stop."""
    done = sum(run.state == "finished" for run in planned)
    with stop_on_signals() as stop:
        return _follow(launch(planned, jobs=jobs, plugins=plugins, stop=stop, patient=True), stop, len(planned), done)


def _follow(events: Iterator[Event], stop: Callable[[], bool], total: int, done: int) -> list[SuiteRun]:
    """Says what becomes of each run, and returns those that failed. Exits where it was told to stop."""
    failed, stopped = [], False
    for event in events:
        run, what, detail = event.run, event.what, event.detail
        done += what == "finished"
        stopped = stopped or what == "stopped"
        if what == "failed":
            failed.append(run)
        shown = f"log {run.log}" if what == "started" else detail
        click.echo(f"[{done}/{total}] {run}: {what}" + (f" ({shown})" if shown else ""), err=True)
    if stopped or stop():
        click.echo("stopped; the same command goes on from here", err=True)
        sys.exit(INTERRUPTED)
    return failed


def _compare_suite(
    suite: Suite,
    planned: Sequence[SuiteRun],
    metric: str | None,
    also: Sequence[str],
    resample: Unit | None,
    left_out: Sequence[str],
) -> Comparison:
    groups, notes = finished(suite, planned)
    suite, lost = with_result(suite, groups)
    return compare_entries(
        groups,
        metric=metric or suite.metric,
        also=also or suite.also,
        reference=suite.reference,
        notes=[*left_out, *notes, *lost],
        resample=resample or suite.resample,
    )
