"""The splits of a data set are objects of their own; what they have in common need not be found three times."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Hashable, Iterator
from contextvars import ContextVar
from typing import Any, TypeVar

T = TypeVar("T")

_found: ContextVar[dict[Hashable, Any] | None] = ContextVar("found", default=None)


@contextlib.contextmanager
def one_look() -> Iterator[None]:
    """In this block files on disk are looked at once, and taken to stay as they are until it ends."""
    token = _found.set({})
    try:
        yield
    finally:
        _found.reset(token)


def once(key: Hashable, make: Callable[[], T]) -> T:
    """What `make` gives; inside `one_look` the same object for the same key."""
    found = _found.get()
    if found is None:
        return make()
    if key not in found:
        found[key] = make()
    value: T = found[key]
    return value
