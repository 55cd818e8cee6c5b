"""The kit finds what is wrong with a memory, and says it; every registered one keeps what it asks."""

from __future__ import annotations

from dataclasses import replace
from importlib.metadata import entry_points

import pytest
import torch
from torch import nn

from metriclab import distributed
from metriclab.core.rows import Rows, rows
from metriclab.registry import build, load_component
from metriclab.testing import check_memory

CLASSES = torch.tensor([0, 1, 2, 5])
MEMORIES = sorted({point.name for point in entry_points(group="metriclab.memory")})


def small(name, **parameters):
    """Built with a size of 10 where it has one."""
    sized = {"size": 10} if any(p.name == "size" for p in load_component("memory", name).parameters) else {}
    return build("memory", name, 6, CLASSES, **(sized | parameters))


@pytest.mark.parametrize("name", MEMORIES)
def test_registered_memory(name):
    check_memory(small(name))


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("ring", {"size": 1}),
        ("ring", {"size": 9, "dtype": "float16"}),
        ("ring", {"size": 9, "dtype": "bfloat16"}),
        ("ring", {"size": 400}),
        ("proxies", {"per_class": 3}),
    ],
)
def test_other_settings_of_built_in_memories(name, parameters):
    check_memory(small(name, **parameters), ranks=False)


def test_a_memory_half_full_passes_too_and_is_left_as_it_was():
    memory = small("ring")
    memory.push(Rows(torch.eye(6)[:3], *(torch.arange(3) for _ in range(4))))
    memory.eval()
    before = {key: value.clone() for key, value in memory.state_dict().items()}
    check_memory(memory, ranks=False)
    assert all(torch.equal(value, before[key]) for key, value in memory.state_dict().items())
    assert not memory.training


class Shelf(nn.Module):
    """A good memory: ten places, first in, first out."""

    def __init__(self) -> None:
        super().__init__()
        empty = -(2**62) - torch.arange(10)
        self.register_buffer("z", torch.zeros(10, 6))
        self.register_buffer("keys", torch.stack([torch.full((10,), -1), empty, empty, torch.zeros(10).long()]))
        self.register_buffer("pointer", torch.tensor(0))

    def rows(self):
        return Rows(self.z, *self.keys)

    def push(self, rows):
        if self.training:
            self.store(self.choose(rows).detach())

    def choose(self, rows):
        rows = rows[rows.ids.argsort()]
        return rows[rows.z.isfinite().all(1).nonzero()[:, 0]]

    def store(self, rows):
        rows = rows[-10:]
        slots = (self.pointer + torch.arange(len(rows))) % 10
        self.z = self.z.index_copy(0, slots, rows.z)
        self.keys = self.keys.index_copy(1, slots, keys_of(rows))
        self.pointer = (self.pointer + len(rows)) % 10


def keys_of(rows):
    return torch.stack([rows.labels, rows.items, rows.ids, rows.views])


class NoModule:
    def rows(self):
        return Shelf().rows()

    def push(self, rows):
        pass


class Grows(Shelf):
    def store(self, rows):
        self.z, self.keys = torch.cat([self.z, rows.z]), torch.cat([self.keys, keys_of(rows)], 1)


class OneEmptyId(Shelf):
    def __init__(self):
        super().__init__()
        self.keys[2] = -(2**62)


class IdsOfOthers(Shelf):
    def rows(self):
        held = super().rows()
        coming = int(rows(held.z[:1], held.labels[:1]).ids) - 1  # what the next call of rows() gives
        return Rows(held.z, held.labels, held.items, coming - torch.arange(10), held.views)


class EmptyOfClassZero(Shelf):
    def __init__(self):
        super().__init__()
        self.keys[0] = 0


class EmptyOnesReturn(Shelf):
    """Gives unknown labels the label 0 when read."""

    def rows(self):
        held = super().rows()
        return replace(held, labels=held.labels.clamp(min=0))


class NotRows(Shelf):
    def rows(self):
        return super().rows().keys


class Raw(Shelf):
    def rows(self):
        held = super().rows()
        return replace(held, z=3 * held.z)


