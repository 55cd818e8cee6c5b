"""How far a build has come: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
import itertools
import logging
import sys
from collections.abc import Callable, Iterator

_LONG = 10_000  # images whose decoding is told of on the way, where there is no bar

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, where metriclab may speak at all; what it yields moves the bar by one image."""
    if not (sys.stderr.isatty() and _log.isEnabledFor(logging.INFO)):
        _log.info("decoding %s images", f"{total:,}")
        numbers = itertools.count(1)
        yield lambda: _say_tenths(next(numbers), total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("decoding images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("decoding", total=total)
        yield lambda: bar.advance(task)


def _say_tenths(number: int, total: int) -> None:
    if number * 10 % total < 10 and total >= _LONG:
        _log.info("decoded %s of %s images", f"{number:,}", f"{total:,}")
