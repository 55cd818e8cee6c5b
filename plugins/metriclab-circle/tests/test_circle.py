"""Circle loss against its formula, written as loops, and through the conformance kit."""

from __future__ import annotations

import math

import pytest
import torch

from metriclab.api import RecipeError, build, rows
from metriclab.testing import check_loss

LABELS = [0, 0, 1, 1, 1, 2, -1]  # class 2 has one row, the last row's class is unknown


def naive(z, labels, margin, scale, paces):
    """Equations 5 and 6 for each anchor with positives and negatives; `paces` are the similarities behind alpha."""
    losses = []
    for a in range(len(labels)):
        pull, push = [], []
        for r in range(len(labels)):
            if r == a or labels[a] < 0 or labels[r] < 0:
                continue
            similarity = torch.dot(z[a], z[r])
            if labels[r] == labels[a]:
                alpha = max(0.0, 1 + margin - paces[a][r])
                pull.append(-scale * alpha * (similarity - (1 - margin)))
            else:
                alpha = max(0.0, paces[a][r] + margin)
                push.append(scale * alpha * (similarity - margin))
        if pull and push:
            losses.append(torch.log(1 + sum(torch.exp(p + n) for p in pull for n in push)))
    return sum(losses) / len(losses)


@pytest.mark.parametrize(("margin", "scale"), [(0.25, 80.0), (0.4, 8.0)])
def test_value_and_gradient_are_the_papers(margin, scale):
    raw = torch.randn(len(LABELS), 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    one, other = raw.clone().requires_grad_(), raw.clone().requires_grad_()
    z = other / other.norm(dim=1, keepdim=True)
    expected = naive(z, LABELS, margin, scale, paces=(z @ z.T).tolist())
    batch = rows(one, torch.tensor(LABELS))
    loss = build("loss", "circle", margin=margin, scale=scale)(batch, batch)
    loss.backward()
    expected.backward()
    torch.testing.assert_close(loss, expected, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(one.grad, other.grad, rtol=1e-10, atol=1e-12)


def test_one_pair_of_each_by_hand():
    z = torch.tensor([[1.0, 0.0], [0.8, 0.6], [0.0, 1.0]], dtype=torch.float64)
    batch = rows(z, torch.tensor([0, 0, 1]))
    # Anchor 0: s_p = 0.8 and s_n = 0.0, so alpha_p = 0.45 and alpha_n = 0.25.
    # Anchor 1: s_p = 0.8 and s_n = 0.6, so alpha_p = 0.45 and alpha_n = 0.85.
    first = math.log1p(math.exp(0.25 * (0 - 0.25) - 0.45 * (0.8 - 0.75)))
    second = math.log1p(math.exp(0.85 * (0.6 - 0.25) - 0.45 * (0.8 - 0.75)))
    loss = build("loss", "circle", scale=1.0)(batch, batch)
    assert loss.item() == pytest.approx((first + second) / 2, abs=1e-12)


def test_the_largest_similarities_stay_finite_in_float32():
    z = torch.ones(4, 3, requires_grad=True)
    batch = rows(z, torch.tensor([0, 0, 1, 1]))
    loss = build("loss", "circle")(batch, batch)
    loss.backward()
    assert loss.isfinite()
    assert z.grad.isfinite().all()


def test_conformance():
    # The paces are constants to the gradient, so it is not the derivative of the value.
    check_loss(build("loss", "circle", scale=16.0), gradcheck=False)


def test_a_scale_of_zero_is_refused():
    with pytest.raises(RecipeError, match=r"scale of loss 'circle' must be float > 0, not 0\.0"):
        build("loss", "circle", scale=0.0)
