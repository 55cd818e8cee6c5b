"""Trackers: where the numbers of a run go."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

from annotated_types import Ge

from metriclab.core.files import repair
from metriclab.core.settings import repr_settings
from metriclab.errors import PluginError, StorageError
from metriclab.registry import register

__all__ = ["Console", "JsonLines"]

METRICS_FILE = "metrics.jsonl"
"""Where a run's logged lines are, in its folder."""


@register("tracker", "jsonl")
class JsonLines:
    """One line of JSON for each log, appended to `metrics.jsonl` in the run folder and flushed at once.

    A line is `{"step": 7, "loss": 1.25, ...}`. Numbers that are not finite, which JSON does not have, are the strings
    "NaN", "Infinity" and "-Infinity", which Python's `float` reads back.

    Args:
        folder: of the run; has to exist.

    Raises:
        StorageError: where the file cannot be written.
    """

    __repr__ = repr_settings

    def __init__(self, folder: Path, /) -> None:
        self.path = folder / METRICS_FILE
        self._append("")

    def log(self, step: int, values: Mapping[str, float], /) -> None:
        """Appends one line.

        Args:
            step: of the run, from 0.
            values: by name; "step" is taken.
        """
        if "step" in values:
            raise PluginError(
                "a metric is named 'step', which is the name of the step itself", help="rename the metric"
            )
        line = {"step": step} | {name: _as_json(value) for name, value in values.items()}
        self._append(json.dumps(line, allow_nan=False) + "\n")

    def close(self) -> None:
        pass

    def _append(self, text: str) -> None:
        # Opened for each line: nothing is ever left in a buffer, and the file may be cut back under a live tracker.
        try:
            with self.path.open("a", encoding="utf-8", newline="\n") as file:
                file.write(text)
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be written: {error.strerror}", help=repair(error, "choose another --out")
            ) from error


@register("tracker", "console")
class Console:
    """Compact lines on standard error, for logs and pipes; a terminal has the progress bar instead.

    A line is `step 7  loss 1.25  learning_rate 0.05`, four digits a number. Of an evaluation on val it has the metric
    that chooses the checkpoint, which is logged first, and those asked for.

    Args:
        folder: of the run; not used.
        every: of the logs with the same names, every nth is printed. A log with other names than the one before
            (an evaluation) is always printed.
        show: metrics of an evaluation to print besides, as `retrieval.r_at_1`.
    """

    __repr__ = repr_settings

    def __init__(self, folder: Path, /, *, every: Annotated[int, Ge(1)] = 50, show: tuple[str, ...] = ()) -> None:
        self.every, self.show = every, show
        self._names: tuple[str, ...] = ()
        self._count = 0

    def log(self, step: int, values: Mapping[str, float], /) -> None:
        """Prints one line, or nothing.

        Args:
            step: of the run, from 0.
            values: by name.
        """
        names = tuple(values)
        self._count = self._count + 1 if names == self._names else 0
        self._names = names
        # Looked up at each call, as whoever draws a progress bar puts a stream of its own in this place.
        if self._count % self.every == 0 and not sys.stderr.isatty():
            asked = {f"val.{name}" for name in self.show}
            numbers = [
                f"{name} {value:.4g}"
                for place, (name, value) in enumerate(values.items())
                if place == 0 or not name.startswith("val.") or name in asked
            ]
            print(f"step {step}", *numbers, sep="  ", file=sys.stderr, flush=True)

    def close(self) -> None:
        pass


def _as_json(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"
