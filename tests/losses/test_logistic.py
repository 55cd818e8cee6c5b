"""The logistic loss against its formula, written as loops from Zhai et al. 2023."""

from __future__ import annotations

import math

import pytest
import torch

from metriclab.core.rows import rows
from metriclab.registry import build
from metriclab.testing import check_loss
from tests.support.loss_loops import ROWS, agree, agree_in_lower_precision, log_sum_exp, mean, partners, peer_batch

SETTINGS = [(1.0, 0.0), (0.1, -10.0), (0.02, -25.0), (0.001, 3.0), (2e-4, 0.0)]


def by_loops(t, b):
    """The mean over positive pairs plus the mean over negative pairs of -log sigmoid."""

    def loss(anchors, references):
        pulls, pushes = [], []
        for alike, apart in partners(anchors, references):
            pulls += [log_sum_exp([0 * s, -(s / t + b)]) for s in alike]
            pushes += [log_sum_exp([0 * s, s / t + b]) for s in apart]
        return mean(pulls) + mean(pushes)

    return loss


def learned(t, b):
    return build("loss", "logistic", temperature=t, bias=b, learnable=True)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize(("t", "b"), SETTINGS)
def test_the_formula(t, b, kind):
    agree(build("loss", "logistic", temperature=t, bias=b), by_loops(t, b), kind)


@pytest.mark.parametrize(("t", "b"), SETTINGS)
def test_lower_precision_is_right_to_rounding(t, b):
    agree_in_lower_precision(build("loss", "logistic", temperature=t, bias=b), by_loops(t, b), t)


def test_large_logits_are_exact():
    # The cosines are 1 and 0, the logits 25 and -25, then -25 and 25: where torch's softplus is off by 1e-11.
    z = torch.eye(2, dtype=torch.float64)[[0, 0, 1]]
    batch = rows(z, torch.tensor([0, 0, 1]))
    tail = math.log1p(math.exp(-25))
    right = build("loss", "logistic", temperature=0.02, bias=-25.0)(batch, batch)
    assert float(right) == pytest.approx(2 * tail, rel=1e-12)
    batch = rows(z, torch.tensor([0, 1, 0]))
    wrong = build("loss", "logistic", temperature=0.02, bias=-25.0)(batch[:1], batch)
    assert float(wrong) == pytest.approx(50 + 2 * tail, abs=1e-13)


@pytest.mark.parametrize(("t", "b"), SETTINGS)
def test_a_learned_one_begins_as_the_fixed_one(t, b):
    _, _, batch = peer_batch([0, 1, 0, 2, 1, -1])
    fixed = build("loss", "logistic", temperature=t, bias=b)
    loss = learned(t, b)
    assert not list(fixed.parameters())
    assert {name: p.shape for name, p in loss.named_parameters()} == {"terms.log_temperature": (), "terms.bias": ()}
    assert float(loss(batch, batch).detach()) == pytest.approx(float(fixed(batch, batch).detach()), rel=1e-5)


def test_gradients_of_the_parameters():
    loss = learned(0.3, -1.0).double()
    log_t, b = (p.detach().clone().requires_grad_() for p in loss.parameters())
    _, _, batch = peer_batch([0, 1, 0, 2, 1, -1, 0])
    expected = by_loops(log_t.exp(), b)(batch, batch)
    found = torch.autograd.grad(loss(batch, batch), list(loss.parameters()))
    torch.testing.assert_close(found, torch.autograd.grad(expected, [log_t, b]), atol=1e-10, rtol=0)


def test_without_pairs_the_parameters_have_a_zero_gradient():
    loss = learned(0.1, -2.0)
    batch = rows(torch.randn(3, 4), torch.tensor([-1, -1, -1]))
    loss(batch, batch).backward()
    assert [float(p.grad) for p in loss.parameters()] == [0.0, 0.0]


def test_a_learned_one_keeps_what_the_kit_asks():
    check_loss(learned(0.2, -1.0))
