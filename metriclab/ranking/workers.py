"""Threads of one core each, and settings of the whole process that may be changed meanwhile."""

from __future__ import annotations

import itertools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from threading import Barrier, Lock
from typing import Any, TypeVar

import torch
from torch import Tensor

S = TypeVar("S")
T = TypeVar("T")

_starting = Lock()


def in_threads(work: Callable[[slice], T], count: int) -> list[T]:
    """What `work` makes of 0..count, cut in as many slices as torch has threads; numpy has none of its own."""
    threads = torch.get_num_threads()
    edges = [count * i // threads for i in range(threads + 1)]
    slices = [slice(start, stop) for start, stop in itertools.pairwise(edges) if stop > start]
    if len(slices) < 2:
        return [work(part) for part in slices]
    with ThreadPoolExecutor(threads) as pool:
        return list(pool.map(work, slices))


@contextmanager
def one_thread_each(workers: int) -> Iterator[ThreadPoolExecutor]:
    """So many workers, in each of which torch has one thread. At the end what nobody has begun is dropped.

    What is thread-local, as autocast and `no_grad`, the workers do not have.
    """
    pool = ThreadPoolExecutor(workers)
    try:
        _start(pool, workers)
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


def _start(pool: ThreadPoolExecutor, workers: int) -> None:
    threads, started = torch.get_num_threads(), Barrier(workers + 1)

    def start() -> None:
        torch.get_num_threads()  # a thread takes over the number of the process when it is first asked
        torch.set_num_threads(1)
        started.wait()

    # A worker's number becomes that of threads to come: it is put back before anything else can happen.
    with _starting:
        try:
            for _ in range(workers):
                pool.submit(start)
            started.wait()
        except BaseException:
            # Interrupted, or out of threads: those that began would wait for the others for ever.
            started.abort()
            pool.shutdown(cancel_futures=True)
            raise
        finally:
            torch.set_num_threads(threads)


def side_by_side(work: Callable[[S], T], items: Sequence[S], workers: int) -> Iterator[T]:
    """What `work` makes of each item, in their order; several items at once, each by one core, where there are several
    workers. These are only a little ahead of who takes what they make."""
    if workers < 2 or len(items) < 2:
        yield from map(work, items)
        return
    with one_thread_each(workers) as pool:
        ahead: deque[Future[T]] = deque()
        for item in items:
            ahead.append(pool.submit(work, item))
            if len(ahead) > 2 * workers:
                yield ahead.popleft().result()
        while ahead:
            yield ahead.popleft().result()


class Spare:
    """Memory that workers take and give back: fresh memory is paid for page by page, and a worker hoards what it
    frees."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self._dtype, self._device = dtype, device
        self._free: list[Tensor] = []

    @contextmanager
    def take(self, count: int) -> Iterator[Tensor]:
        """So many numbers, of any value. What an error keeps from being given back is made anew."""
        try:
            memory = self._free.pop()
        except IndexError:
            memory = torch.empty(0, dtype=self._dtype, device=self._device)
        if len(memory) < count:
            memory = memory.new_empty(count)
        yield memory[:count]
        self._free.append(memory)


class _IeeeProducts:
    """Float32 products of matrices in float32, whatever somebody has set: from the first user's entry to the last's
    exit."""

    def __init__(self) -> None:
        self._lock, self._users, self._before = Lock(), 0, ""

    def __enter__(self) -> None:
        with self._lock:
            if self._users == 0:
                self._before = _products().fp32_precision
                _products().fp32_precision = "ieee"
            self._users += 1

    def __exit__(self, *_: object) -> None:
        with self._lock:
            self._users -= 1
            if self._users == 0:
                # What had been inherited is inherited again.
                _products().fp32_precision = "none"
                if _products().fp32_precision != self._before:
                    _products().fp32_precision = self._before


def _products() -> Any:
    return torch.backends.mkldnn.matmul  # type: ignore[attr-defined]


ieee_products = _IeeeProducts()
