"""Miners that choose among negatives alone: the hardest k, and all but those that look like positives."""

from __future__ import annotations

import pytest
import torch

from metriclab.core.pairs import all_pairs
from metriclab.core.rows import rows
from metriclab.registry import build
from tests.support.mining import agree, first_anchor, on_circle

TIE = 1e-12


def ordered(negatives):
    return sorted((n.similarity for n in negatives), reverse=True)


@pytest.mark.parametrize("k", [1, 3, 100])
def test_the_k_hardest(k):
    def choice(positives, negatives):
        border = ordered(negatives)[min(k, len(negatives)) - 1] if negatives else 0
        return positives, [n for n in negatives if n.similarity >= border - TIE]

    agree("top-k-negatives", choice, k=k)


def test_the_hardest_are_k_unless_some_tie():
    given = on_circle(0, 5, 10, 20, -20, 40, labels=[0, 0, 1, 1, 1, 1])
    assert first_anchor(build("miner", "top-k-negatives", k=1), given) == ({1}, {2})
    assert first_anchor(build("miner", "top-k-negatives", k=2), given) == ({1}, {2, 3, 4})
    assert first_anchor(build("miner", "top-k-negatives", k=3), given) == ({1}, {2, 3, 4})
    assert first_anchor(build("miner", "top-k-negatives", k=4), given) == ({1}, {2, 3, 4, 5})


@pytest.mark.parametrize("k", [1, 3, 100])
@pytest.mark.parametrize("threshold", [-1.0, 0.3, 0.7, 1.0])
def test_those_that_look_like_positives(threshold, k):
    def choice(positives, negatives):
        next_one = [*ordered(negatives), *[-9.0] * (k + 1)][k]
        alike = [n for n in negatives if n.similarity > threshold and n.similarity > next_one + TIE]
        return positives, [n for n in negatives if n not in alike]

    agree("false-negatives", choice, threshold=threshold, k=k)


def test_both_the_threshold_and_k_bound_what_is_left_out():
    given = on_circle(0, 5, 10, 20, 30, 80, labels=[0, 0, 1, 2, 3, 4])  # cosines 0.98, 0.94, 0.87, 0.17
    assert first_anchor(build("miner", "false-negatives", threshold=0.9, k=4), given) == ({1}, {4, 5})
    assert first_anchor(build("miner", "false-negatives", threshold=0.9, k=1), given) == ({1}, {3, 4, 5})
    assert first_anchor(build("miner", "false-negatives", threshold=-1.0, k=3), given) == ({1}, {5})
    assert first_anchor(build("miner", "false-negatives", threshold=-1.0, k=4), given) == ({1}, set())


def test_collapsed_embeddings_keep_what_drives_them_apart():
    z = torch.ones(12, 4) + 1e-3 * torch.randn(12, 1)  # rows of one direction and unlike lengths
    pairs = all_pairs(rows(z, torch.arange(12)), rows(z, torch.arange(12)))
    assert torch.equal(build("miner", "false-negatives", k=3)(pairs).negative, pairs.negative)


def test_images_of_one_class_no_longer_repel_each_other():
    centres = torch.nn.functional.one_hot(torch.arange(20) % 4, 8).double()
    batch = rows(centres + 0.05 * torch.randn(20, 8, dtype=torch.float64), torch.arange(20))
    mined = build("miner", "false-negatives", k=4)(all_pairs(batch, batch))
    apart = torch.arange(20)[:, None] % 4 != torch.arange(20) % 4
    assert torch.equal(mined.negative, apart)
