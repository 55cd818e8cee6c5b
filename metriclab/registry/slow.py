"""Naming plugins that take long to import."""

from __future__ import annotations

import importlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from time import monotonic

SLOW_SECONDS = 5.0


@contextmanager
def noticing_slowness(what: str) -> Iterator[None]:
    """Warns if what happens inside takes longer than `SLOW_SECONDS`, without torch, which every plugin imports."""
    importlib.import_module("torch")
    start = monotonic()
    yield
    seconds = monotonic() - start
    if seconds > SLOW_SECONDS:
        logging.getLogger("metriclab").warning(
            "%s took %.0f s to import: its author may import what is heavy where it is used", what, seconds
        )
