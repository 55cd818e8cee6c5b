"""Marks: what `Annotated` may say of a parameter beside its type and its range."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

M = TypeVar("M")


@dataclass(frozen=True, slots=True)
class TableOf:
    """Says, in `Annotated[dict[str, object], ...]`, that a parameter is the table of another component.

    A recipe's check looks into it, too.

    Attributes:
        kind: of that component.
        named_by: the parameter beside it that holds the component's name, where that is not the table's own `name`.
    """

    kind: str
    named_by: str | None = None

    def __str__(self) -> str:
        return f"{self.kind} table" if self.named_by is None else f"{self.kind} parameters"


@dataclass(frozen=True, slots=True)
class OwnKeys:
    """Says, in `Annotated[dict[str, object], ...]`, that a parameter is a table of some of the component's own keys.

    What it leaves out is as the component's table has it. A recipe's check, and the constructor's, look into it.

    Attributes:
        keys: those it may have.
    """

    keys: tuple[str, ...]

    def __str__(self) -> str:
        return f"table of {', '.join(self.keys)}"


@dataclass(frozen=True, slots=True)
class RunStep:
    """Says, in `Annotated[int, ...]`, that a parameter is a step of the run, from 0, from which on something happens.

    One that a run does not reach is without effect: `metriclab check`, and the run as it starts, tell so.

    Attributes:
        lost: what becomes of a run that does not reach it, as the end of a sentence: "the memory never counts".
        unit: what is counted: steps, epochs, or the share of all steps, which says nothing where it is less than one.
        every: whether it happens every so many, and not from then on.
        beside: the parameter without which this one says nothing.

    Example:
        >>> start_step: Annotated[int, Ge(0), RunStep("the memory never counts")] = 1000
    """

    lost: str
    unit: Literal["steps", "epochs", "share"] = "steps"
    every: bool = False
    beside: str | None = None

    def is_missed(self, value: float | int, length: float | int) -> bool:
        """Whether a run of so many steps, or epochs, has no use for the value."""
        if self.unit == "share":
            return value > 0 and round(value * length) == 0
        return value > length if self.every else value >= length


@dataclass(frozen=True, slots=True)
class CheckedBy:
    """Says, in `Annotated[list[dict[str, object]], ...]`, that a function knows what may be wrong inside of a value.

    Attributes:
        check: of a value of the annotated type; gives each problem with the way from the value to the table where it
            stands. A recipe's check, and the constructor's, tell it there.
    """

    check: Callable[[Any], Iterable[tuple[tuple[str | int, ...], Any]]]


class TrueWith(tuple[str, ...]):
    """Says, in `Annotated[bool | None, ...]`, that a parameter which is not set is true where one of these others is.

    A checked table has the value, so that it does not change with what is left out of the table later.
    """

    __slots__ = ()


def mark_of(annotation: Any, mark: type[M]) -> M | None:
    """The mark of this type that an annotation carries, if there is one."""
    metadata = get_args(annotation)[1:] if get_origin(annotation) is Annotated else ()
    return next((one for one in metadata if isinstance(one, mark)), None)
