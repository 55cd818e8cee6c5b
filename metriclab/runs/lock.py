"""One run at a time in a run folder."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import shlex
import socket
import stat
import subprocess
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from metriclab.core.files import repair
from metriclab.errors import StorageError
from metriclab.runs.files import parse_json
from metriclab.runs.shapes import Shape

_MOST = 4096


class _Stored(Shape):
    host: str
    process: int
    began: str
    since: str


@dataclass(frozen=True, slots=True)
class Holder:
    """Who has a run folder.

    Attributes:
        host: the machine.
        process: its id there.
        began: when that process began, as its system says it, since ids are given again.
        since: when it took the folder.
    """

    host: str
    process: int
    began: str
    since: str

    @classmethod
    def here(cls) -> Holder:
        """This process."""
        now = datetime.now().astimezone().isoformat(" ", "seconds")
        return cls(socket.gethostname(), os.getpid(), _began(os.getpid()), now)

    @property
    def elsewhere(self) -> bool:
        """Whether it is on another machine, where this one cannot see it."""
        return self.host != socket.gethostname()

    @property
    def alive(self) -> bool:
        """Whether this machine still has that very process."""
        return not self.elsewhere and self.process > 0 and _began(self.process) == self.began != ""

    def __str__(self) -> str:
        return f"process {self.process} on {self.host}, since {self.since}"


class RunLock:
    """The lock of a run folder: a file in it that says who has it, and goes with them.

    The kernel's lock on that file ends with its process, in whatever way; where a disk has no such locks, or the file
    was left by another machine, what is written in it decides.

    Args:
        path: of the file.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file: int | None = None

    def take(self) -> None:
        """Makes the folder this process's, until `release`. What a process left that has ended is taken over.

        Raises:
            StorageError: naming who has it, or where it cannot be written.
        """
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = self._locked()
            try:
                holder = _read(file)
                if holder is not None and (holder.elsewhere or holder.alive):
                    raise self._refusal(holder)
                os.ftruncate(file, 0)
                os.pwrite(file, json.dumps(asdict(Holder.here())).encode(), 0)
            except BaseException:
                os.close(file)
                raise
        except OSError as error:
            raise StorageError(
                f"{self.path}: cannot be locked ({error.strerror})", help=repair(error, "choose another --out")
            ) from error
        self._file = file

    def release(self) -> None:
        """Gives the folder back, where this process has it."""
        if self._file is not None:
            with contextlib.suppress(OSError):  # the folder may have been removed
                self.path.unlink(missing_ok=True)
            os.close(self._file)
            self._file = None

    def refuse_holder(self) -> None:
        """Checks that nobody else is at work in the folder.

        Raises:
            StorageError: naming who is.
        """
        if self._file is not None:
            return
        with contextlib.suppress(OSError):  # no such file, or none that could be locked
            file = os.open(self.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
            try:
                holder = _read(file)
            finally:
                os.close(file)
            if holder is not None and (holder.elsewhere or holder.alive):
                raise self._refusal(holder)

    def _locked(self) -> int:
        """The file, opened and locked by the kernel as far as its disk has locks."""
        while True:
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_NONBLOCK | os.O_CLOEXEC, 0o644)
            try:
                if not _lock(file):
                    raise self._refusal(_read(file))
                if self._is(file):
                    return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _is(self, file: int) -> bool:
        """Whether it is still the file of this name: whoever had it may have removed it since it was opened."""
        try:
            return os.path.samestat(os.fstat(file), os.stat(self.path))
        except FileNotFoundError:
            return False

    def _refusal(self, holder: Holder | None) -> StorageError:
        folder = self.path.parent
        if holder is not None and holder.elsewhere:
            return StorageError(
                f"run folder {folder} is in use by {holder}; whether it still is cannot be seen from this machine",
                help=f"wait for its end; if it has ended, take the folder over: {shlex.join(['rm', str(self.path)])}",
            )
        who = "another process" if holder is None else str(holder)
        ask = "" if holder is None else f", which `kill -INT {holder.process}` saves and stops"
        return StorageError(
            f"run folder {folder} is in use by {who}",
            help=f"wait for the end of that run{ask}, or choose another folder with --out",
        )


def _lock(file: int) -> bool:
    """Whether nobody else has it, as far as its disk can say."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:  # a disk without locks
        pass
    return True


def _read(file: int) -> Holder | None:
    """Who wrote the file; None where it says nothing that can be read, as one does that was just made."""
    if not stat.S_ISREG(os.fstat(file).st_mode):
        raise OSError(0, "it is no regular file")
    try:
        stored = parse_json(os.pread(file, _MOST, 0), _Stored, "")
    except StorageError:
        return None
    return Holder(**{name: stored[name] for name in Holder.__slots__})


def _began(process: int) -> str:
    """When a process began, in its system's own words; "" where there is no such process."""
    if Path("/proc/self/stat").exists():
        try:
            # The second field, its name in brackets, may hold anything; the third is its state, the 22nd its start.
            fields = Path(f"/proc/{process}/stat").read_text("utf-8", "replace").rpartition(")")[2].split()
        except OSError:
            return ""
        return "" if fields[0] in "ZX" else fields[19]  # one that has ended and was not asked for its exit code
    asked = subprocess.run(["ps", "-o", "lstart=", "-p", str(process)], capture_output=True, text=True, check=False)
    return asked.stdout.strip()