class Half(Shelf):
    def rows(self):
        held = super().rows()
        return replace(held, z=held.z.half())


class NarrowLabels(Shelf):
    def rows(self):
        held = super().rows()
        object.__setattr__(held, "labels", held.labels.int())  # past the check that only tests have
        return held


class SwapsLabels(Shelf):
    def store(self, rows):
        super().store(replace(rows, labels=rows.labels.flip(0)))


class Turns(Shelf):
    def store(self, rows):
        super().store(replace(rows, z=rows.z.roll(1, 1)))


class OwnIds(Shelf):
    def store(self, rows):
        super().store(replace(rows, ids=rows.ids + 1000))


class Writes(Shelf):
    def push(self, rows):
        super().push(rows)
        rows.labels.clamp_(min=0)


class KeepsGraph(Shelf):
    def push(self, rows):
        if self.training:
            self.store(self.choose(rows))


class StoresNaN(Shelf):
    def choose(self, rows):
        return rows[rows.ids.argsort()]


class ByPosition(Shelf):
    def choose(self, rows):
        return rows[rows.z.isfinite().all(1).nonzero()[:, 0]]


class InEval(Shelf):
    def push(self, rows):
        self.store(self.choose(rows).detach())


class HiddenPointer(Shelf):
    """Its pointer is a number of Python's, which no checkpoint holds."""

    def __init__(self):
        super().__init__()
        self.place = 0

    def store(self, rows):
        self.pointer.fill_(self.place)
        super().store(rows)
        self.place = int(self.pointer)


class NotCopied(Shelf):
    def __deepcopy__(self, memo):
        return self


class HoldsAFunction(Shelf):
    def __init__(self):
        super().__init__()
        self.key = lambda rows: rows.ids


class FirstRankOnly(Shelf):
    def choose(self, rows):
        return super().choose(rows)[: None if distributed.rank() == 0 else 0]


@pytest.mark.parametrize(
    ("memory", "complaint"),
    [
        (NoModule, "NoModule is no nn.Module: its state could not be saved"),
        (Grows, r"Grows has rows of shape \(14, 6\) after push 0, \(10, 6\) before: shapes stay, so empty"),
        (OneEmptyId, "OneEmptyId has two rows of one id as built"),
        (IdsOfOthers, r"IdsOfOthers has an id as built that rows\(\) gives to others"),
        (EmptyOfClassZero, "EmptyOfClassZero has an empty place of label 0 as built: make it -1"),
        (EmptyOnesReturn, "EmptyOnesReturn has an empty place of label 0 as built: make it -1"),
        (NotRows, "NotRows.rows returns a Keys, not Rows"),
        (Half, "Half gives torch.float16 as built: read it in float32"),
        (Raw, "Raw holds a row of length 3 after push 0: give rows of norm 1 or 0"),
        (NarrowLabels, "NarrowLabels has labels of type torch.int32 as built, expected int64"),
        (SwapsLabels, r"SwapsLabels gives rows back with labels \[.*\], which were pushed with \["),
        (Turns, "Turns gives a row back whose cosine with what was pushed is"),
        (OwnIds, "OwnIds holds a row of id 4294968296, which was never pushed"),
        (Writes, "Writes.push writes into the rows it is given"),
        (KeepsGraph, "KeepsGraph keeps the graph of what is pushed: push under no_grad, or detach"),
        (StoresNaN, "StoresNaN stores a row that holds nan: one bad row would spoil every later loss"),
        (InEval, r"InEval stores rows in eval\(\): check self.training in push"),
        (ByPosition, "ByPosition holds something else after push 5 by the order of its rows"),
        (HiddenPointer, "HiddenPointer goes on differently after its state was saved and loaded after 1 pushes"),
        (NotCopied, "a push into a deep copy of NotCopied changes the original: they share state"),
        (HoldsAFunction, "no pickled copy of HoldsAFunction can be made"),
        (FirstRankOnly, "FirstRankOnly does not hold the same on several ranks: .* on rank 1 of 2"),
    ],
)
def test_what_is_wrong_with_a_memory_is_said(memory, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_memory(memory())


def test_a_good_memory_passes():
    check_memory(Shelf())
