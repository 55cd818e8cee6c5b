"""Checks: what a component must keep, one thing at a time, each with a name of its own."""

from __future__ import annotations

import functools
from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple, ParamSpec

P = ParamSpec("P")


class Check(NamedTuple):
    """One thing that a component must keep.

    Attributes:
        name: in words, as "row order".
        run: raises an AssertionError that says what is wrong and how to see it. Any order of checks will do: none
            leaves something behind for another.
        option: of the kind's function, which leaves the check out where it is False; "" for what all have to keep.
    """

    name: str
    run: Callable[[], None]
    option: str = ""

    @property
    def slug(self) -> str:
        """The name as command lines have it."""
        return slug(self.name)


def slug(name: str) -> str:
    """A check's name as one word: `labels-classes-and-names`."""
    return name.replace(" ", "-").replace(",", "")


def check(name: str, function: Callable[..., None], *arguments: Any, option: str = "") -> Check:
    """The check that calls the function with these arguments."""
    run = partial(function, *arguments)
    return Check(name, partial(_told_how_to_leave_out, name, option, run) if option else run, option)


def _told_how_to_leave_out(name: str, option: str, run: Callable[[], None]) -> None:
    try:
        run()
    except AssertionError as error:
        way = f"where that is meant, leave this check out: {option}=False, or `--without {slug(name)}`"
        raise AssertionError(f"{error} ({way})") from error


def wanted(checks: list[Check], **options: bool) -> list[Check]:
    """The checks but for those whose option is False."""
    return [one for one in checks if options.get(one.option, True)]


def refusal(name: str, text: str) -> list[Check]:
    """The only check of what cannot be checked further: it fails with this text."""
    return [check(name, _refuse, text)]


def _refuse(text: str) -> None:
    raise AssertionError(text)


def running(checks: Callable[P, list[Check]]) -> Callable[P, None]:
    """The function that makes these checks one by one, and raises for the first that fails."""

    @functools.wraps(checks)
    def run(*args: P.args, **kwargs: P.kwargs) -> None:
        for one in checks(*args, **kwargs):
            one.run()

    run.__name__ = run.__qualname__ = f"check_{checks.__name__.removesuffix('_checks')}"
    return run
