"""Checks: what a component must keep, one thing at a time, each with a name of its own."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial
from typing import Any, NamedTuple


class Check(NamedTuple):
    """One thing that a component must keep.

    Attributes:
        name: in words, as "row order".
        run: raises an AssertionError that says what is wrong and how to see it. Any order of checks will do: none
            leaves something behind for another.
    """

    name: str
    run: Callable[[], None]


def check(name: str, function: Callable[..., None], *arguments: Any) -> Check:
    """The check that calls the function with these arguments."""
    return Check(name, partial(function, *arguments))


def refusal(name: str, text: str) -> list[Check]:
    """The only check of what cannot be checked further: it fails with this text."""
    return [check(name, _refuse, text)]


def _refuse(text: str) -> None:
    raise AssertionError(text)


def run_all(checks: Iterable[Check]) -> None:
    """Raises for the first that fails."""
    for one in checks:
        one.run()
