"""SoftTriple and sub-centre ArcFace against their formulas, written as loops over classes, and through the kit."""

from __future__ import annotations

import math

import pytest
import torch
from loops import LABELS, agree, mean, partners

from metriclab.api import build, rows
from metriclab.testing import check_loss


def softmax_loss(own, others):
    logits = [own, *others]
    largest = max(float(x.detach()) for x in logits)
    return largest + torch.log(sum(torch.exp(x - largest) for x in logits)) - own


def sub_centre_arcface(scale, margin):
    def loss(anchors, references):
        costs = []
        for alike, apart in partners(anchors, references):
            if not alike:
                continue
            angle = torch.acos(max(alike))
            beyond = float(angle.detach()) + margin > math.pi
            own = max(alike) - margin * math.sin(margin) if beyond else torch.cos(angle + margin)
            costs.append(softmax_loss(scale * own, [scale * max(of_class) for of_class in apart.values()]))
        return mean(costs)

    return loss


def soft_triple(scale, temperature, margin, merging):
    def to_class(cosines):
        weights = [torch.exp(s / temperature) for s in cosines]
        return sum(w * s for w, s in zip(weights, cosines, strict=True)) / sum(weights)

    def loss(anchors, references):
        costs, distances = [], []
        for alike, apart in partners(anchors, references):
            if alike:
                own = scale * (to_class(alike) - margin)
                costs.append(softmax_loss(own, [scale * to_class(of_class) for of_class in apart.values()]))
        # The sum over classes and over pairs s < t of their centres, over C K (K - 1); here classes of any K.
        for alike, _ in partners(references, references):
            distances += [torch.sqrt(2 - 2 * s) for s in alike]
        return mean(costs) + merging / 2 * mean(distances)

    return loss


CASES = [
    (("sub-centre-arcface", {}), sub_centre_arcface(64.0, 0.5)),
    (("sub-centre-arcface", {"scale": 4.0, "margin": 1.2}), sub_centre_arcface(4.0, 1.2)),
    (("soft-triple", {}), soft_triple(20.0, 0.1, 0.01, 0.2)),
    (
        ("soft-triple", {"scale": 5.0, "centre_temperature": 0.5, "margin": 0.3, "merging": 2.0}),
        soft_triple(5.0, 0.5, 0.3, 2.0),
    ),
]
IDS = [f"{name} {keys}" for (name, keys), _ in CASES]


def proxies(per_class, classes=4):
    torch.manual_seed(1)
    memory = build("memory", "proxies", 4, torch.arange(classes), per_class=per_class).double()
    return memory.rows(), memory.directions


@pytest.mark.parametrize("labels", LABELS, ids=str)
@pytest.mark.parametrize(("named", "by_loops"), CASES, ids=IDS)
def test_over_a_batch_value_and_gradient_are_the_formulas(named, by_loops, labels):
    name, keys = named
    agree(build("loss", name, **keys), by_loops, labels)


@pytest.mark.parametrize("per_class", [1, 3])
@pytest.mark.parametrize(("named", "by_loops"), CASES, ids=IDS)
def test_over_proxies_value_and_gradient_are_the_formulas(named, by_loops, per_class):
    name, keys = named
    agree(build("loss", name, **keys), by_loops, [0, 1, 3, -1, 0], proxies(per_class))


def test_soft_triple_is_the_papers_over_centres_of_equal_number():
    # Equations 6 to 8 over a table of C x K centres, as matrices: another way round than the loops.
    held, _ = proxies(3)
    z, labels = torch.randn(5, 4, dtype=torch.float64), torch.tensor([0, 3, 1, 1, 2])
    batch = rows(z, labels)
    cosines = (batch.z @ held.z.T).reshape(5, 4, 3)
    of_class = (cosines * (cosines / 0.1).softmax(2)).sum(2)
    logits = 20 * (of_class - 0.01 * torch.nn.functional.one_hot(labels, 4).double())
    centres = held.z.reshape(4, 3, 4)
    inner = centres @ centres.transpose(1, 2)
    regulariser = sum((2 - 2 * inner[:, s, t]).sqrt().sum() for s in range(3) for t in range(s + 1, 3)) / (4 * 3 * 2)
    expected = torch.nn.functional.cross_entropy(logits, labels) + 0.2 * regulariser
    torch.testing.assert_close(build("loss", "soft-triple")(batch, held), expected, atol=1e-12, rtol=0)


