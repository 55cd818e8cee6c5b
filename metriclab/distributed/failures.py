"""What it means to the others that one rank has failed, where they would wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist

from metriclab.distributed.group import rank, world_size
from metriclab.errors import MetriclabError

T = TypeVar("T")

_level = 0
"""How many `act_together` are under way, one in the other."""


class OtherRankFailedError(BaseException):
    """A rank has failed in `act_together`. No `Exception`: nothing on its way may take it for one of its own.

    Args:
        level: of that `act_together`.
        reasons: what each rank failed by there, in rank order; None for those that did not.
    """

    def __init__(self, level: int, reasons: list[str | None]) -> None:
        super().__init__(next(reason for reason in reasons if reason is not None))
        self.level, self.reasons = level, reasons


def act_together(action: Callable[[], T], describe: Callable[[Exception], str]) -> tuple[T | None, list[str | None]]:
    """Lets ranks act that may meet while they do; where one fails, all stop where they would have met it next.

    Before each meeting within, and once at the end, ranks tell each other that all goes well, which costs a small
    exchange each time. Nothing is raised.

    Args:
        action: on every rank the same meetings, as far as it gets.
        describe: a failure in words.

    Returns:
        What the action gave, None where any rank failed; and by rank what it failed by, None where it did not.
    """
    global _level
    value, reason = None, None
    _level += 1
    try:
        try:
            value = action()
        except Exception as error:
            reason = describe(error)
        return value, _exchange(reason)
    except OtherRankFailedError as error:
        if error.level < _level:
            raise
        return None, error.reasons
    finally:
        _level -= 1


@contextmanager
def meeting() -> Iterator[None]:
    """Where ranks meet.

    Raises:
        OtherRankFailedError: within `act_together`, where another rank has failed and will not come.
        MetriclabError: where another rank has ended or cannot be reached.
    """
    if _level > 0:
        _exchange(None)
    with _telling_of_lost_ranks():
        yield


def _exchange(reason: str | None) -> list[str | None]:
    """Tells the others whether this rank has failed. Raises OtherRankFailedError where any has, this one included."""
    told: list[Any] = [(_level, reason)] * world_size()
    if world_size() > 1:
        with _telling_of_lost_ranks():
            dist.all_gather_object(told, (_level, reason))
    levels = [level for level, failure in told if failure is not None]
    if levels:
        outermost = min(levels)
        raise OtherRankFailedError(outermost, [failure if level == outermost else None for level, failure in told])
    return [None] * world_size()


@contextmanager
def _telling_of_lost_ranks() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo/transport" not in str(error):
            raise
        raise MetriclabError(
            f"rank {rank()} stops: another of the {world_size()} ranks has ended or cannot be reached "
            f"({str(error).splitlines()[0]})",
            help="look at what the other processes have written, and whether the machine ended one for its memory; a "
            "run goes on from its last checkpoint with --resume",
        ) from error
