"""`metriclab report`."""

from __future__ import annotations

from pathlib import Path

import click

from metriclab.cli.options import plugin_option
from metriclab.report.page import write_report


@click.command()
@click.argument("runs", metavar="RUN...|SUITE", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option(
    "-o", "--out", default="report.html", show_default=True, type=click.Path(path_type=Path), help="The file to write."
)
@click.option("--metric", help="EVALUATOR.METRIC that the report is about; retrieval.map_at_r by default.")
@click.option("--no-images", is_flag=True, help="The numbers alone: the data of the runs are not read.")
@plugin_option
def report(runs: tuple[Path, ...], out: Path, metric: str | None, no_images: bool) -> None:
    """Write a page about a run, or a comparison of several, as one HTML file that needs no network.

    A RUN is a run folder, or a folder of them. Runs whose recipes differ in the seed alone are one entry. A SUITE is
    the file of one whose runs lie under runs/suites.
    """
    size = write_report(runs, out, metric=metric, images=not no_images)
    click.echo(f"{size / 1e6:.1f} MB written to {out}", err=True)
