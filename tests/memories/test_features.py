"""The memory of frozen features: against a list, over the wrap, an item once, on what must not be stored."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.core.rows import Rows, rows
from metriclab.distributed import gather
from metriclab.memories.features import Features
from metriclab.registry import build
from metriclab.testing import two_ranks
from metriclab.testing.memory import check_memory

QUICK = settings(deadline=None, max_examples=60)
NO_CLASSES = torch.arange(0)


def features(size: int, **options) -> Features:
    return Features(3, size=size, **options)


def made(start: int, items: list[int], broken: tuple[int, ...] = ()) -> Rows:
    """Rows of these items with ids from start on; some of them not finite."""
    ids = torch.arange(start, start + len(items))
    z = torch.randn(len(items), 3)
    for place in broken:
        z[place, place % 3] = (math.nan, math.inf)[place % 2]
    return rows(z, ids % 4 - 1, torch.tensor(items, dtype=torch.int64), ids, ids % 2)


def content(memory: Features) -> dict[int, tuple]:
    """What it holds, by item, without its empty slots."""
    held = memory.rows()
    columns = (held.ids, held.labels, held.views, held.z)
    filled = [n for n, item in enumerate(held.items.tolist()) if item >= 0]
    assert all(int(held.labels[n]) == -1 and not held.z[n].any() for n in set(range(len(held))) - set(filled))
    items = [int(held.items[n]) for n in filled]
    assert len(items) == len(set(items))
    return {item: tuple(c[n].tolist() for c in columns) for item, n in zip(items, filled, strict=True)}


def expected(pushed: list[Rows], size: int) -> dict[int, tuple]:
    """A dictionary kept in the order of the last push of its items."""
    kept: dict[int, tuple] = {}
    for part in pushed:
        for n in sorted(range(len(part)), key=lambda n: int(part.ids[n])):
            if all(math.isfinite(x) for x in part.z[n].tolist()):
                item = int(part.items[n])
                kept.pop(item, None)
                kept[item] = tuple(c[n].tolist() for c in (part.ids, part.labels, part.views, part.z))
    return dict(list(kept.items())[-size:])


@st.composite
def pushes(draw) -> list[Rows]:
    """Batches of any sizes, shuffled, that draw some items again, with rows that are not finite here and there."""
    parts, start = [], 0
    for items in draw(st.lists(st.lists(st.integers(0, 12), max_size=12), max_size=8)):
        broken = draw(st.sets(st.integers(0, len(items) - 1), max_size=3)) if items else set()
        part = made(start, items, tuple(broken))
        parts.append(part[torch.tensor(draw(st.permutations(range(len(items)))), dtype=torch.int64)])
        start += len(items)
    return parts


@QUICK
@given(pushes(), st.integers(1, 15))
def test_it_holds_the_last_items_whatever_the_sizes_of_batches_and_memory(parts, size):
    memory = features(size)
    for done, part in enumerate(parts):
        memory.push(part)
        assert content(memory) == expected(parts[: done + 1], size)
        assert len(memory.rows()) == size


@pytest.mark.parametrize("size", [1, 4, 5, 7, 11, 100])
def test_after_t_pushes_of_distinct_items_it_is_the_last_rows_first_in_first_out(size):
    memory = features(size)
    for t in range(6):
        memory.push(made(5 * t, list(range(5 * t, 5 * t + 5))))
        newest = 5 * t + 5
        assert sorted(content(memory)) == list(range(max(0, newest - size), newest))


@QUICK
@given(pushes(), st.integers(1, 9), st.data())
def test_saved_and_loaded_anywhere_it_goes_on_bit_by_bit(parts, size, data):
    cut = data.draw(st.integers(0, len(parts)))
    whole, loaded = features(size), features(size)
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
    one, other = features(size), features(size)
    for part in parts:
        order = list(range(len(part)))
        random.shuffle(order)
        one.push(part)
        other.push(part[torch.tensor(order, dtype=torch.int64)])
    for name, value in one.state_dict().items():
        assert torch.equal(value, other.state_dict()[name]), name


def fill(share, size):
    memory = features(size)
    for step in range(4):
        torch.manual_seed(step)
        whole = made(20 * step, [3 * step, 4, 3 * step + 1, 4, 5 + step], broken=(1,))
        memory.push(gather(whole[share.of(5)]))
    return dict(memory.state_dict())


@pytest.mark.parametrize("size", [4, 16])
def test_every_rank_holds_the_memory_of_one_process(size):
    two_ranks(fill, size, tolerance=0.0)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_it_keeps_what_a_memory_keeps(dtype):
    check_memory(build("memory", "features", 3, NO_CLASSES, size=10, dtype=dtype), ranks=dtype == "float32")


def test_an_item_that_is_not_finite_now_keeps_its_older_row():
    memory = features(5)
    memory.push(made(0, [7, 8]))
    before = content(memory)
    memory.push(made(2, [7], broken=(0,)))
    assert content(memory) == before


def test_nothing_is_stored_in_eval():
    memory = features(5)
    memory.push(made(0, [1, 2]))
    memory.eval()
    memory.push(made(2, [3]))
    assert sorted(content(memory)) == [1, 2]


def test_what_was_pushed_with_a_gradient_is_stored_without():
    memory, z = features(4), torch.randn(2, 3, requires_grad=True)
    memory.push(rows(z, torch.tensor([0, 1])))
    assert not memory.rows().z.requires_grad
