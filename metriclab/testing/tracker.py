"""What every tracker keeps."""

from __future__ import annotations

import math
import struct
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from metriclab.core.protocols import Tracker
from metriclab.testing.checks import Check, check, running

Make = Callable[[Path], Tracker]


def tracker_checks(make: Make) -> list[Check]:
    """Checks a tracker: it takes every number of a run, and goes on in the folder of a run that is resumed.

    Names differ from log to log, numbers may be NaN or infinite, steps may come again after a resume; the values it is
    given are not changed, and nothing is written beside the run folder. Of one that writes files in the run folder in
    which numbers can be found, as text or as floats: they have six digits or more, they are there while the run goes
    on, which may be killed, and what an earlier part of the run logged stays.

    Args:
        make: builds it from a run folder, as `functools.partial(build, "tracker", "mine")`.

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    return [
        check("every number of a run", _check_numbers, make),
        check("resumed run", _check_resumed, make),
        check("numbers in files", _check_files, make),
    ]


check_tracker = running(tracker_checks)


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


_BEFORE, _AFTER, _SMALL = 0.7310585786300049, 0.8807970779778823, 3.0590222692562472e-07
"""Numbers that no log holds by chance: of a run, of the same run resumed, and one that a fixed number of decimals
loses."""

_MANY = 20
"""Logs after which a tracker has written the first of them."""


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


def _check_files(make: Make) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tracker = make(folder)
        what = type(tracker).__name__
        for step in range(1, _MANY + 1):
            tracker.log(step, {"loss": _BEFORE, "learning_rate": _SMALL} if step == 1 else {"loss": 2.0})
        live = _holds(folder, _BEFORE)
        tracker.close()
        files = [path for path in folder.rglob("*") if path.is_file()]
        kept, small = _holds(folder, _BEFORE), _holds(folder, _SMALL)
        assert not files or any(path.stat().st_size for path in files), f"{what} writes empty files: are they closed?"
        rounded = next((path.name for path in files if b"0.73" in path.read_bytes()), None)
        assert kept or rounded is None, f"{what} rounds {_BEFORE} in {rounded}: write numbers whole, as repr does"
        assert small or not kept, (
            f"{what} rounds {_SMALL} to fewer digits than it has: write numbers whole, as repr does"
        )
        assert live or not kept, (
            f"{what} has not written the first of {_MANY} logs before it is closed: flush what is logged, or a run "
            "that is killed loses it"
        )
        resumed = make(folder)
        resumed.log(_MANY + 1, {"loss": _AFTER})
        resumed.close()
        assert _holds(folder, _BEFORE) or not kept, (
            f"{what} loses what was logged before the run was resumed: append to its files, or open new ones"
        )
        assert _holds(folder, _AFTER) or not kept, f"{what} writes nothing after the run was resumed"


def _holds(folder: Path, value: float) -> bool:
    """Whether a file holds this number: six digits of it as text, or its bytes."""
    digits = f"{value:.16e}".partition("e")[0].replace(".", "")[:6].encode()
    packed = [struct.pack(order + size, value) for order in "<>" for size in "fd"]
    for path in folder.rglob("*"):
        content = path.read_bytes() if path.is_file() else b""
        if digits in content.replace(b".", b"") or any(one in content for one in packed):
            return True
    return False
