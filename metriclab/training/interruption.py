"""A run that is asked to stop."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from metriclab.evaluation.result import Pausing

T = TypeVar("T")


class Interrupted(Exception):
    """The run was asked to stop; everything is saved and `--resume` continues it."""


def unless_stopped(parts: Pausing[T], stop: Callable[[], bool]) -> T:
    """What the work gives, unless it is to stop between two of its parts; all that it needs is saved."""
    while not stop():
        try:
            next(parts)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # of the generator that was given
    raise Interrupted
