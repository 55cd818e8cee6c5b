"""The pairs of the multi-similarity loss against loops from Wang et al. 2019, and against a peer."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.miners import MultiSimilarityMiner

from metriclab.core.pairs import all_pairs
from metriclab.core.rows import rows
from metriclab.registry import build
from tests.support.mining import LABELS, agree, chosen, first_anchor, on_circle, several

TIE = 1e-12


def by_loops(epsilon):
    def choice(positives, negatives):
        if not positives or not negatives:
            return [], []
        nearest, farthest = max(n.similarity for n in negatives), min(p.similarity for p in positives)
        return (
            [p for p in positives if p.similarity < nearest + epsilon + TIE],
            [n for n in negatives if n.similarity > farthest - epsilon - TIE],
        )

    return choice


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.7])
def test_the_definition(epsilon):
    agree("multi-similarity", by_loops(epsilon), epsilon=epsilon)


@pytest.mark.parametrize("epsilon", [0.0, 0.1, 0.7])
def test_as_in_pytorch_metric_learning(epsilon):
    # Also with a class of one row. Where the peer is right: no label is unknown.
    z, labels = torch.randn(25, 5, dtype=torch.float64), torch.cat([torch.arange(24) % 5, torch.tensor([9])])
    batch = rows(z, labels)
    a1, p, a2, n = (index.tolist() for index in MultiSimilarityMiner(epsilon=epsilon)(z, labels))
    mined = chosen(build("miner", "multi-similarity", epsilon=epsilon)(all_pairs(batch, batch)))
    assert {(a, place) for a, (places, _) in enumerate(mined) for place in places} == set(zip(a1, p, strict=True))
    assert {(a, place) for a, (_, places) in enumerate(mined) for place in places} == set(zip(a2, n, strict=True))


def test_it_is_the_hard_and_the_semihard_pairs():
    both = build("miner", "multi-similarity", epsilon=0.2)
    parts = [build("miner", "hard-pairs"), build("miner", "semihard-pairs", margin=0.4, sides="both")]
    for labels in LABELS:
        for pairs in several(labels):
            whole, (hard, semihard) = both(pairs), (part(pairs) for part in parts)
            assert torch.equal(whole.positive, hard.positive | semihard.positive)
            assert torch.equal(whole.negative, hard.negative | semihard.negative)


def test_an_anchor_lacking_one_side_has_no_pair():
    for labels in ([0, 1, 2], [0, 0, 0]):
        assert first_anchor(build("miner", "multi-similarity"), on_circle(0, 1, 2, labels=labels)) == (set(), set())


def test_with_the_loss_of_its_name_every_anchor_still_counts():
    batch = rows(torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 0, 1, 1, 2, 3]))
    loss, miner = build("loss", "multi-similarity"), build("miner", "multi-similarity")
    mined = loss(batch, batch, miner=miner)
    each = [loss(batch[i : i + 1], batch, miner=miner) for i in range(6)]
    torch.testing.assert_close(mined, sum(each) / 6)
