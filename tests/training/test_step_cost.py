"""What a step costs does not depend on how many items there are, nor on how long the run has been going."""

from __future__ import annotations

import tracemalloc
from collections import Counter

import numpy as np
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from metriclab.assembly.assemble import assemble
from metriclab.core.batch import Images
from metriclab.training.fit import fit
from metriclab.views import device
from tests.support.tiny import tiny

STEPS = 4


class Endless:
    """As many items as one likes, of a few images; it notes how many were asked for at once."""

    classes = ("one", "two")
    fingerprint = "0"
    names = ()  # a step needs none

    def __init__(self, count: int) -> None:
        self.labels = np.arange(count) % 2
        self.asked: list[int] = []
        self._pixels = np.random.default_rng(0).integers(0, 256, (64, 3, 12, 12), dtype=np.uint8)

    def images(self, items: np.ndarray, /) -> Images:
        self.asked.append(len(items))
        return Images.padded(list(self._pixels[items % 64]))


class Operators(TorchDispatchMode):
    """Counts operators by name, and the bytes of what they return."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self.bytes = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        self.calls[str(function)] += 1
        self.bytes += sum(leaf.nbytes for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        return result


def cost_of_steps(folder, count):
    """Operators, bytes they return, images read, and the peak of everything else, in steps after the first."""
    data = Endless(count)
    training = assemble(tiny(folder, f"train.steps={STEPS}"), data)
    data.asked.clear()
    steps = fit(training, 0)
    next(steps)  # makes the order of the whole epoch
    next(steps)
    with Operators() as operators:
        tracemalloc.start()
        try:
            for _ in range(STEPS - 2):
                next(steps)
            peak = tracemalloc.get_traced_memory()[1]
        finally:
            tracemalloc.stop()
    return operators.calls, operators.bytes, sum(data.asked), peak


def test_steps_cost_the_same_with_a_hundred_times_the_items(tmp_path, monkeypatch):
    monkeypatch.setattr(device, "is_cpu", lambda x: False)  # else views pass over what happens to change nothing
    small, *others = (cost_of_steps(tmp_path, count) for count in (1_000, 10_000, 100_000))
    for calls, written, read, peak in others:
        assert calls == small[0]
        assert written == small[1]
        assert read == small[2] == STEPS * 16
        assert peak < small[3] + 100_000  # an order of 100,000 items alone takes 800,000 bytes


def test_memory_stays_flat_over_many_steps(tmp_path):
    steps = fit(assemble(tiny(tmp_path, "train.steps=14"), Endless(64)), 0)
    for _ in range(4):
        next(steps)
    tracemalloc.start()
    try:
        held = []
        for _ in range(2):
            for _ in range(4):
                next(steps)
            held.append(tracemalloc.get_traced_memory()[0])
    finally:
        tracemalloc.stop()
    assert held[1] - held[0] < 20_000  # less than what one batch of images takes a step
