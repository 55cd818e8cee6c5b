"""Running what a suite is missing: child processes, each with a log file, so that a crash harms one run alone."""

from __future__ import annotations

import fcntl
import os
import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple, Protocol, runtime_checkable

import torch

from metriclab.comparison.finished import FinishedRun, read_run
from metriclab.comparison.suite import Suite
from metriclab.comparison.suite_entry import SuiteEntry
from metriclab.core.cores import usable_cores
from metriclab.core.files import repair
from metriclab.errors import StorageError
from metriclab.runs.folder import RunFolder

State = Literal["missing", "interrupted", "finished"]

POLL = 0.1
"""Seconds between looks at the runs under way."""


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
            *(["--resume"] if self.state != "missing" else []),
        ]

    def __str__(self) -> str:
        return f"{self.entry.name}, seed {self.seed}"


class Event(NamedTuple):
    """Something that became of a run.

    Attributes:
        detail: the end of the log of one that failed.
        code: how it ended.
        reason: why it failed, in a line without paths of this machine.
    """

    run: SuiteRun
    what: Literal["waiting", "started", "finished", "stopped", "failed"]
    detail: str = ""
    code: int = 0
    reason: str = ""


@runtime_checkable
class Process(Protocol):
    """A run under way, as `subprocess.Popen` is one; `poll` gives its exit code, or None before its end."""

    def poll(self) -> int | None: ...
    def terminate(self) -> None: ...
    def kill(self) -> None: ...
    def wait(self) -> int: ...


Start = Callable[[SuiteRun, Sequence[Path], int, str | None], Process | None]
"""Starts a run with these plugin files, CPU threads and GPU; None where another process is at it."""


def plan(suite: Suite, out: Path) -> list[SuiteRun]:
    """Every run of a suite, seed by seed so that all entries have the same ones early, and how it stands.

    Raises:
        StorageError: where a folder holds a run of another recipe.
    """
    runs = []
    for seed in suite.seeds:
        for entry in suite.entries:
            runs.append(planned_run(entry, seed, out / entry.folder / f"seed-{seed}"))
    return runs


def planned_run(entry: SuiteEntry, seed: int, path: Path) -> SuiteRun:
    """A run of an entry in a folder, and how it stands. Raises as `plan` does."""
    folder = RunFolder(path)
    changed = folder.differences(entry.with_seed(seed)) if folder.recipe_file.is_file() else []
    if changed:
        raise StorageError(
            f"{path} holds a run of another recipe, which differs in {', '.join(changed)}",
            help="remove that folder, or choose another one with --out",
        )
    return SuiteRun(entry, seed, path, state_of(folder))


def state_of(folder: RunFolder) -> State:
    """How far the run in a folder is."""
    if not folder.recipe_file.is_file():
        return "missing"
    return "finished" if folder.result_file.is_file() else "interrupted"


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


def with_result(suite: Suite, groups: Mapping[str, object]) -> tuple[Suite, list[str]]:
    """The suite, without its reference where that is none of the entries with a result, and what to say of that."""
    if suite.reference is None or suite.reference in groups:
        return suite, []
    return replace(suite, reference=None), [f"the reference {suite.reference} has no result: all pairs are tested"]


def launch(
    runs: Sequence[SuiteRun],
    *,
    jobs: int = 1,
    plugins: Sequence[Path] = (),
    stop: Callable[[], bool] = lambda: False,
    patient: bool = False,
    then: Callable[[Event], Sequence[SuiteRun]] = lambda event: (),
    start: Start | None = None,
) -> Iterator[Event]:
    """Runs those that are not finished, some at a time, and yields what becomes of each.

    Args:
        jobs: how many at a time; the cores are divided among them, unless OMP_NUM_THREADS is set already, and each
            sees one GPU, that with the fewest runs, where there are any.
        plugins: files that each run imports.
        stop: asked often; True asks the runs under way to save and stop, and starts no other.
        patient: whether a run that another process is at is waited for, as one is whose parent was killed; else it
            has failed.
        then: what is to be run after the end of a run.
        start: how a run is started; as a process of this machine by default.
    """
    waiting = [run for run in runs if run.state != "finished"]
    under_way: list[tuple[SuiteRun, Process, str | None]] = []
    told: set[Path] = set()
    devices, threads, stopping = _devices(), max(1, usable_cores() // jobs), False
    try:
        while under_way or (waiting and not stopping):
            busy: list[SuiteRun] = []
            while waiting and len(under_way) < jobs and not stopping:
                run = waiting.pop(0)
                device = least_busy(devices, (one[2] for one in under_way))
                process = (start or start_process)(run, plugins, threads, device)
                if process is not None:
                    under_way.append((run, process, device))
                    yield Event(run, "started")
                elif not patient:
                    yield Event(run, "failed", f"another process is at it: wait for its end, see {run.log}")
                else:
                    busy.append(run)
                    if run.folder not in told:
                        told.add(run.folder)
                        yield Event(run, "waiting", f"another process is at it, see {run.log}")
            waiting += busy
            if stop() and not stopping:
                stopping = True
                for _, process, _ in under_way:
                    process.terminate()
            time.sleep(POLL)
            for one in list(under_way):
                run, process, _ = one
                code = process.poll()
                if code is not None:
                    under_way.remove(one)
                    event = _ended(run, code, stopping)
                    waiting += then(event)
                    yield event
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


def start_process(run: SuiteRun, plugins: Sequence[Path], threads: int, device: str | None) -> Process | None:
    """Starts a run as a process of this machine; see `Start`."""
    try:
        run.folder.parent.mkdir(parents=True, exist_ok=True)
        # A pipe in its place would wait for a reader.
        with open(os.open(run.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK, 0o644), "ab") as log:
            # The child inherits the lock with the file and holds it to its end, even if this process is killed before.
            try:
                fcntl.flock(log, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return None
            run = replace(run, state=state_of(RunFolder(run.folder)))  # whoever had the lock may have run it
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
    reason = f"killed by signal {-code}" if code < 0 else short_reason(lines, run) or f"exit code {code}"
    return Event(run, "failed", f"exit code {code}, see {run.log}, which ends:\n{end}", code, reason)


def short_reason(lines: Sequence[str], run: SuiteRun) -> str | None:
    """The last line that says what is wrong, and neither where nor what helps, without the folders of this machine."""
    told = [line for line in lines if line.strip() and not line.startswith((" ", "\t", "warning:"))]
    return re.sub(r"(?<![\w.:/])/(?:[^\s/]+/)+", "", told[-1].replace(f"{run.folder.parent}/", "")) if told else None
