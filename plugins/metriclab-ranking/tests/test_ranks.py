"""Smooth-AP, SupAP, ROADMAP and recall at k against their formulas, written as loops, and through the kit."""

from __future__ import annotations

import math

import pytest
import torch
from loops import LABELS, agree, mean, partners

from metriclab.api import RecipeError, build, rows
from metriclab.testing import check_loss

LOSSES = ["smooth-ap", "sup-ap", "roadmap", "recall-at-k"]


def sigmoid(x):
    return 1 / (1 + torch.exp(-x))


def flat(apart):
    return [s for of_class in apart.values() for s in of_class]


def smooth_ap(temperature):
    def loss(anchors, references):
        costs = []
        for alike, apart in partners(anchors, references):
            precisions = []
            for i, own in enumerate(alike):
                among = 1 + sum(sigmoid((s - own) / temperature) for j, s in enumerate(alike) if j != i)
                rank = among + sum(sigmoid((s - own) / temperature) for s in flat(apart))
                precisions.append(among / rank)
            if alike:
                costs.append(1 - mean(precisions))
        return mean(costs)

    return loss


def sup_ap(temperature, rho, linear_from):
    def above(d):
        if d <= 0:
            return sigmoid(d / temperature)
        if d <= linear_from:
            return sigmoid(d / temperature) + 0.5
        return rho * (d - linear_from) + 1 / (1 + math.exp(-linear_from / temperature)) + 0.5

    def loss(anchors, references):
        costs = []
        for alike, apart in partners(anchors, references):
            precisions = []
            for i, own in enumerate(alike):
                among = 1 + sum(float(s >= own) for j, s in enumerate(alike) if j != i)
                precisions.append(among / (among + sum(above(s - own) for s in flat(apart))))
            if alike:
                costs.append(1 - mean(precisions))
        return mean(costs)

    return loss


def roadmap(share):
    def loss(anchors, references):
        pulls, pushes = [], []
        for alike, apart in partners(anchors, references):
            pulls += [0.9 - s for s in alike if s < 0.9]
            pushes += [s - 0.6 for s in flat(apart) if s > 0.6]
        ranking = sup_ap(0.01, 100.0, 0.05)(anchors, references)
        return (1 - share) * ranking + share * (mean(pulls) + mean(pushes))

    return loss


def recall_at_k(ks, rank_temperature, count_temperature):
    def loss(anchors, references):
        costs = []
        for alike, apart in partners(anchors, references):
            recalls = []
            for k in ks if alike else []:
                found = 0
                for i, own in enumerate(alike):
                    others = [s for j, s in enumerate(alike) if j != i] + flat(apart)
                    rank = 1 + sum(sigmoid((s - own) / rank_temperature) for s in others)
                    found = found + sigmoid((k - rank) / count_temperature)
                recalls.append((found if found < k else k) / min(k, len(alike)))
            if alike:
                costs.append(1 - mean(recalls))
        return mean(costs)

    return loss


CASES = [
    (("smooth-ap", {}), smooth_ap(0.01)),
    (("smooth-ap", {"temperature": 0.3}), smooth_ap(0.3)),
    (("sup-ap", {}), sup_ap(0.01, 100.0, 0.05)),
    (("sup-ap", {"temperature": 0.2, "rho": 3.0, "linear_from": 0.3}), sup_ap(0.2, 3.0, 0.3)),
    (("sup-ap", {"temperature": 0.2, "linear_from": 0.0}), sup_ap(0.2, 100.0, 0.0)),
    (("roadmap", {}), roadmap(0.5)),
    (("roadmap", {"calibration": 0.1}), roadmap(0.1)),
    (("recall-at-k", {}), recall_at_k([1, 2, 4, 8, 16], 0.01, 1.0)),
    (("recall-at-k", {"k": [1, 3], "rank_temperature": 0.2}), recall_at_k([1, 3], 0.2, 1.0)),
    (("recall-at-k", {"k": [1], "rank_temperature": 0.5, "count_temperature": 5.0}), recall_at_k([1], 0.5, 5.0)),
]


@pytest.mark.parametrize("labels", LABELS, ids=str)
@pytest.mark.parametrize(("named", "by_loops"), CASES, ids=[f"{name} {keys}" for (name, keys), _ in CASES])
def test_value_and_gradient_are_the_papers(named, by_loops, labels):
    name, keys = named
    agree(build("loss", name, **keys), by_loops, labels)


def against(anchor, positives, negatives):
    """One anchor of class 0 and references at these cosines to it."""
    cosines = torch.tensor([*positives, *negatives], dtype=torch.float64, requires_grad=True)
    z = torch.stack([cosines, (1 - cosines.square()).sqrt()], 1)
    labels = [0] * len(positives) + [1] * len(negatives)
    first = rows(torch.tensor([[1.0, 0.0]], dtype=torch.float64), [0])
    return cosines, lambda loss: loss(first, rows(z, labels))


