"""Pairs: who is alike, decided by identity."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.core.pairs import all_pairs
from metriclab.core.rows import concatenate, rows

label_lists = st.lists(st.integers(-2, 2), min_size=1, max_size=8)


@settings(deadline=None, max_examples=30)
@given(label_lists, label_lists)
def test_compare_is_what_a_loop_over_cells_gives(first, second):
    anchors = rows(torch.randn(len(first), 3, dtype=torch.float64), torch.tensor(first))
    references = concatenate([rows(torch.randn(len(second), 3, dtype=torch.float64), torch.tensor(second)), anchors])
    pairs = all_pairs(anchors, references)
    for i in range(len(anchors)):
        for j in range(len(references)):
            one, other = int(anchors.labels[i]), int(references.labels[j])
            usable = one >= 0 and other >= 0 and int(anchors.ids[i]) != int(references.ids[j])
            assert bool(pairs.positive[i, j]) == (usable and one == other)
            assert bool(pairs.negative[i, j]) == (usable and one != other)
            cosine = sum(float(a * b) for a, b in zip(anchors.z[i], references.z[j], strict=True))
            assert abs(float(pairs.similarity[i, j]) - cosine) < 1e-14


def test_singletons_never_pair_with_themselves():
    alone = rows(torch.randn(6, 3), torch.arange(6))
    assert not all_pairs(alone, alone).positive.any()


def test_a_memory_that_holds_the_batch_does_not_pair_a_row_with_its_copy():
    batch = rows(torch.randn(3, 4), torch.tensor([0, 0, 1]))
    memory = concatenate([rows(torch.randn(2, 4), torch.tensor([0, 1])), batch])
    assert all_pairs(batch, memory).positive.tolist() == [
        [True, False, False, True, False],
        [True, False, True, False, False],
        [False, True, False, False, False],
    ]


def test_similarities_are_float32_under_autocast():
    some = rows(torch.randn(3, 4), torch.arange(3))
    with torch.autocast("cpu", torch.bfloat16):
        assert all_pairs(some, some).similarity.dtype == torch.float32
