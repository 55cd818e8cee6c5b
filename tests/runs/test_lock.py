"""One run at a time in a run folder: who is refused, with what words, and whose lock is taken over."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from metriclab.errors import StorageError
from metriclab.runs.folder import RunFolder
from metriclab.runs.lock import RunLock
from metriclab.training.experiment import experiment
from tests.support.tiny import outcome, run, tiny

HOLD = """
import sys, time
from pathlib import Path
from metriclab.runs.lock import RunLock
lock = RunLock(Path(sys.argv[1]))
lock.take()
print("taken", flush=True)
time.sleep(600)
"""


@pytest.fixture
def other(tmp_path):
    """Another process that has the lock of the folder `run`."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path / "run" / "run.lock")], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "taken\n"
    yield process
    process.kill()
    process.communicate()


def stored(tmp_path: Path, **changes: object) -> Path:
    path = tmp_path / "run" / "run.lock"
    path.parent.mkdir(exist_ok=True)
    one = {"host": socket.gethostname(), "process": os.getpid(), "began": "1", "since": "2026-01-01 00:00:00+00:00"}
    path.write_text(json.dumps({**one, **changes}))
    return path


def test_who_has_it_is_told_and_what_to_do(other, tmp_path):
    folder = tmp_path / "run"
    for refused in (RunLock(folder / "run.lock").take, RunFolder(folder).refuse_existing, RunFolder(folder).take):
        with pytest.raises(StorageError) as caught:
            refused()
        assert re.fullmatch(
            rf"run folder {folder} is in use by process {other.pid} on {socket.gethostname()}, "
            r"since \d{4}-\d\d-\d\d \d\d:\d\d:\d\d[+-]\d\d:\d\d",
            caught.value.message,
        )
        assert caught.value.help == (
            f"wait for the end of that run, which `kill -INT {other.pid}` saves and stops, "
            "or choose another folder with --out"
        )
        assert caught.value.exit_code == 5


@pytest.mark.parametrize("reaped", [True, False])
def test_that_of_a_killed_process_is_taken_over(other, reaped, tmp_path):
    other.send_signal(signal.SIGKILL)
    if reaped:
        other.wait()
    lock = RunLock(tmp_path / "run" / "run.lock")
    while not reaped and (tmp_path / "run" / "run.lock").exists():
        try:
            lock.take()
            break
        except StorageError:  # the kernel is still ending it
            continue
    else:
        lock.take()
    assert json.loads(lock.path.read_text())["process"] == os.getpid()
    lock.release()
    assert not lock.path.exists()


def test_an_id_that_was_given_to_another_process_is_no_holder(tmp_path):
    lock = RunLock(stored(tmp_path, began="1"))  # this very process, but for when it began
    lock.take()
    lock.release()


def test_of_another_machine_it_is_said_how_to_take_over(tmp_path):
    path = stored(tmp_path, host="elsewhere", process=77)
    for refused in (RunLock(path).take, RunLock(path).refuse_holder):
        with pytest.raises(StorageError) as caught:
            refused()
        assert caught.value.message == (
            f"run folder {path.parent} is in use by process 77 on elsewhere, since 2026-01-01 00:00:00+00:00; "
            "whether it still is cannot be seen from this machine"
        )
        assert caught.value.help == f"wait for its end; if it has ended, take the folder over: rm {path}"
    path.unlink()
    lock = RunLock(path)
    lock.take()
    lock.release()


@pytest.mark.parametrize("text", ["", "[]", "{}", "\xff", '{"host": 3}', "[" * 5000, '{"process": "x"}'])
def test_a_file_that_says_nothing_is_taken_over(text, tmp_path):
    path = stored(tmp_path)
    path.write_text(text, "latin-1")
    lock = RunLock(path)
    lock.take()
    lock.release()


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir])
def test_what_is_no_file_is_refused_and_never_waited_for(make, tmp_path):
    (tmp_path / "run").mkdir()
    make(tmp_path / "run" / "run.lock")
    with pytest.raises(StorageError, match=r"run.lock: cannot be locked"):
        RunLock(tmp_path / "run" / "run.lock").take()


def test_without_locks_of_the_disk_what_is_written_decides(other, tmp_path, monkeypatch):
    def no_locks(*arguments: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr("fcntl.flock", no_locks)
    lock = RunLock(tmp_path / "run" / "run.lock")
    with pytest.raises(StorageError, match=f"in use by process {other.pid} on"):
        lock.take()
    other.kill()
    other.wait()
    lock.take()
    lock.release()


def test_a_second_run_and_a_second_resume_leave_the_live_one_alone(tmp_path):
    recipe, folder = tiny(tmp_path), tmp_path / "run"
    live = experiment(recipe, RunFolder(folder))
    while not (folder / "checkpoints").exists():
        next(live)
    before = sorted(folder.rglob("*"))
    half = folder / ".metrics.jsonl.abc.part"
    half.write_text("the live run is writing this")
    for resume in (False, True):
        with pytest.raises(StorageError, match=rf"run folder {folder} is in use by process {os.getpid()} on"):
            run(recipe, folder, resume=resume)
    assert half.exists()
    half.unlink()
    assert sorted(folder.rglob("*")) == before
    assert [status.stage for status in live][-1] == "finished"
    assert not (folder / "run.lock").exists()
    run(recipe, tmp_path / "alone")
    assert outcome(folder) == outcome(tmp_path / "alone")


def test_a_folder_in_which_nothing_but_a_stale_lock_is_may_be_used(tmp_path):
    stored(tmp_path)
    RunFolder(tmp_path / "run").refuse_existing()