def test_one_anchor_of_two_centres_by_hand():
    # Cosines 0.6 and 0.8 to its class's centres, 0 to the other's: the nearest counts in sub-centre ArcFace.
    anchor = rows(torch.tensor([[1.0, 0.0]], dtype=torch.float64), [0])
    held = rows(torch.tensor([[0.6, 0.8], [0.8, 0.6], [0.0, 1.0]], dtype=torch.float64), [0, 0, 1])
    own = math.cos(math.acos(0.8) + 0.5)
    found = build("loss", "sub-centre-arcface", scale=1.0)(anchor, held)
    assert float(found.detach()) == pytest.approx(math.log(1 + math.exp(-own)), abs=1e-12)
    weights = [math.exp(6), math.exp(8)]
    own = (weights[0] * 0.6 + weights[1] * 0.8) / sum(weights) - 0.01
    regulariser = math.sqrt(2 - 2 * (0.48 + 0.48)) / 2
    found = build("loss", "soft-triple", scale=1.0)(anchor, held)
    assert float(found.detach()) == pytest.approx(math.log(1 + math.exp(-own)) + 0.2 * regulariser, abs=1e-12)


def test_arcface_over_several_proxies_is_another_loss():
    held, directions = proxies(3)
    batch = rows(torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1]))
    ours = build("loss", "sub-centre-arcface", scale=8.0)(batch, held)
    theirs = build("loss", "arcface", scale=8.0)(batch, held)
    assert abs(float((ours - theirs).detach())) > 0.01
    # The nearest centre alone learns in ours, each in theirs: batch[:1] is an image of class 0, of rows 0 to 2.
    one = build("loss", "sub-centre-arcface", scale=8.0)(batch[:1], held)
    (gradient,) = torch.autograd.grad(one, directions, retain_graph=True)
    assert (gradient.abs().sum(1) > 0).reshape(4, 3).sum(1).tolist() == [1, 1, 1, 1]
    (gradient,) = torch.autograd.grad(build("loss", "arcface", scale=8.0)(batch[:1], held), directions)
    assert (gradient.abs().sum(1) > 0).all()


@pytest.mark.parametrize(
    ("name", "core"), [("sub-centre-arcface", ("arcface", {})), ("soft-triple", ("cosface", {"margin": 0.01}))]
)
def test_with_one_centre_a_class_they_are_losses_of_the_core(name, core):
    held, _ = proxies(1)
    batch = rows(torch.randn(6, 4, dtype=torch.float64), torch.tensor([0, 1, 2, 3, 0, 1]))
    expected = build("loss", core[0], scale=20.0, **core[1])(batch, held)
    torch.testing.assert_close(build("loss", name, scale=20.0)(batch, held), expected, atol=1e-12, rtol=0)


def test_equally_near_centres_share_the_gradient_and_equal_ones_are_not_parted():
    z = torch.tensor([[0.6, 0.8], [0.6, -0.8], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    anchor = rows(torch.tensor([[1.0, 0.0]], dtype=torch.float64), [0])
    value = build("loss", "sub-centre-arcface", scale=2.0)(anchor, rows(z, [0, 0, 1]))
    (gradient,) = torch.autograd.grad(value, z)
    assert gradient[0, 0] == pytest.approx(float(gradient[1, 0]), abs=1e-12)
    same = torch.tensor([[0.6, 0.8], [0.6, 0.8], [0.0, 1.0]], dtype=torch.float64, requires_grad=True)
    value = build("loss", "soft-triple")(anchor, rows(same, [0, 0, 1]))
    (gradient,) = torch.autograd.grad(value, same)
    assert gradient.isfinite().all()


@pytest.mark.parametrize("name", ["sub-centre-arcface", "soft-triple"])
def test_conformance(name):
    check_loss(build("loss", name, scale=8.0))
