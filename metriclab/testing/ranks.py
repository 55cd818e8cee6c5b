"""Several ranks on one machine: a pool of gloo processes that is kept, as starting one costs seconds."""

from __future__ import annotations

import atexit
import multiprocessing
import os
import pickle
import subprocess
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import count
from multiprocessing.connection import Connection
from typing import Any

import torch
from torch import Tensor

from metriclab.distributed import local_group, meeting_place
from metriclab.registry.decorator import match_plugin_files, plugin_files

PATIENCE = 180
"""Seconds to wait for a rank before it is taken for stuck."""


Worker = tuple[subprocess.Popen[bytes], Connection]


@dataclass(frozen=True, slots=True)
class Share:
    """One rank's part of the work.

    Attributes:
        rank: index of this process.
        ranks: how many there are.
    """

    rank: int
    ranks: int

    def of(self, n: int) -> slice:
        """This rank's rows of n. The slices differ in size on purpose: rank r gets a share of (ranks - r) parts."""
        parts = self.ranks * (self.ranks + 1) // 2
        borders = [n * sum(self.ranks - r for r in range(end)) // parts for end in range(self.ranks + 1)]
        return slice(borders[self.rank], borders[self.rank + 1])


class RankCrash(AssertionError):
    """A function raised on a rank, before anything could be compared.

    Args:
        failures: where, and the traceback.
    """

    def __init__(self, failures: Sequence[tuple[str, str]]) -> None:
        # Where one rank fails, the others lose their connection to it.
        where, trace = min(failures, key=lambda failure: "Connection closed by peer" in failure[1])
        super().__init__(f"raises {where}: {trace.strip().splitlines()[-1]}\n{trace}")


def on_ranks(function: Callable[..., Any], ranks: int, *arguments: Any) -> list[Any]:
    """What `function(share, *arguments)` returns on each of several ranks, in rank order.

    Args:
        function: importable from its module, as it is sent to other processes by pickle.
        ranks: how many; 1 runs in a process of its own without a group.
        arguments: anything that pickle takes.

    Raises:
        AssertionError: where the function raises on a rank (with that rank's traceback), or cannot be sent.
    """
    return _pool.run(pack(function, arguments), ranks)


def pack(*what: Any) -> bytes:
    """What can be sent to another process; an AssertionError with the repair for what cannot."""
    try:
        return pickle.dumps(what)
    except Exception as error:
        raise AssertionError(
            f"cannot be sent to other processes ({error}): use functions and classes of a module, and "
            "functools.partial in place of nested functions"
        ) from error


def two_ranks(
    function: Callable[..., Mapping[str, Tensor]],
    *arguments: Any,
    ranks: Sequence[int] = (2, 3),
    tolerance: float = 1e-12,
) -> None:
    """Asserts that every rank of 2, and of 3, ends with what one process ends with.

    Args:
        function: `function(share, *arguments) -> {name: tensor}`; works on `share.of(n)` of the rows, and returns what
            must not depend on the number of ranks: averaged gradients, the mean of the loss. It is importable.
        arguments: for the function; anything that pickle takes.
        ranks: numbers of ranks to compare with one process.
        tolerance: largest difference allowed, beside the largest value of the tensor or 1.
    """
    (expected,) = on_ranks(function, 1, *arguments)
    for number in ranks:
        for rank, found in enumerate(on_ranks(function, number, *arguments)):
            assert found.keys() == expected.keys(), f"rank {rank} of {number} returns {set(found)}, one {set(expected)}"
            for name, tensor in found.items():
                _compare(f"{name} on rank {rank} of {number}", tensor, expected[name], tolerance)


def agree_on_ranks(
    name: str, differs: str, why: str, function: Callable[..., Mapping[str, Tensor]], *arguments: Any, tolerance: float
) -> None:
    """As `two_ranks`, for the function of a component, which is told apart: does it differ, or does it raise?

    Args:
        name: of the component.
        differs: what is said of it where a tensor differs.
        why: what mends that.
        function, arguments, tolerance: see `two_ranks`.
    """
    pack(arguments)
    try:
        two_ranks(function, *arguments, tolerance=tolerance)
    except RankCrash as error:
        raise AssertionError(f"{name} {error}") from error
    except AssertionError as error:
        raise AssertionError(f"{name} {differs}: {error}. {why}") from error


def _compare(what: str, found: Tensor, expected: Tensor, tolerance: float) -> None:
    assert found.shape == expected.shape, f"{what} has shape {tuple(found.shape)}, one process {tuple(expected.shape)}"
    if expected.numel() == 0:
        return
    scale = max(1.0, float(expected.abs().max()))
    difference = float((found - expected).abs().max()) / scale
    assert difference <= tolerance, f"{what} differs from one process by {difference:.1e} of its scale"


class _Pool:
    """Processes that wait for work; as many as were ever needed."""

    def __init__(self) -> None:
        self.workers: list[Worker] = []
        self.place: Any = None
        self.calls = count()

    def run(self, message: bytes, ranks: int) -> list[Any]:
        if self.place is None:
            self.place = meeting_place()
        group = self.place.port, f"call-{next(self.calls)}"
        while len(self.workers) < max(ranks, 3):  # three at once: they import torch side by side
            self.workers.append(_start())
        connections = [connection for _, connection in self.workers[:ranks]]
        for rank, connection in enumerate(connections):
            connection.send_bytes(pickle.dumps((rank, ranks, group, plugin_files(), message)))
        answers = [self._answer(rank) for rank in range(ranks)]
        one = "in one process" if ranks == 1 else None
        failures = [(one or f"on rank {rank} of {ranks}", text) for rank, (text, _) in enumerate(answers) if text]
        if failures:
            raise RankCrash(failures)
        return [value for _, value in answers]

    def _answer(self, rank: int) -> tuple[str, Any]:
        process, connection = self.workers[rank]
        fate = f"it gave no answer in {PATIENCE} seconds"
        try:
            if connection.poll(PATIENCE):
                return pickle.loads(connection.recv_bytes())  # type: ignore[no-any-return]
        except (EOFError, OSError):  # the pipe broke
            fate = f"it died (exit status {process.wait()})"
        self.close()
        raise RankCrash([(f"on rank {rank}", fate)])

    def close(self) -> None:
        for process, connection in self.workers:
            process.kill()
            process.wait()
            connection.close()
        self.workers = []
        self.place = None


_pool = _Pool()
atexit.register(_pool.close)


def _start() -> Worker:
    # Not multiprocessing's spawn: it would run a user's script again, and pytest's own main in every worker.
    ours, theirs = multiprocessing.Pipe()
    pipe = theirs.fileno()
    code = f"import sys; sys.path[:] = {sys.path!r}; from metriclab.testing.ranks import serve; serve({pipe})"
    process = subprocess.Popen([sys.executable, "-c", code], pass_fds=[pipe], stdin=subprocess.DEVNULL)
    theirs.close()
    return process, ours


def serve(descriptor: int) -> None:
    """A worker's life: answers with (traceback or "", value) until the test session is gone."""
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    torch.set_num_threads(1)
    connection = Connection(descriptor)
    while True:
        try:
            rank, ranks, group, files, message = pickle.loads(connection.recv_bytes())
        except EOFError:
            return
        try:
            match_plugin_files(files)
            with local_group(rank, ranks, *group):
                function, arguments = pickle.loads(message)
                answer = ("", function(Share(rank, ranks), *arguments))
            packed = pickle.dumps(answer)
        except Exception:
            packed = pickle.dumps((traceback.format_exc(), None))
        connection.send_bytes(packed)
