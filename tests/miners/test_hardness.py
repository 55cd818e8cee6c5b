"""Hard, semi-hard and easy pairs against loops over triplets."""

from __future__ import annotations

import math

import pytest
import torch

from metriclab.registry import build
from tests.support.mining import LABELS, agree, first_anchor, on_circle, partners, several

TIE = 1e-12
NAMES = ["hard-pairs", "semihard-pairs", "easy-pairs"]


def kind(positive: float, negative: float, margin: float) -> str:
    """What FaceNet calls a triplet of these cosines; squared distances tie where they differ by rounding."""
    pull, push = 2 - 2 * positive, 2 - 2 * negative
    if push <= pull + TIE:
        return "hard-pairs"
    return "semihard-pairs" if push < pull + margin + TIE else "easy-pairs"


def by_loops(name, margin, sides):
    def choice(positives, negatives):
        def kept(partner, triplets):
            kinds = {kind(p.similarity, n.similarity, margin) for p, n in triplets if partner in (p, n)}
            return next((one for one in NAMES if one in kinds), None) == name

        triplets = [(p, n) for p in positives for n in negatives]
        return (
            positives if sides == "negatives" else [p for p in positives if kept(p, triplets)],
            negatives if sides == "positives" else [n for n in negatives if kept(n, triplets)],
        )

    return choice


@pytest.mark.parametrize("sides", ["both", "positives", "negatives"])
@pytest.mark.parametrize("margin", [0.05, 0.2, 1.5])
@pytest.mark.parametrize("name", NAMES)
def test_the_definition(name, margin, sides):
    parameters = {"sides": sides} if name == "hard-pairs" else {"sides": sides, "margin": margin}
    agree(name, by_loops(name, margin, sides), **parameters)


def test_each_pair_in_a_triplet_is_of_exactly_one_kind():
    parameters = [{}, {"margin": 0.3, "sides": "both"}, {"margin": 0.3, "sides": "both"}]
    miners = [build("miner", name, **given) for name, given in zip(NAMES, parameters, strict=True)]
    for labels in LABELS:
        for pairs in several(labels):
            mined = [miner(pairs) for miner in miners]
            for anchor in range(len(labels)):
                positives, negatives = partners(pairs, anchor)
                expected = 1 if positives and negatives else 0
                for side, mask in (("positive", pairs.positive), ("negative", pairs.negative)):
                    times = sum(getattr(one, side)[anchor].long() for one in mined)
                    assert (times[mask[anchor]] == expected).all()


def test_by_default_the_papers_sides_are_chosen_from():
    # Squared distances from 0 degrees: 0.12 and 0.47 of the positives; 0.24, 0.59 and 4 of the negatives.
    given = on_circle(0, 20, 40, 28.36, 45, 180, labels=[0, 0, 0, 1, 1, 1])
    assert first_anchor(build("miner", "hard-pairs"), given) == ({2}, {3})
    assert first_anchor(build("miner", "semihard-pairs"), given) == ({1, 2}, {4})
    assert first_anchor(build("miner", "easy-pairs"), given) == ({1}, {3, 4, 5})
    assert first_anchor(build("miner", "easy-pairs", margin=0.2), given) == (set(), {3, 4, 5})
    assert first_anchor(build("miner", "easy-pairs", margin=0.2, sides="both"), given) == (set(), {5})


@pytest.mark.parametrize("degrees", [0.0, 37.0, 180.0])
def test_a_tie_is_hard(degrees):
    given = on_circle(0, degrees, -degrees, labels=[0, 0, 1])
    assert first_anchor(build("miner", "hard-pairs"), given) == ({1}, {2})
    for name in ("semihard-pairs", "easy-pairs"):
        assert first_anchor(build("miner", name, sides="both"), given) == (set(), set())


def test_its_margin_is_that_of_the_triplet_loss():
    given = on_circle(0, 30, 50, labels=[0, 0, 1])
    gap = 2 * (math.cos(math.radians(30)) - math.cos(math.radians(50)))
    for margin in (gap - 1e-6, gap + 1e-6):
        semihard = first_anchor(build("miner", "semihard-pairs", margin=margin), given) == ({1}, {2})
        costs = build("loss", "triplet", margin=margin)(given[:1], given) > 0
        assert semihard == bool(costs) == (margin > gap)


def test_in_float32_too():
    torch.manual_seed(1)
    for name in NAMES:
        given = on_circle(0, 20, 40, 30, 45, 180, labels=[0, 0, 0, 1, 1, 1])
        single = type(given)(given.z.float(), given.labels, given.items, given.ids, given.views)
        assert first_anchor(build("miner", name), single) == first_anchor(build("miner", name), given)
