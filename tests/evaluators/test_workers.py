"""Workers of one core each: what they have, and what they leave."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch

from metriclab.evaluators._workers import one_thread_each

pytestmark = pytest.mark.usefixtures("two_threads")


def threads_of(_: int) -> int:
    torch.rand(2**16).exp().sum()
    return torch.get_num_threads()


def of_a_new_thread() -> int:
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(threads_of, 0).result()


def test_each_worker_has_one_thread_and_nobody_else():
    with one_thread_each() as pool:
        assert list(pool.map(threads_of, range(8))) == [1] * 8
        assert (threads_of(0), of_a_new_thread()) == (2, 2)
    assert (threads_of(0), of_a_new_thread()) == (2, 2)


def test_two_at_once_and_an_error_leave_nothing_behind():
    meet = threading.Barrier(2)

    def use(_: int) -> list[int]:
        with one_thread_each() as pool:
            meet.wait()
            return list(pool.map(threads_of, range(4)))

    with ThreadPoolExecutor(2) as outer:
        assert list(outer.map(use, range(2))) == [[1] * 4] * 2
    with pytest.raises(ZeroDivisionError), one_thread_each() as pool:
        list(pool.map(lambda n: 1 // n, range(3)))
    assert (threads_of(0), of_a_new_thread()) == (2, 2)
