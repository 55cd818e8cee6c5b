"""Ranks that are started one by one, without an agent that ends all of them when one has failed."""

from __future__ import annotations

import os
import signal
import socket
import time
from pathlib import Path

import pytest
import torch
import torch.multiprocessing

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


def goes_on(rank: int, port: int, folder: Path) -> None:
    with distributed.local_group(rank, 3, port, "killed"):
        distributed.barrier()
        if rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        try:
            distributed.gather(torch.ones(2, 3))
        except MetriclabError as error:
            Path(folder, str(rank)).write_text(str(error))
            os._exit(1)


@pytest.mark.slow
def test_a_rank_that_is_killed_ends_the_others_with_a_word(tmp_path):
    place, context = distributed.meeting_place(), torch.multiprocessing.get_context("spawn")
    ranks = [context.Process(target=goes_on, args=(rank, place.port, tmp_path)) for rank in range(3)]
    for one in ranks:
        one.start()
    for one in ranks:
        one.join(60)
    assert [one.exitcode for one in ranks] == [1, -signal.SIGKILL, 1]
    for rank in (0, 2):
        assert (
            f"rank {rank} stops: another of the 3 ranks has ended or cannot be reached"
            in (tmp_path / str(rank)).read_text()
        )
        assert "a run goes on from its last checkpoint with --resume" in (tmp_path / str(rank)).read_text()
