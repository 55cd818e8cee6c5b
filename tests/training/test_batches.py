"""The order of items: a pure function of seed and epoch."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.assembly.assemble import assemble
from metriclab.assembly.splits import load_splits
from metriclab.training.batches import coverage, epoch_order
from tests.support.tiny import run, tiny


class LabelledFile:
    """A sampler that gives the batches it was told."""

    batch_size = 3

    def __init__(self, batches: list[list[int]]) -> None:
        self.batches, self.steps, self.seeds = batches, len(batches), []

    def epoch(self, seed: int, /) -> list[np.ndarray]:
        self.seeds.append(seed)
        return [np.array(batch) for batch in self.batches]


@settings(deadline=None, max_examples=50)
@given(st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=4), min_size=1, max_size=5))
def test_draws_count_the_appearances_of_an_item_in_the_epoch(batches):
    seen: dict[int, int] = {}
    expected = []
    for batch in batches:
        draws = []
        for item in batch:
            draws.append(seen.get(item, 0))
            seen[item] = draws[-1] + 1
        expected.append(draws)
    order = list(epoch_order(LabelledFile(batches), 6, seed=3, epoch=1))
    assert [items.tolist() for items, _ in order] == batches
    assert [draws.tolist() for _, draws in order] == expected


def test_every_epoch_has_a_seed_of_its_own_and_seeds_differ():
    sampler = LabelledFile([[0]])
    for seed in (0, 1):
        for epoch in (0, 1, 0):
            next(epoch_order(sampler, 1, seed, epoch))
    assert sampler.seeds[0] == sampler.seeds[2]
    assert len(set(sampler.seeds)) == 4


def test_what_an_epoch_leaves_out_is_said(tmp_path):
    def said(*overrides):
        recipe = tiny(tmp_path, *overrides)
        return coverage(assemble(recipe, load_splits(recipe).train))

    assert said() is None
    labels = load_splits(tiny(tmp_path)).train.labels
    more_than_half = len(labels) // len(set(labels.tolist())) // 2 + 1  # so that the rest of a class makes no group
    balanced = ("sampler.name=balanced", "sampler.classes_per_batch=2", f"sampler.per_class={more_than_half}")
    text = said(*balanced)
    assert text is not None
    assert text.startswith("an epoch draws ")
    assert f" of {len(labels):,} training images, of " in text
    assert text in [step.message for step in run(tiny(tmp_path, *balanced, "train.steps=1"), tmp_path / "run")]
