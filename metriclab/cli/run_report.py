"""The report that ends a run: written into its folder, and opened where somebody is looking."""

from __future__ import annotations

import os
import sys
import webbrowser
from pathlib import Path
from typing import Literal

import click

from metriclab.errors import MetriclabError
from metriclab.report.page import write_report

Report = Literal["open", "write", "none"]

report_option = click.option(
    "--report",
    type=click.Choice(["open", "write", "none"]),
    default="open",
    show_default=True,
    envvar="METRICLAB_REPORT",
    show_envvar=True,
    help="What becomes of the page about the run, report.html in its folder: open shows it in a browser too, "
    "if standard output is a terminal and there is a display.",
)


def end_with_report(folder: Path, wanted: Report, *, shown: bool) -> None:
    """Writes report.html into the folder of a finished run; `shown` says its path, and opens it where that is wanted.

    The run is worth the same without it: where no report can be made, it is a warning that says why.
    """
    if wanted == "none":
        return
    path = folder / "report.html"
    try:
        write_report([folder], path)
    except MetriclabError as error:
        click.echo(f"warning: there is no report: {error.message}", err=True)
        return
    if shown:
        click.echo(f"report: {path}")
        if wanted == "open" and _somebody_looks():
            webbrowser.open(path.resolve().as_uri())


def _somebody_looks() -> bool:
    """Whether a browser that opens now has a screen and a reader."""
    display = sys.platform in ("darwin", "win32") or any(map(os.environ.get, ("DISPLAY", "WAYLAND_DISPLAY")))
    return display and sys.stdout.isatty() and not os.environ.get("CI")
