"""Work that says how far it is: a generator that yields the share done, from 0 to 1, and returns what it made.

Who runs it draws a bar, or drains it; the work itself knows of neither.
"""

from __future__ import annotations

from collections.abc import Generator
from typing import TypeVar

T = TypeVar("T")

ProgressGenerator = Generator[float, None, T]
"""Yields the share done; returns a T."""


def exhaust(steps: ProgressGenerator[T]) -> T:
    """What the work returns, once it is done."""
    while True:
        try:
            next(steps)
        except StopIteration as end:
            return end.value  # type: ignore[no-any-return]  # of the generator that was given
