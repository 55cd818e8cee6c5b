"""Batch-hard mining against loops from Hermans et al. 2017, and against a peer."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.miners import BatchEasyHardMiner

from metriclab.core.pairs import all_pairs
from metriclab.core.rows import rows
from metriclab.registry import build
from tests.support.mining import agree, chosen, first_anchor, on_circle

TIE = 1e-12


def by_loops(positive):
    def choice(positives, negatives):
        nearest = max((n.similarity for n in negatives), default=0)
        hard = [n for n in negatives if n.similarity >= nearest - TIE]
        if positive == "farthest":
            border = min((p.similarity for p in positives), default=0)
            return [p for p in positives if p.similarity <= border + TIE], hard
        border = max((p.similarity for p in positives), default=0)
        return [p for p in positives if p.similarity >= border - TIE], hard

    return choice


@pytest.mark.parametrize("positive", ["farthest", "nearest"])
def test_the_definition(positive):
    agree("batch-hard", by_loops(positive), positive=positive)


@pytest.mark.parametrize("positive", ["farthest", "nearest"])
def test_as_in_pytorch_metric_learning(positive):
    # Where the peer is right: every anchor has positives and negatives, no label is unknown, nothing ties.
    z, labels = torch.randn(24, 5, dtype=torch.float64), torch.arange(24) % 5
    batch = rows(z, labels)
    peer = BatchEasyHardMiner(pos_strategy="hard" if positive == "farthest" else "easy", neg_strategy="hard")
    a1, p, a2, n = (index.tolist() for index in peer(z, labels))
    mined = chosen(build("miner", "batch-hard", positive=positive)(all_pairs(batch, batch)))
    assert {(a, place) for a, (places, _) in enumerate(mined) for place in places} == set(zip(a1, p, strict=True))
    assert {(a, place) for a, (_, places) in enumerate(mined) for place in places} == set(zip(a2, n, strict=True))


def test_all_that_tie_are_chosen():
    given = on_circle(0, 70, -70, 10, 100, -100, labels=[0, 0, 0, 0, 1, 1])
    assert first_anchor(build("miner", "batch-hard"), given) == ({1, 2}, {4, 5})


def test_an_anchor_lacking_one_side_keeps_the_other():
    lonely = on_circle(0, 50, 80, labels=[0, 1, 2])
    assert first_anchor(build("miner", "batch-hard"), lonely) == (set(), {1})
    alike = on_circle(0, 50, 80, labels=[0, 0, 0])
    assert first_anchor(build("miner", "batch-hard"), alike) == ({2}, set())
