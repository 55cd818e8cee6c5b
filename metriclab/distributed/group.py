"""The group of processes that a run is: who is in it, how it is joined, and which rows each rank has."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
import torch.distributed.nn.functional  # before any group: its functions keep the one that they find when imported
from torch.distributed.constants import default_pg_timeout

from metriclab.errors import MetriclabError, RecipeError

JOINING = 50
"""Seconds in which all ranks have to come; they start together, and a minute later it has to be told who did not."""


def rank() -> int:
    """Index of this process, 0 outside a group."""
    return dist.get_rank() if dist.is_available() and dist.is_initialized() else 0


def world_size() -> int:
    """Number of processes, 1 outside a group."""
    return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1


@contextmanager
def process_group() -> Iterator[None]:
    """Joins the group that `torchrun` describes in the environment (nccl on GPUs, else gloo); leaves it at the end.

    Raises:
        MetriclabError: where not all ranks come within 50 seconds, as one that has failed before will not.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 or dist.is_initialized():
        yield
        return
    cuda = torch.cuda.is_available()
    if cuda:
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
    store, rank, ranks = _met()
    # Small decisions travel on the CPU, and a run may want it although there is a GPU.
    dist.init_process_group("cpu:gloo,cuda:nccl" if cuda else "gloo", store=store, rank=rank, world_size=ranks)
    try:
        yield
    finally:
        dist.destroy_process_group()


def _met() -> tuple[Any, int, int]:
    """The store at which all ranks have met, this one's rank, and how many they are."""
    own, ranks = os.environ.get("RANK", "?"), os.environ["WORLD_SIZE"]
    try:
        # By itself and not in `init_process_group`, whose limit would be that of all that ranks ever wait for.
        # Whoever looks for the first rank's server tries twice.
        limit = timedelta(seconds=JOINING if own == "0" else JOINING / 2)
        store, rank, world = next(dist.rendezvous("env://", timeout=limit))  # type: ignore[attr-defined]
        if store.add("joined", 1) == world:
            store.set("all joined", "1")
        store.wait(["all joined"], timedelta(seconds=JOINING))
    except ValueError as error:  # a variable that is missing or wrong
        raise RecipeError(
            f"WORLD_SIZE is {ranks}, and this process cannot join the others: {error}",
            help="start all of them by torchrun, or set RANK, WORLD_SIZE, MASTER_ADDR and MASTER_PORT for each",
        ) from error
    except dist.DistError as error:
        raise MetriclabError(
            f"rank {own} has waited {JOINING} seconds for all {ranks} ranks, and not all came",
            help="look at what each of them has written: one may have failed before, as by a --plugin file that is "
            "broken, or have another MASTER_ADDR and MASTER_PORT",
        ) from error
    store.set_timeout(default_pg_timeout)
    return store, rank, world


def meeting_place() -> Any:
    """Where groups of processes of this machine meet, as long as it is kept; they are told its `port`."""
    return dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)  # type: ignore[attr-defined]


@contextmanager
def local_group(rank: int, ranks: int, port: int, name: str) -> Iterator[None]:
    """A gloo group of processes that meet under a name of its own: what tests over several ranks run in.

    One rank alone needs no group and gets none.
    """
    if ranks == 1:
        yield
        return
    limit = timedelta(seconds=60)  # a rank that fails must not leave the others waiting for long
    server = dist.TCPStore("127.0.0.1", port, timeout=limit)  # type: ignore[attr-defined]
    store = dist.PrefixStore(name, server)  # type: ignore[attr-defined]
    dist.init_process_group("gloo", store=store, rank=rank, world_size=ranks, timeout=limit)
    failed = True
    try:
        yield
        failed = False
    finally:
        # Who leaves closes its connections, which may still carry what another rank waits for. They wait for each
        # other at the server, which stays; for one that failed nobody waits.
        if store.add("left", 1) == ranks:
            store.set("all left", "1")
        elif not failed:
            store.wait(["all left"])
        dist.destroy_process_group()


def rank_slice(rows: int, rank: int, world: int) -> slice:
    """The part of a global batch that one rank takes: neighbouring rows, equal numbers to within one, never none.

    Args:
        rows: of the global batch.
        rank: index of the process.
        world: number of processes.

    Raises:
        RecipeError: where there are fewer rows than ranks.
    """
    assert 0 <= rank < world
    if rows < world:
        raise RecipeError(
            f"a batch of {rows} rows cannot be divided among {world} processes",
            help="set a larger sampler.batch_size (and sampler.drop_last = true), or start fewer processes",
        )
    return slice(rows * rank // world, rows * (rank + 1) // world)
