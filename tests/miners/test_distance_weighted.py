"""Distance-weighted draws against the distribution of Wu et al. 2017."""

from __future__ import annotations

import itertools
import math

import pytest
import torch

from metriclab.core.pairs import Pairs, all_pairs
from metriclab.core.rows import Keys, rows
from metriclab.miners.distance_weighted import gumbel, log_density
from metriclab.registry import build
from tests.support.mining import chosen, on_circle


def repeated(distances, width, anchors=20_000):
    """Many anchors that each have negatives at these distances, and one positive."""
    similarity = 1 - torch.tensor([0.0, *distances], dtype=torch.float64).square() / 2
    count = len(similarity)
    alike = torch.zeros(anchors, count, dtype=torch.bool)
    alike[:, 0] = True

    def keys(first, n):
        same = torch.zeros(n, dtype=torch.int64)
        return Keys(same, same, torch.arange(first, first + n), same)

    return Pairs(similarity.expand(anchors, -1), alike, ~alike, keys(0, anchors), keys(2**40, count), width)


def weight(distance, width, cutoff, reach):
    """min(1 / q(cutoff), 1 / q(d)) within reach, from the paper's formula."""
    if distance >= reach:
        return 0.0
    d = max(distance, cutoff)
    return 1 / (d ** (width - 2) * (1 - d**2 / 4) ** ((width - 3) / 2))


DISTANCES = [0.2, 0.5, 0.7, 0.9, 1.1, 1.3, 1.39, 1.41, 1.9]


@pytest.mark.parametrize(("width", "cutoff", "reach"), [(2, 0.5, 1.4), (3, 0.5, 1.4), (8, 0.8, 1.2), (16, 1.0, 1.9)])
def test_one_negative_is_drawn_with_the_papers_probability(width, cutoff, reach):
    pairs = repeated(DISTANCES, width)
    mined = build("miner", "distance-weighted", cutoff=cutoff, reach=reach)(pairs)
    assert torch.equal(mined.positive, pairs.positive)
    assert (mined.negative.sum(1) == 1).all()
    weights = torch.tensor([0.0, *(weight(d, width, cutoff, reach) for d in DISTANCES)], dtype=torch.float64)
    expected = weights / weights.sum()
    deviation = (expected * (1 - expected) / len(mined.negative)).sqrt()
    assert ((mined.negative.double().mean(0) - expected).abs() <= 4 * deviation).all()


def test_several_are_drawn_without_replacement():
    distances, width = [0.6, 0.9, 1.2, 1.3], 4
    mined = build("miner", "distance-weighted", k=2)(repeated(distances, width)).negative[:, 1:]
    assert (mined.sum(1) == 2).all()
    weights = [weight(d, width, 0.5, 1.4) for d in distances]
    for pair in itertools.combinations(range(4), 2):
        expected = sum(
            weights[a] * weights[b] / sum(weights) / (sum(weights) - weights[a]) for a, b in (pair, pair[::-1])
        )
        found = float(mined[:, list(pair)].all(1).double().mean())
        assert found == pytest.approx(expected, abs=4 * math.sqrt(expected / len(mined)))


def test_the_noise_is_gumbels_and_its_own_for_every_pair_and_seed():
    noise = gumbel(0, torch.arange(300), torch.arange(1000, 1400))
    assert noise.isfinite().all()
    assert float(noise.mean()) == pytest.approx(0.5772, abs=0.02)
    assert float(noise.var()) == pytest.approx(math.pi**2 / 6, abs=0.05)
    assert len(noise.unique()) > 0.95 * noise.numel()
    others = (
        gumbel(1, torch.arange(300), torch.arange(1000, 1400)),
        gumbel(0, torch.arange(300) + 1, torch.arange(1000, 1400)),
    )
    for other in others:
        assert abs(float(torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))[0, 1])) < 0.02
    square = gumbel(0, torch.arange(200), torch.arange(200))
    assert abs(float(torch.corrcoef(torch.stack([square.flatten(), square.T.flatten()]))[0, 1])) < 0.03


def test_a_pair_draws_the_same_wherever_it_is_met():
    whole = gumbel(3, torch.arange(6), torch.arange(10, 30))
    order = torch.arange(20).flip(0)
    assert torch.equal(gumbel(3, torch.arange(2, 4), torch.arange(10, 30)[order]), whole[2:4][:, order])


def test_new_rows_draw_anew():
    z, labels = torch.randn(30, 4), torch.arange(30) % 3
    miner = build("miner", "distance-weighted")
    first, second = rows(z, labels), rows(z.clone(), labels)  # the same embeddings in a later step
    assert torch.equal(miner(all_pairs(first, first)).negative, miner(all_pairs(first, first)).negative)
    assert not torch.equal(miner(all_pairs(first, first)).negative, miner(all_pairs(second, second)).negative)
    other = build("miner", "distance-weighted", seed=1)
    assert not torch.equal(miner(all_pairs(first, first)).negative, other(all_pairs(first, first)).negative)


def test_no_more_are_drawn_than_are_in_reach():
    given = on_circle(0, 10, 60, 100, 120, labels=[0, 0, 1, 1, 1])  # distances 1, 1.53 and 1.73 of the negatives
    mined = build("miner", "distance-weighted", k=2)(all_pairs(given[:1], given))
    assert chosen(mined) == [({1}, {2})]
    far = on_circle(0, 120, 180, labels=[0, 1, 2])
    assert chosen(build("miner", "distance-weighted")(all_pairs(far[:1], far))) == [(set(), set())]


@pytest.mark.parametrize("width", [1, 2, 3, 128, 4096])
def test_weights_of_any_width_are_finite(width):
    squared = torch.linspace(0.0001, 3.61, 50)[None]
    assert log_density(squared, width).isfinite().all()
    mined = build("miner", "distance-weighted", k=3, cutoff=0.01, reach=1.9)(repeated(DISTANCES, width, anchors=5))
    assert (mined.negative.sum(1) == 3).all()
