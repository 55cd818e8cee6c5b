"""What it means to the others that one rank has failed, where they would wait for it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import torch.distributed as dist

from metriclab.distributed.group import rank, world_size
from metriclab.errors import MetriclabError

T = TypeVar("T")

_acting_together = False


class OtherRankFailedError(BaseException):
    """Another rank has failed in `act_together`. No `Exception`: nothing on its way may take it for one of its own.

    Args:
        reasons: what each rank failed by, in rank order; None for those that did not.
    """

    def __init__(self, reasons: list[str | None]) -> None:
        super().__init__(next(filter(None, reasons)))
        self.reasons = reasons


def act_together(action: Callable[[], T], describe: Callable[[Exception], str]) -> tuple[T | None, list[str | None]]:
    """Lets ranks act that may meet while they do; where one fails, all stop where they would have met it next.

    Before each meeting within, and once at the end, ranks tell each other that all goes well, which costs a small
    exchange each time. On no rank is anything raised.

    Args:
        action: the same meetings on every rank, as far as it gets. Not itself within another one.
        describe: a failure in words.

    Returns:
        What the action gave, None where any rank failed; and by rank what it failed by, None where it did not.
    """
    global _acting_together
    value, reason = None, None
    _acting_together = True
    try:
        value = action()
    except OtherRankFailedError as error:
        return None, error.reasons
    except Exception as error:
        reason = describe(error)
    finally:
        _acting_together = False
    reasons = _exchange(reason)
    return (value if reasons.count(None) == len(reasons) else None), reasons


@contextmanager
def meeting() -> Iterator[None]:
    """Where ranks meet.

    Raises:
        OtherRankFailedError: within `act_together`, where another rank has failed and will not come.
        MetriclabError: where another rank has ended or cannot be reached.
    """
    if _acting_together:
        reasons = _exchange(None)
        if reasons.count(None) < len(reasons):
            raise OtherRankFailedError(reasons)
    with _telling_of_lost_ranks():
        yield


def _exchange(reason: str | None) -> list[str | None]:
    if world_size() == 1:
        return [reason]
    reasons: list[Any] = [None] * world_size()
    with _telling_of_lost_ranks():
        dist.all_gather_object(reasons, reason)
    return reasons


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
