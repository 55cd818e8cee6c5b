"""Ranks that are started one by one, without an agent that ends all of them when one has failed."""

from __future__ import annotations

import socket
import time

import pytest

from metriclab import distributed
from metriclab.distributed import group
from metriclab.errors import MetriclabError, RecipeError


@pytest.fixture
def environment(monkeypatch):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    monkeypatch.setattr(group, "JOINING", 1)
    for name, value in {"WORLD_SIZE": 2, "RANK": 0, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port}.items():
        monkeypatch.setenv(name, str(value))
    return monkeypatch


def test_ranks_that_wait_for_one_that_never_comes_say_so(environment):
    started = time.monotonic()
    with (
        pytest.raises(MetriclabError, match="rank 0 has waited 1 seconds for all 2 ranks, and not all came") as told,
        distributed.process_group(),
    ):
        pytest.fail("there is nobody to join")
    assert "one may have failed before, as by a --plugin file that is broken" in str(told.value)
    assert time.monotonic() - started < 20


@pytest.mark.parametrize(("name", "value"), [("RANK", None), ("RANK", "first"), ("MASTER_PORT", "")])
def test_what_is_wrong_in_the_environment_is_named(environment, name, value):
    environment.delenv(name) if value is None else environment.setenv(name, value)
    with (
        pytest.raises(RecipeError, match="WORLD_SIZE is 2, and this process cannot join the others") as told,
        distributed.process_group(),
    ):
        pytest.fail("there is nobody to join")
    assert "set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each" in str(told.value)
