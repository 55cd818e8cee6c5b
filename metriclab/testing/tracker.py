"""What every tracker keeps."""

from __future__ import annotations

import math
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metriclab.core.protocols import Tracker
from metriclab.testing.checks import Check, check, run_all

Make = Callable[[Path], Tracker]


def check_tracker(make: Make) -> None:
    """Checks a tracker: it takes every number of a run, and goes on in the folder of a run that is resumed.

    Names differ from log to log, numbers may be NaN or infinite, steps may come again after a resume; the values it is
    given are not changed, and nothing is written beside the run folder.

    Args:
        make: builds it from a run folder, as `functools.partial(build, "tracker", "mine")`.

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    run_all(tracker_checks(make))


def tracker_checks(make: Make) -> list[Check]:
    """What `check_tracker` runs, one by one."""
    return [
        check("every number of a run", _check_numbers, make),
        check("resumed run", _check_resumed, make),
    ]


_LOGS: list[tuple[int, dict[str, float]]] = [
    (1, {"loss": 2.5, "learning_rate": 0.1}),
    (2, {"loss": 2.0, "learning_rate": 0.1, "gradient_norm": 3.0}),
    (2, {"val/h/retrieval/r_at_1": 0.25}),
    (3, {"loss": math.nan, "learning_rate": math.inf, "gradient_norm": -math.inf}),
    (4, {}),
]


def _log(tracker: Any, what: str) -> None:
    name = type(tracker).__name__
    for step, values in _LOGS:
        passed = dict(values)
        try:
            tracker.log(step, passed)
        except Exception as error:
            raise AssertionError(f"{name}.log raises {what} on {values}: {type(error).__name__}: {error}") from error
        assert passed.keys() == values.keys(), f"{name}.log changes the values it is given"
    tracker.close()


def _check_numbers(make: Make) -> None:
    with tempfile.TemporaryDirectory() as around:
        folder = Path(around) / "run"
        folder.mkdir()
        tracker = make(folder)
        _log(tracker, "in a new folder")
        beside = [path.name for path in Path(around).iterdir() if path != folder]
        assert not beside, f"{type(tracker).__name__} writes {beside[0]} beside the run folder it is given"


def _check_resumed(make: Make) -> None:
    with tempfile.TemporaryDirectory() as folder:
        for what in ("in a new folder", "in the folder of a resumed run"):
            _log(make(Path(folder)), what)
