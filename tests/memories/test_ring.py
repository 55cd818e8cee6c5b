"""Memories: against lists, over the wrap, with half precision, on what must not be stored."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.core.rows import Rows, concatenate, count_positives, rows
from metriclab.distributed import gather
from metriclab.memories.ring import Ring
from metriclab.registry import build
from metriclab.testing import two_ranks

QUICK = settings(deadline=None, max_examples=60)
NO_CLASSES = torch.arange(0)


def ring(size: int, width: int = 3, **options) -> Ring:
    return Ring(width, size=size, **options)


def numbered(start: int, count: int, broken: tuple[int, ...] = ()) -> Rows:
    """Rows with ids start..start + count - 1, by which all else can be told; some of them not finite."""
    ids = torch.arange(start, start + count)
    z = torch.randn(count, 3)
    for place in broken:
        z[place, place % 3] = (math.nan, math.inf)[place % 2]
    return rows(z, ids % 4, ids % 7, ids, ids % 2)


def content(memory: Ring) -> dict[int, tuple]:
    """What it holds, by id, without its empty slots."""
    held = memory.rows()
    filled = held.ids >= 0
    assert int(filled.sum()) == int(memory.count)
    columns = (held.labels, held.items, held.views, held.z)
    return {int(i): tuple(c[n].tolist() for c in columns) for n, i in enumerate(held.ids) if filled[n]}


def expected(pushed: list[Rows], size: int) -> dict[int, tuple]:
    """The last `size` finite rows of a list."""
    kept = []
    for part in pushed:
        by_id = sorted(range(len(part)), key=lambda n: int(part.ids[n]))
        for n in by_id:
            if all(math.isfinite(x) for x in part.z[n].tolist()):
                columns = (part.labels, part.items, part.views, part.z)
                kept.append((int(part.ids[n]), tuple(c[n].tolist() for c in columns)))
    return dict(kept[-size:])


@st.composite
def pushes(draw) -> list[Rows]:
    """Batches of any sizes, shuffled, with rows that are not finite here and there."""
    parts, start = [], 0
    for count in draw(st.lists(st.integers(0, 12), max_size=8)):
        broken = draw(st.sets(st.integers(0, count - 1), max_size=count)) if count else set()
        part = numbered(start, count, tuple(broken))
        parts.append(part[torch.tensor(draw(st.permutations(range(count))), dtype=torch.int64)])
        start += count
    return parts


@QUICK
@given(pushes(), st.integers(1, 9))
def test_it_holds_the_last_finite_rows_whatever_the_sizes_of_batches_and_memory(parts, size):
    memory = ring(size)
    for done, part in enumerate(parts):
        memory.push(part)
        assert content(memory) == expected(parts[: done + 1], size)
        assert len(memory.rows()) == size


@QUICK
@given(pushes(), st.integers(1, 9), st.data())
def test_saved_and_loaded_anywhere_it_goes_on_bit_by_bit(parts, size, data):
    cut = data.draw(st.integers(0, len(parts)))
    whole, loaded = ring(size), ring(size)
    for part in parts[:cut]:
        whole.push(part)
    loaded.load_state_dict({name: value.clone() for name, value in whole.state_dict().items()})
    for part in parts[cut:]:
        whole.push(part)
        loaded.push(part)
    for name, value in whole.state_dict().items():
        assert torch.equal(value, loaded.state_dict()[name]), name


@QUICK
@given(pushes(), st.integers(1, 9), st.randoms(use_true_random=False))
def test_slot_by_slot_it_does_not_depend_on_the_order_in_a_batch(parts, size, random):
    one, other = ring(size), ring(size)
    for part in parts:
        order = list(range(len(part)))
        random.shuffle(order)
        one.push(part)
        other.push(part[torch.tensor(order, dtype=torch.int64)])
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def fill(share, size):
    memory = ring(size)
    for step in range(4):
        torch.manual_seed(step)
        whole = numbered(20 * step, 5, broken=(1,))
        views = concatenate([whole[share.of(5)], Rows(whole.z, *_second_view(whole))[share.of(5)]])
        memory.push(gather(views))
    return dict(memory.state_dict())


def _second_view(whole: Rows) -> tuple:
    return whole.labels, whole.items, whole.ids + 10, whole.views + 1


@pytest.mark.parametrize("size", [7, 16])
def test_every_rank_holds_the_memory_of_one_process(size):
    # Gathered rows come rank by rank, each with its views: in another order than one process has them.
    two_ranks(fill, size, tolerance=0.0)


def test_a_batch_of_the_size_of_the_memory_replaces_it():
    memory = ring(4)
    memory.push(numbered(0, 3))
    memory.push(numbered(3, 4))
    assert sorted(content(memory)) == [3, 4, 5, 6]


def test_of_a_batch_larger_than_the_memory_the_newest_stay():
    memory = ring(4)
    memory.push(numbered(0, 3))
    memory.push(numbered(3, 11))
    assert sorted(content(memory)) == [10, 11, 12, 13]
    memory.push(numbered(14, 1))
    assert sorted(content(memory)) == [11, 12, 13, 14]


def test_one_row_that_is_not_finite_does_not_poison_it():
    memory = ring(5)
    memory.push(numbered(0, 4, broken=(0, 3)))
    assert sorted(content(memory)) == [1, 2]
    assert memory.rows().z.isfinite().all()
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    memory.push(numbered(4, 3, broken=(0, 1, 2)))
    assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())


def test_nothing_is_stored_in_eval():
    memory = ring(5)
    memory.push(numbered(0, 3))
    memory.eval()
    memory.push(numbered(3, 3))
    assert sorted(content(memory)) == [0, 1, 2]
    memory.train()
    memory.push(numbered(6, 3))
    assert sorted(content(memory)) == [1, 2, 6, 7, 8]


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_half_precision_is_read_as_unit_rows_in_float32(dtype):
    memory, pushed = ring(8, dtype=dtype), numbered(0, 6)
    memory.push(pushed)
    assert memory.slots.z.dtype == getattr(torch, dtype)
    read = memory.rows()
    order = read.ids[read.ids >= 0].argsort()
    z = read.z[read.ids >= 0][order]
    assert z.dtype == torch.float32
    torch.testing.assert_close(z.norm(dim=1), torch.ones(6), atol=1e-6, rtol=0)
    torch.testing.assert_close(z, pushed.z, atol=1e-3 if dtype == "float16" else 1e-2, rtol=0)
    assert not read.z[read.ids < 0].any()


@pytest.mark.parametrize("loss", ["contrastive", "triplet", "nt-xent"])
@pytest.mark.parametrize("filled", [0, 3, 20])
def test_no_loss_sees_an_empty_slot(loss, filled):
    memory, anchors, compared = ring(24), numbered(100, 5), build("loss", loss)
    memory.push(numbered(0, filled))
    held = memory.rows()
    alone = held[held.ids >= 0]
    found = compared(anchors, held)
    assert float(found) == pytest.approx(float(compared(anchors, alone)) if filled else 0.0, rel=1e-5, abs=1e-6)
    if filled:
        assert torch.equal(count_positives(anchors, held), count_positives(anchors, alone))


def test_empty_slots_have_ids_of_their_own():
    memory = ring(6)
    memory.push(numbered(0, 2))
    held = memory.rows()
    assert len(held.ids.unique()) == 6
    assert not torch.isin(rows(torch.randn(50, 3), torch.zeros(50, dtype=torch.int64)).ids, held.ids).any()
    assert (held.labels[held.ids < 0] == -1).all()


def test_no_gradient_flows_into_it():
    memory, z = ring(4), torch.randn(2, 3, requires_grad=True)
    memory.push(rows(z, torch.tensor([0, 1])))
    assert not memory.rows().z.requires_grad


def test_it_is_a_component_of_its_kind():
    memory = build("memory", "ring", 3, NO_CLASSES, size=4)
    memory.push(numbered(0, 2))
    assert sorted(content(memory)) == [0, 1]
