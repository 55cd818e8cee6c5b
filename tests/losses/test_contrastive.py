"""The contrastive losses against loops over pairs, from Hadsell et al. 2006 and Wang et al. 2020."""

from __future__ import annotations

import math

import pytest
import torch

from metriclab.core.rows import Rows, concatenate, rows
from metriclab.core.tiles import forced_tile_cells
from metriclab.registry import build
from metriclab.testing import check_loss
from tests.support.loss_loops import agree, agree_in_lower_precision, mean, partners


def by_loops(anchors: Rows, references: Rows, cost, counts, mean_over="pairs") -> float:
    """Mean over positive pairs plus mean over negative pairs, of those that count; or all of them for each anchor."""
    values = {True: [], False: []}
    for a in range(len(anchors)):
        for b in range(len(references)):
            one, other = int(anchors.labels[a]), int(references.labels[b])
            if one < 0 or other < 0 or int(anchors.ids[a]) == int(references.ids[b]):
                continue
            value = cost(one == other, anchors.z[a].tolist(), references.z[b].tolist())
            if counts(value):
                values[one == other].append(value)
    if mean_over == "anchors":
        return math.fsum(values[True] + values[False]) / max(1, sum(label >= 0 for label in anchors.labels.tolist()))
    return sum(math.fsum(v) / max(1, len(v)) for v in values.values())


def hadsell(margin):
    def cost(alike, x, y):
        d = math.dist(x, y)
        return d**2 if alike else max(0.0, margin - d) ** 2

    return cost


def squared_margin(margin):
    def cost(alike, x, y):
        d = math.dist(x, y)
        return d**2 if alike else max(0.0, margin**2 - d**2)

    return cost


def cosine(positive, negative):
    def cost(alike, x, y):
        s = math.fsum(a * b for a, b in zip(x, y, strict=True))
        return max(0.0, positive - s) if alike else max(0.0, s - negative)

    return cost


CASES = [
    ({}, hadsell(1.0), lambda value: True),
    ({"variant": "hadsell", "margin": 1.7}, hadsell(1.7), lambda value: True),
    ({"variant": "squared-margin", "margin": 1.3}, squared_margin(1.3), lambda value: True),
    ({"variant": "cosine"}, cosine(1.0, 0.5), lambda value: value > 1e-12),
    ({"variant": "cosine", "positive": 0.2, "negative": -0.3}, cosine(0.2, -0.3), lambda value: value > 1e-12),
]


@pytest.mark.parametrize(("parameters", "cost", "counts"), CASES)
@pytest.mark.parametrize("labels", [[0, 1, 0, 2, 1, -1, 0, -1, 3], [0, 0, 1], [0, 1], [2, 2], [-1, 0, 0]])
@pytest.mark.parametrize("mean_over", ["pairs", "anchors"])
def test_the_formula(parameters, cost, counts, labels, mean_over):
    loss = build("loss", "contrastive", **parameters, mean_over=mean_over)
    batch = rows(torch.randn(len(labels), 3, dtype=torch.float64), torch.tensor(labels))
    memory = concatenate([rows(torch.randn(4, 3, dtype=torch.float64), torch.tensor([0, 1, -1, 5])), batch])
    for references in (batch, memory):
        with forced_tile_cells(20):
            value = loss(batch, references)
        expected = by_loops(batch, references, cost, counts, mean_over)
        assert float(value) == pytest.approx(expected, abs=1e-13)


def by_code_of_xbm(z, labels, of_memory, memory_labels):
    """What the code for Wang et al. computes (msight-tech/research-xbm, commit 82f603a): for each anchor, 1 - s of
    every positive below 1 - 1e-5 and s of every negative above 0.5, added up and divided by the number of anchors."""
    costs, negatives = [], 0
    for row, label in zip(z, labels, strict=True):
        for other, of_other in zip(of_memory, memory_labels, strict=True):
            s = torch.dot(row, other)
            if label == of_other and float(s.detach()) < 1 - 1e-5:
                costs.append(1 - s)
            if label != of_other and float(s.detach()) > 0.5:
                costs.append(s)
                negatives += 1
    return sum(costs) / len(z), negatives


