"""The pool of ranks: no rank leaves while another still needs it, and what became of one that died is told."""

from __future__ import annotations

import os
import signal
import time

import pytest
import torch.distributed as dist

from metriclab.testing.ranks import RankCrash, on_ranks


def leave_early(share, file):
    """Rank 0 is done at once and notes when it leaves the group; the others say when they were done."""
    destroy = dist.destroy_process_group

    def noted():
        dist.destroy_process_group = destroy
        file.write_text(str(time.time()))
        destroy()

    if share.rank == 0:
        dist.destroy_process_group = noted
    else:
        time.sleep(0.3)
    return time.time()


def test_a_rank_that_is_done_stays_in_the_group_until_the_others_are(tmp_path):
    done = on_ranks(leave_early, 3, tmp_path / "left")
    assert float((tmp_path / "left").read_text()) >= max(done)


def fail_on_one(share):
    if share.rank == 1:
        raise ValueError("rank 1 alone")
    return share.rank


def test_nobody_waits_for_a_rank_that_failed():
    started = time.monotonic()
    with pytest.raises(RankCrash, match="raises on rank 1 of 3: ValueError: rank 1 alone"):
        on_ranks(fail_on_one, 3)
    assert time.monotonic() - started < 30


def die(share):
    os.kill(os.getpid(), signal.SIGKILL)


def test_how_a_rank_died_is_told():
    with pytest.raises(RankCrash, match=r"raises on rank 0: it died \(exit status -9\)"):
        on_ranks(die, 1)
