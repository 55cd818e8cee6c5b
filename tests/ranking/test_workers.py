"""Workers of one core each: what they have, and what they leave."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from metriclab.ranking import workers as _workers
from metriclab.ranking.workers import one_thread_each, side_by_side

pytestmark = pytest.mark.usefixtures("two_threads")


def threads_of(_: int) -> int:
    torch.rand(2**16).exp().sum()
    return torch.get_num_threads()


def of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(threads_of, 0).result()


def test_each_worker_has_one_thread_and_nobody_else():
    with one_thread_each(2) as pool:
        assert list(pool.map(threads_of, range(8))) == [1] * 8
        assert (threads_of(0), of_a_new_thread()) == (2, 2)
    assert (threads_of(0), of_a_new_thread()) == (2, 2)


def test_two_at_once_and_an_error_leave_nothing_behind():
    meet = threading.Barrier(2)

    def use(_: int) -> list[int]:
        with one_thread_each(2) as pool:
            meet.wait()
            return list(pool.map(threads_of, range(4)))

    with ThreadPoolExecutor(2) as outer:
        assert list(outer.map(use, range(2))) == [[1] * 4] * 2
    with pytest.raises(ZeroDivisionError), one_thread_each(2) as pool:
        list(pool.map(lambda n: 1 // n, range(3)))
    assert (threads_of(0), of_a_new_thread()) == (2, 2)


class Interrupted(threading.Barrier):
    def wait(self, timeout: float | None = None) -> int:
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        return super().wait(timeout)


def test_workers_end_when_their_start_is_interrupted(monkeypatch):
    monkeypatch.setattr(_workers, "Barrier", Interrupted)
    with pytest.raises(KeyboardInterrupt), one_thread_each(2):
        pytest.fail("it was interrupted")
    assert (threads_of(0), of_a_new_thread()) == (2, 2)


def test_workers_that_began_end_where_others_cannot_begin(monkeypatch):
    begin, begun = threading.Thread.start, []

    def one_only(thread: threading.Thread) -> None:
        if begun:
            raise RuntimeError("can't start new thread")
        begun.append(thread)
        begin(thread)

    monkeypatch.setattr(threading.Thread, "start", one_only)
    with pytest.raises(RuntimeError, match="can't start new thread"), one_thread_each(2):
        pytest.fail("there is one worker only")
    monkeypatch.undo()
    assert not begun[0].is_alive()
    assert (threads_of(0), of_a_new_thread()) == (2, 2)


def test_work_is_only_a_little_ahead_of_who_takes_it():
    begun: list[int] = []
    results = side_by_side(lambda n: begun.append(n) or n, range(1000), 2)
    assert next(results) == 0
    assert len(begun) <= 5, "a reader that stops has asked for no more"
    assert list(results) == list(range(1, 1000))