@pytest.mark.parametrize("mined", [False, True])
def test_mean_over_anchors_has_the_gradient_of_the_code_of_xbm(mined):
    z = torch.randn(12, 3, dtype=torch.float64, requires_grad=True)
    labels, older = torch.arange(12) % 4, torch.arange(20) % 5
    batch = rows(z, labels)
    memory = rows(torch.randn(20, 3, dtype=torch.float64), older)
    loss = build("loss", "contrastive", variant="cosine", mean_over="anchors")
    for references in (batch, memory):
        # A miner that keeps all pairs: the other way through, tile by tile.
        found = loss(batch, references, miner=(lambda pairs: pairs) if mined else None)
        expected, negatives = by_code_of_xbm(batch.z, labels.tolist(), references.z, references.labels.tolist())
        assert negatives > 0
        assert float(found.detach()) == pytest.approx(float(expected.detach()) - 0.5 * negatives / 12, abs=1e-12)
        (gradient,) = torch.autograd.grad(found, z, retain_graph=True)
        (of_code,) = torch.autograd.grad(expected, z, retain_graph=True)
        torch.testing.assert_close(gradient, of_code, atol=1e-12, rtol=0)


def test_an_anchor_without_pairs_still_counts_among_anchors():
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], dtype=torch.float64)
    batch, memory = rows(z, torch.tensor([0, 1, -1])), rows(z[:1], torch.tensor([0]))
    found = build("loss", "contrastive", mean_over="anchors", margin=2.0)(batch, memory)
    assert float(found) == pytest.approx((2 - math.sqrt(2)) ** 2 / 2)  # two anchors are of known label
    assert float(build("loss", "contrastive", mean_over="anchors")(batch, memory[:0])) == 0


@pytest.mark.slow
def test_mean_over_anchors_keeps_what_a_loss_keeps():
    check_loss(build("loss", "contrastive", variant="cosine", mean_over="anchors"))


def by_cosines(variant, margin):
    """The same from cosines alone, differentiable."""

    def pull(s):
        return 1 - s if variant == "cosine" else 2 - 2 * s

    def push(s):
        if variant == "cosine":
            return torch.relu(s - 0.5)
        squared = torch.relu(2 - 2 * s)
        if variant == "squared-margin":
            return torch.relu(margin**2 - squared)
        return torch.relu(margin - (squared.sqrt() if squared > 0 else 0 * squared)).square()

    def loss(anchors, references):
        pulls, pushes = [], []
        for alike, apart in partners(anchors, references):
            pulls += map(pull, alike)
            pushes += map(push, apart)
        if variant == "cosine":
            pulls, pushes = ([value for value in values if value > 1e-6] for values in (pulls, pushes))
        return mean(pulls) + mean(pushes)

    return loss


@pytest.mark.parametrize("kind", ["random", "zero"])
@pytest.mark.parametrize(("variant", "margin"), [("hadsell", 1.2), ("squared-margin", 1.4), ("cosine", 1.0)])
def test_gradients_on_every_kind_of_labels_and_in_lower_precision(variant, margin, kind):
    loss = build("loss", "contrastive", variant=variant, margin=margin)
    agree(loss, by_cosines(variant, margin), kind)
    agree_in_lower_precision(loss, by_cosines(variant, margin), 0.5)


def test_rows_that_coincide_have_subgradient_zero():
    z = torch.ones(4, 3, dtype=torch.float64, requires_grad=True)
    batch = rows(z, torch.tensor([0, 0, 1, 1]))
    exact = rows(torch.eye(3, dtype=torch.float64)[[0, 0, 0]], torch.tensor([0, 0, 1]))
    for name in ("hadsell", "squared-margin"):
        loss = build("loss", "contrastive", variant=name)
        (gradient,) = torch.autograd.grad(loss(batch, batch), z, retain_graph=True)
        assert gradient.isfinite().all()
        assert float(loss(exact, exact)) == 1.0  # negatives at distance 0 cost margin^2, positives nothing


def test_exactly_one_positive_and_one_negative_pair_cost_both():
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]], dtype=torch.float64)
    everyone = rows(z, torch.tensor([0, 0, 1]))
    value = build("loss", "contrastive", variant="cosine")(everyone[:1], everyone[1:])
    assert float(value) == pytest.approx(1.0 + 0.3)


def test_rounding_does_not_change_what_counts():
    # Two pairs of identical rows, one pair at a right angle: the mean is over the one that costs anything.
    z = torch.randn(4, 7)
    z = torch.cat([z[:2], z[:2], torch.eye(7)[:2]])
    batch = rows(z, torch.tensor([0, 1, 0, 1, 2, 2]))
    value = build("loss", "contrastive", variant="cosine", negative=1.0)(batch, batch)
    assert float(value) == pytest.approx(1.0, abs=1e-6)


def test_nan_is_not_hidden():
    z = torch.randn(4, 3)
    z[0, 0] = math.nan
    batch = rows(z, torch.tensor([0, 0, 1, 1]))
    for name in ("hadsell", "squared-margin", "cosine"):
        assert build("loss", "contrastive", variant=name)(batch, batch).isnan()
