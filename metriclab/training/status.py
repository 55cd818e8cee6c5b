"""What a run says of itself while it goes on."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True, slots=True)
class RunStatus:
    """Where a run stands.

    Attributes:
        stage: "train", "evaluate" or "finished".
        done, total: steps.
        values: what was logged at this step, if anything.
        message: something the user should read, if anything.
    """

    stage: str
    done: int
    total: int
    values: Mapping[str, float] = field(default_factory=dict)
    message: str | None = None
