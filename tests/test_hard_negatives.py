"""Hard negatives: classes whose centres are near, against a search in loops."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.core.rows import normalize
from metriclab.errors import RecipeError
from metriclab.samplers import Balanced, HardNegatives

LABELS = np.repeat(np.arange(12), [4, 5, 4, 1, 8, 4, 4, 4, 9, 4, 4, 4])
LABELS[::13] = -1


def near_by_loops(z: np.ndarray, labels: np.ndarray, per_class: int) -> list[list[int]]:
    """The other classes with enough items by the cosine of their means, the nearest first."""
    drawn = [label for label in range(labels.max() + 1) if (labels == label).sum() >= per_class]
    centres = [sum(z[item].astype(float) for item in np.flatnonzero(labels == label)) for label in drawn]

    def cosine(one, other):
        return one @ other / math.sqrt(one @ one) / math.sqrt(other @ other)

    return [
        sorted((at for at in range(len(drawn)) if at != place), key=lambda at: -cosine(centres[place], centres[at]))
        for place in range(len(drawn))
    ]


def embeddings(seed: int) -> torch.Tensor:
    return normalize(torch.randn(len(LABELS), 6, generator=torch.Generator().manual_seed(seed)))


def sampler(**settings) -> HardNegatives:
    return HardNegatives(LABELS, **{"classes_per_batch": 6, "per_class": 2, "every": 1, **settings})


@pytest.mark.parametrize("seed", range(3))
def test_near_are_the_classes_with_the_nearest_centres(seed):
    hard = sampler()
    hard.use_embeddings(embeddings(seed))
    expected = near_by_loops(embeddings(seed).numpy(), LABELS, 2)
    assert hard.neighbours.tolist() == [near[:5] for near in expected]


@settings(deadline=None, max_examples=30)
@given(st.integers(0, 2**62), st.sampled_from([1, 2, 5]))
def test_every_class_drawn_brings_its_nearest(seed, near):
    hard = sampler(near=near)
    hard.use_embeddings(embeddings(1))
    batches = list(hard.epoch(seed))
    assert len(batches) == hard.steps == Balanced(LABELS, classes_per_batch=6, per_class=2).steps
    place_of = {label: place for place, label in enumerate(hard.items.labels[hard.drawn])}
    for batch in batches:
        classes = LABELS[batch].reshape(6, 2)
        assert (classes[:, 0] == classes[:, 1]).all()
        assert len(set(batch.tolist())) == 12
        places = [place_of[label] for label in classes[:, 0]]
        assert len(set(places)) == 6
        drawn, taken = places[:: near + 1], set(places[:: near + 1])
        for at, one in enumerate(drawn):
            brought = places[at * (near + 1) + 1 : (at + 1) * (near + 1)]
            free = [other for other in hard.neighbours[one].tolist() if other not in taken]
            assert brought == free[:near]
            taken |= set(brought)


def test_equally_near_classes_come_in_their_order():
    hard = sampler()
    hard.use_embeddings(torch.ones(len(LABELS), 3) / math.sqrt(3))
    assert hard.neighbours[0].tolist() == [1, 2, 3, 4, 5]
    assert hard.neighbours[3].tolist() == [0, 1, 2, 4, 5]


def test_what_is_near_is_asked_for_every_so_many_epochs():
    assert [epoch for epoch in range(7) if sampler(every=3).needs_embeddings(epoch)] == [0, 3, 6]
    assert [epoch for epoch in range(7) if sampler(every=3, source="run").needs_embeddings(epoch)] == [3, 6]
    assert not any(sampler(every=None, source="run").needs_embeddings(epoch) for epoch in range(7))


def test_settings_that_do_not_fit_are_refused():
    message = r"classes_per_batch = 7 is no multiple of sampler.near \+ 1 = 3\n.*set it to 9, or another sampler.near"
    with pytest.raises(RecipeError, match=message):
        sampler(classes_per_batch=7, near=2)
    message = r"'hard-negatives' is not told by which embeddings classes are near each other\n.*set sampler.every to a"
    with pytest.raises(RecipeError, match=message):
        sampler(every=None)
    with pytest.raises(RecipeError, match=r"classes_per_batch = 12 is more than the 11 classes that can be drawn from"):
        sampler(classes_per_batch=12)
