"""Decoupled contrastive learning against its formula, written as loops, and through the kit."""

from __future__ import annotations

import math

import pytest
import torch
from loops import LABELS, agree, mean, partners

from metriclab.api import RecipeError, build, rows
from metriclab.testing import check_loss


def decoupled(temperature, sigma=None):
    def loss(anchors, references):
        pairs = []
        for alike, apart in partners(anchors, references):
            negatives = [s for of_class in apart.values() for s in of_class]
            if negatives:
                pushed = torch.log(sum(torch.exp(s / temperature) for s in negatives))
                pairs += [(s, pushed) for s in alike]
        closeness = mean([math.exp(float(s.detach()) / sigma) for s, _ in pairs]) if sigma else 1.0
        weights = [2 - math.exp(float(s.detach()) / sigma) / closeness if sigma else 1.0 for s, _ in pairs]
        return mean([pushed - w * s / temperature for (s, pushed), w in zip(pairs, weights, strict=True)])

    return loss


@pytest.mark.parametrize("labels", LABELS, ids=str)
@pytest.mark.parametrize(("temperature", "weighting"), [(0.1, None), (0.5, None), (0.1, 0.5), (0.5, 0.1)])
def test_value_and_gradient_are_the_papers(temperature, weighting, labels):
    loss = build("loss", "decoupled-contrastive", temperature=temperature, weighting=weighting)
    agree(loss, decoupled(temperature, weighting), labels)


def test_two_images_of_two_views_by_hand():
    # Equation 6 for the first view of the first image: -0.8 / t + log(e^(0 / t) + e^(0.6 / t)), here with t = 1.
    z = torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6], [0.6, 0.8]], dtype=torch.float64)
    batch = rows(z, [0, 1, 0, 1])
    losses = [
        -0.8 + math.log(1 + math.exp(0.6)),
        -0.8 + math.log(1 + math.exp(0.6)),
        -0.8 + math.log(math.exp(0.6) + math.exp(0.96)),
        -0.8 + math.log(math.exp(0.6) + math.exp(0.96)),
    ]
    found = build("loss", "decoupled-contrastive", temperature=1.0)(batch)
    assert float(found) == pytest.approx(mean(losses), abs=1e-12)


def test_it_is_nt_xent_without_the_positive_in_the_denominator():
    z, labels = torch.randn(8, 4, dtype=torch.float64), torch.arange(8) % 4
    batch = rows(z, labels)
    ours, theirs = build("loss", "decoupled-contrastive"), build("loss", "nt-xent", temperature=0.1)
    # log(P + N) - log P = log(1 + e^(log N - log P)), pair by pair, so of a batch in which all are equal:
    one = batch[torch.tensor([0, 4, 1])]
    of_pair = float(ours(one[:1], one))
    assert float(theirs(one[:1], one)) == pytest.approx(math.log1p(math.exp(of_pair)), abs=1e-12)


def test_how_hard_negatives_are_pushed_does_not_depend_on_the_positive():
    def pushed(angle, name):
        z = torch.tensor([[1.0, 0, 0], [math.cos(angle), math.sin(angle), 0], [0.6, 0, 0.8]], dtype=torch.float64)
        z.requires_grad_()
        others = rows(z, [0, 0, 1])
        (gradient,) = torch.autograd.grad(build("loss", name, temperature=0.1)(others[:1], others), z)
        return float(gradient[2].norm())

    assert pushed(0.1, "decoupled-contrastive") == pytest.approx(pushed(2.0, "decoupled-contrastive"), abs=1e-12)
    assert pushed(0.1, "nt-xent") < 0.1 * pushed(2.0, "nt-xent")


def test_conformance():
    check_loss(build("loss", "decoupled-contrastive"))


def test_conformance_with_weights():
    # The weights are constants to the gradient, so it is not the derivative of the value.
    check_loss(build("loss", "decoupled-contrastive", weighting=0.5), gradcheck=False)


def test_weights_that_leave_the_range_of_the_numbers_are_refused():
    with pytest.raises(RecipeError, match=r"weighting of loss 'decoupled-contrastive' must be float >= 0\.05"):
        build("loss", "decoupled-contrastive", weighting=0.01)
