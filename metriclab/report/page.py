"""The report as one file that needs no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator, Sequence
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from metriclab import __version__
from metriclab.comparison.finished import find_runs, group
from metriclab.comparison.launch import finished, plan, with_result
from metriclab.comparison.search import tuned
from metriclab.comparison.suite import read_suite
from metriclab.errors import RecipeError, StorageError
from metriclab.images.cache_files import without_caching
from metriclab.report.blocks import Opening, Section
from metriclab.report.contents import OneRun, SeveralRuns
from metriclab.report.offline import offline
from metriclab.report.thumbnails import LADDER, LAST, Sizes
from metriclab.runs.files import write_atomic

BUDGET = 5_000_000
"""Bytes of the file, at most."""


@runtime_checkable
class Content(Protocol):
    """What a page is about."""

    def opening(self) -> Opening: ...
    def sections(self, sizes: Sizes) -> Iterator[Section | None]: ...


def write_report(paths: Sequence[Path], out: Path, *, metric: str | None = None, images: bool = True) -> int:
    """Writes the report of a run, or of a comparison of several, and returns its size in bytes.

    The recipe of a run folder from elsewhere may say what it likes: nothing is fetched, and nothing written but `out`.
    Decoded images are taken from the cache where they are in it; what is not is decoded, and not kept.

    Args:
        paths: run folders, or folders of them; or one suite file, for its runs under runs/suites.
        out: the HTML file.
        metric: "evaluator.metric" that the report is about; MAP@R by default.
        images: whether to embed the data once more, for images, the map, and confused classes.

    Raises:
        StorageError: where a folder holds no run, a run is not finished, or a file is damaged or cannot be written.
        DataError: where the data of a run are not there, or have changed.
        RecipeError: for an unknown metric, or runs that cannot be compared.
    """
    if out.is_dir():
        raise StorageError(f"{out} is a folder", help=f"name a file: -o {out / 'report.html'}")
    with offline(), without_caching():
        page = within_budget(_content(paths, metric, images))
    write_atomic(out, page)
    return len(page)


def _content(paths: Sequence[Path], metric: str | None, images: bool) -> Content:
    if any(path.is_file() for path in paths):
        if len(paths) > 1:
            raise RecipeError("a suite is reported on its own", help="name one suite file, or folders of runs")
        read = read_suite(paths[0])
        suite, left_out = tuned(read, read.folder)
        groups, notes = finished(suite, plan(suite, suite.folder))
        suite, lost = with_result(suite, groups)
        notes = [*left_out, *notes, *lost]
        return SeveralRuns(groups, metric=metric, images=images, notes=notes, suite=suite)
    runs, notes = find_runs(paths)
    if len(runs) == 1 and not notes:
        return OneRun(runs[0], metric=metric, images=images)
    return SeveralRuns(group(runs), metric=metric, images=images, notes=notes)


def within_budget(content: Content, budget: int = BUDGET) -> bytes:
    """The page with the best images that fit.

    Raises:
        RecipeError: where it does not fit with the smallest ones.
    """
    for sizes in (*LADDER, LAST):
        page = render(content, sizes).encode(errors="backslashreplace")  # names of files need not be text
        if len(page) <= budget:
            return page
    raise RecipeError(
        f"the report would be {len(page):,} bytes long, more than the {budget:,} that it may be",
        help="report on fewer runs, or leave the images out with --no-images",
    )


def render(content: Content, sizes: Sizes) -> str:
    """The whole page; its policy allows its own style and script, by hash, and images inside it, and nothing else."""
    script, style = _asset("page.js"), _asset("page.css")
    policy = (
        f"default-src 'none'; img-src data:; style-src {_hash(style)}; script-src {_hash(script)}; "
        "base-uri 'none'; form-action 'none'"
    )
    return (
        _templates()
        .get_template("page.html")
        .render(
            policy=policy,
            version=__version__,
            style=Markup(style),
            script=Markup(script),
            opening=content.opening(),
            sections=[one for one in content.sections(sizes) if one is not None],
            draw=draw,
        )
    )


def draw(block: object) -> Markup:
    """A block, by the macro of its class's name."""
    macro: Any = getattr(_templates().get_template("blocks.html").module, type(block).__name__)
    drawn: Markup = macro(block)
    return drawn


@cache
def _templates() -> Environment:
    loader = PackageLoader("metriclab.report")
    return Environment(loader=loader, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)


def _asset(name: str) -> str:
    return resources.files("metriclab.report").joinpath("assets", name).read_text("utf-8")


def _hash(text: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()}'"
