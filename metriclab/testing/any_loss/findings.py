"""What a check has to say of a loss."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Status = Literal["ok", "falls short", "told", "left out"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A row of the table.

    Attributes:
        check: its name, as "row order".
        status: "told" is for what is neither right nor wrong.
        text: what holds, or by how much it does not.
        seen: what a user would see of it, one sentence; "" where nothing is wrong.
    """

    check: str
    status: Status
    text: str
    seen: str = ""


def number(value: float) -> str:
    """Short, as tables have it."""
    return f"{value:.4g}"
