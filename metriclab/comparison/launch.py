"""Running what a suite is missing: child processes, each with a log file, so that a crash harms one run alone."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch

from metriclab.comparison.finished import FinishedRun, read_run
from metriclab.comparison.suite import Suite, SuiteEntry
from metriclab.core.cores import usable_cores
from metriclab.core.files import repair
from metriclab.errors import StorageError
from metriclab.runs.folder import RunFolder

State = Literal["missing", "interrupted", "finished"]


@dataclass(frozen=True, slots=True)
class SuiteRun:
    """One run of a suite; its log is beside its folder."""

    entry: SuiteEntry
    seed: int
    folder: Path
    state: State

    @property
    def log(self) -> Path:
        return self.folder.with_suffix(".log")

    def arguments(self, plugins: Sequence[Path] = ()) -> list[str]:
        """What to give to `metriclab` to run it, or to finish it."""
        options = [*self.entry.options, f"train.seed={self.seed}"]
        return [
            *("run", str(self.entry.base)),
            *(word for option in options for word in ("--set", option)),
            *(word for plugin in plugins for word in ("--plugin", str(plugin))),
            *("--out", str(self.folder)),
            *(["--resume"] if self.state == "interrupted" else []),
        ]

    def __str__(self) -> str:
        return f"{self.entry.name}, seed {self.seed}"


class Event(NamedTuple):
    """Something that became of a run; `detail` is the end of the log of one that failed."""

    run: SuiteRun
    what: Literal["started", "finished", "stopped", "failed"]
    detail: str = ""


def plan(suite: Suite, out: Path) -> list[SuiteRun]:
    """Every run of a suite, seed by seed so that all entries have the same ones early, and how it stands.

    Raises:
        StorageError: where a folder holds a run of another recipe.
    """
    runs = []
    for seed in suite.seeds:
        for entry in suite.entries:
            folder = RunFolder(out / entry.folder / f"seed-{seed}")
            state: State = "missing"
            if folder.recipe_file.is_file():
                changed = folder.differences(entry.with_seed(seed))
                if changed:
                    raise StorageError(
                        f"{folder.path} holds a run of another recipe, which differs in {', '.join(changed)}",
                        help="remove that folder, or choose another one with --out",
                    )
                state = "finished" if folder.result_file.is_file() else "interrupted"
            runs.append(SuiteRun(entry, seed, folder.path, state))
    return runs


def finished(suite: Suite, planned: Sequence[SuiteRun]) -> tuple[dict[str, list[FinishedRun]], list[str]]:
    """The finished runs by the name of their entry, and what to say of the others.

    Raises:
        StorageError: where no run has finished, or a file cannot be read.
    """
    groups, notes = {}, []
    for entry in suite.entries:
        own = [run for run in planned if run.entry is entry]
        there = [run for run in own if RunFolder(run.folder).result_file.is_file()]
        notes += [f"{run} has no result and is left out" for run in own if run not in there]
        if there:
            groups[entry.name] = [read_run(run.folder) for run in there]
    if not groups:
        raise StorageError("no run of the suite has finished", help="see the log files for why")
    return groups, notes


def launch(
    runs: Sequence[SuiteRun], *, jobs: int = 1, plugins: Sequence[Path] = (), stop: Callable[[], bool] = lambda: False
) -> Iterator[Event]:
    """Runs those that are not finished, some at a time, and yields what becomes of each.

    Args:
        jobs: how many at a time; the cores are divided among them, unless OMP_NUM_THREADS is set already, and each
            sees one GPU, that with the fewest runs, where there are any.
        plugins: files that each run imports.
        stop: asked often; True asks the runs under way to save and stop, and starts no other.
    """
    waiting = [run for run in runs if run.state != "finished"]
    under_way: list[tuple[SuiteRun, subprocess.Popen[bytes], str | None]] = []
    devices, stopping = _devices(), False
    try:
        while under_way or (waiting and not stopping):
            while waiting and len(under_way) < jobs and not stopping:
                run = waiting.pop(0)
                device = least_busy(devices, (one[2] for one in under_way))
                process = _start(run, plugins, max(1, usable_cores() // jobs), device)
                if process is None:
                    yield Event(run, "failed", f"another process is at it: wait for its end, see {run.log}")
                else:
                    under_way.append((run, process, device))
                    yield Event(run, "started")
            if stop() and not stopping:
                stopping = True
                for _, process, _ in under_way:
                    process.terminate()
            time.sleep(0.1)
            for one in list(under_way):
                run, process, _ = one
                if process.poll() is not None:
                    under_way.remove(one)
                    yield _ended(run, process.returncode, stopping)
    finally:
        for _, process, _ in under_way:
            process.kill()
            process.wait()


def _devices() -> list[str]:
    """What CUDA_VISIBLE_DEVICES can name of the GPUs that this process may use."""
    count = torch.cuda.device_count()
    named = os.environ.get("CUDA_VISIBLE_DEVICES")
    return (named.split(",") if named else [str(number) for number in range(count)])[:count]


def least_busy(devices: Sequence[str], taken: Iterable[str | None]) -> str | None:
    """The GPU with the fewest runs under way, the first of such; None without one."""
    often = Counter(taken)
    return min(devices, key=lambda device: often[device], default=None)


def _start(run: SuiteRun, plugins: Sequence[Path], threads: int, device: str | None) -> subprocess.Popen[bytes] | None:
    try:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        # A pipe in its place would wait for a reader.
        with open(os.open(run.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o644), "ab") as log:
            # The child inherits the lock with the file and holds it to its end, even if this process is killed before.
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            # One report about them all says more than one of each.
            environment = {"OMP_NUM_THREADS": str(threads), "COLUMNS": "120", "METRICLAB_REPORT": "none", **os.environ}
            if device is not None:
                environment["CUDA_VISIBLE_DEVICES"] = device
            # A session of its own: Ctrl-C reaches this process alone, which tells its children once.
            return subprocess.Popen(
                [sys.executable, "-m", "metriclab.cli", *run.arguments(plugins)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=environment,
                start_new_session=True,
            )
    except OSError as error:
        raise StorageError(
            f"{run.log} cannot be written: {error.strerror}", help=repair(error, "choose another --out")
        ) from error


def _ended(run: SuiteRun, code: int, stopping: bool) -> Event:
    if code == 0:
        return Event(run, "finished")
    if stopping:
        return Event(run, "stopped")
    lines = run.log.read_text("utf-8", "replace").splitlines()
    end = "\n".join(lines[-5:])
    return Event(run, "failed", f"exit code {code}, see {run.log}, which ends:\n{end}")