def test_with_steps_as_good_as_sharp_it_is_one_minus_average_precision():
    # Positives at ranks 1, 3 and 4 of five: the mean of 1/1, 2/3 and 3/4, worked out by hand.
    _, call = against(0, [0.9, 0.5, 0.3], [0.7, 0.1])
    expected = 1 - (1 + 2 / 3 + 3 / 4) / 3
    assert float(call(build("loss", "smooth-ap", temperature=0.001)).detach()) == pytest.approx(expected, abs=1e-12)
    # A negative that is 0.2 and 0.4 before them counts 1 and 2, and 0.5 + sigmoid each.
    below = build("loss", "sup-ap", temperature=0.001, rho=5.0, linear_from=0.0)
    counts = [5 * 0.2 + 0.5 + 0.5, 5 * 0.4 + 0.5 + 0.5]
    expected = 1 - (1 + 2 / (2 + counts[0]) + 3 / (3 + counts[1])) / 3
    assert float(call(below).detach()) == pytest.approx(expected, abs=1e-12)


def test_recall_is_counted_by_ranks_by_hand():
    # Ranks 1, 3 and 4: at k = 3 with a hard count, two of three are found; sigmoid(0) = 1/2 of the one at rank 3.
    _, call = against(0, [0.9, 0.5, 0.3], [0.7, 0.1])
    sharp = {"rank_temperature": 0.001, "count_temperature": 0.01}
    assert float(call(build("loss", "recall-at-k", k=[3], **sharp)).detach()) == pytest.approx(1 - 1.5 / 3, abs=1e-12)
    assert float(call(build("loss", "recall-at-k", k=[1], **sharp)).detach()) == pytest.approx(1 - 0.5, abs=1e-12)
    assert float(call(build("loss", "recall-at-k", k=[2], **sharp)).detach()) == pytest.approx(1 - 1 / 2, abs=1e-12)
    soft = 1 - (1 / (1 + math.exp(-2)) + 1 / 2 + 1 / (1 + math.exp(1))) / 3
    loss = build("loss", "recall-at-k", k=[3], rank_temperature=0.001)
    assert float(call(loss).detach()) == pytest.approx(soft, abs=1e-12)


def test_sup_ap_is_never_below_one_minus_average_precision_and_smooth_ap_is():
    generator = torch.Generator().manual_seed(0)
    below = 0
    for _ in range(50):
        cosines = (2 * torch.rand(8, dtype=torch.float64, generator=generator) - 1).tolist()
        _, call = against(0, cosines[:3], cosines[3:])
        order = sorted(range(8), key=lambda i: -cosines[i])
        places = [place for place, i in enumerate(order, 1) if i < 3]
        average_precision = mean([found / place for found, place in enumerate(places, 1)])
        assert float(call(build("loss", "sup-ap")).detach()) >= 1 - average_precision - 1e-12
        below += float(call(build("loss", "smooth-ap", temperature=0.2)).detach()) < 1 - average_precision
    assert below > 0


def test_ties_and_a_single_positive():
    # One positive, and a negative at its cosine: the precision is 1 / (1 + 1/2), with the largest gradient there is.
    cosines, call = against(0, [0.4], [0.4])
    value = call(build("loss", "smooth-ap", temperature=0.1))
    (gradient,) = torch.autograd.grad(value, cosines)
    assert float(value.detach()) == pytest.approx(1 / 3, abs=1e-12)
    assert gradient.tolist() == pytest.approx([-1 / (1.5**2 * 0.4), 1 / (1.5**2 * 0.4)], abs=1e-10)
    # Two positives at one cosine, and a negative far before both: each has one positive and the negative before it.
    cosines, call = against(0, [0.4, 0.4], [0.9])
    assert float(call(build("loss", "sup-ap", linear_from=2.0)).detach()) == pytest.approx(1 - 2 / (2 + 1.5), abs=1e-12)
    # Far behind, smooth-ap has no gradient left, and sup-ap that of its line.
    cosines, call = against(0, [-0.5], [0.9])
    (faded,) = torch.autograd.grad(call(build("loss", "smooth-ap")), cosines)
    cosines, call = against(0, [-0.5], [0.9])
    (kept,) = torch.autograd.grad(call(build("loss", "sup-ap")), cosines)
    assert faded.abs().max() < 1e-50
    assert kept[0] < -1e-3 < 1e-3 < kept[1]


def test_positives_in_their_order_have_no_gradient_in_sup_ap():
    cosines, call = against(0, [0.9, 0.8, 0.7], [-0.9])
    (gradient,) = torch.autograd.grad(call(build("loss", "sup-ap")), cosines)
    assert gradient.abs().max() < 1e-50


@pytest.mark.parametrize("name", LOSSES)
def test_classes_of_unequal_sizes_in_any_order_give_what_classes_in_a_row_give(name):
    generator = torch.Generator().manual_seed(3)
    z, labels = torch.randn(9, 5, generator=generator, dtype=torch.float64), torch.tensor([0] * 5 + [1] * 3 + [2])
    order = torch.tensor([3, 8, 0, 5, 1, 7, 4, 6, 2])
    loss = build("loss", name)
    torch.testing.assert_close(loss(z[order], labels[order]), loss(z, labels), atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", LOSSES)
def test_conformance(name):
    check_loss(build("loss", name))


def test_no_k_is_refused():
    with pytest.raises(RecipeError, match=r"k of loss 'recall-at-k' must be list\[int >= 1\] with at least 1 entries"):
        build("loss", "recall-at-k", k=[])
