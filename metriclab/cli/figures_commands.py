"""`metriclab figures`."""

from __future__ import annotations

from pathlib import Path

import click

from metriclab.cli.options import json_option
from metriclab.report.xbm_figures import markdown, summary, write_figures
from metriclab.report.xbm_runs import read_runs
from metriclab.runs.files import to_json


@click.group()
def figures() -> None:
    """Draw figures from the metrics of finished runs."""


@figures.command()
@click.argument("runs", metavar="RUN...", nargs=-1, required=True, type=click.Path(path_type=Path))
@click.option("-o", "--out", required=True, metavar="FOLDER", type=click.Path(path_type=Path), help="Where to draw.")
@json_option
def xbm(runs: tuple[Path, ...], out: Path, as_json: bool) -> None:
    """Draw the two figures of XBM (Wang et al. 2020) from run folders.

    Drift over steps, which a run logs that has train.drift_images, and R@1 and MAP@R against the size of the memory
    as a share of the training images: the mean over seeds, and each seed. The numbers are printed, and written beside.
    """
    numbers = summary(read_runs(runs))
    files = write_figures(numbers, out)
    click.echo(to_json(numbers) if as_json else markdown(numbers), nl=False)
    click.echo(f"written: {', '.join(map(str, files))}", err=True)
