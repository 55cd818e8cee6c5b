"""What a run says of itself while it goes on, and what it keeps beside its tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


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


@dataclass(slots=True)
class RunNumbers:
    """The part of a run's state that is no tensor."""

    best_step: int = 0
    best_value: float = -math.inf
    seconds: float = 0.0
    warned: list[str] = field(default_factory=list)

    def stored(self) -> dict[str, Any]:
        best = self.best_value if math.isfinite(self.best_value) else None
        return {"best_step": self.best_step, "best_value": best, "seconds": self.seconds, "warned": self.warned}

    @classmethod
    def restored(cls, stored: Mapping[str, Any]) -> RunNumbers:
        best = stored["best_value"]
        return cls(stored["best_step"], -math.inf if best is None else best, stored["seconds"], list(stored["warned"]))


def is_due(done: int, every: int | None) -> bool:
    """Whether something that happens every so many steps happens now."""
    return every is not None and done % every == 0
