"""PointwisePairLoss gives what a PairLoss of the same costs gives, however its cells are taken."""

from __future__ import annotations

import pytest
import torch

from metriclab.core.pointwise_pair_loss import LossAndGrad, PointwisePairLoss
from metriclab.core.rows import rows
from metriclab.core.tiles import forced_tile_cells
from metriclab.testing import check_loss


def pull(similarity):
    short = 1 - similarity
    return LossAndGrad(short.square(), -2 * short)


def push(similarity):
    excess = (similarity - 0.2).clamp(min=0)
    return LossAndGrad(excess, excess.sign())


def everything(pairs):
    return pairs


@pytest.mark.parametrize("nonzero_only", [False, True])
@pytest.mark.parametrize("classes", [2, 60], ids=["many-positives", "few-positives"])
@pytest.mark.parametrize("cells", [7, 300, None])
def test_it_is_the_pair_loss_of_the_same_costs(nonzero_only, classes, cells):
    loss = PointwisePairLoss(pull, push, nonzero_only=nonzero_only)
    anchors = torch.randn(17, 5, dtype=torch.float64, requires_grad=True)
    references = torch.randn(90, 5, dtype=torch.float64, requires_grad=True)
    labels = [torch.randint(-1, classes, (len(z),)) for z in (anchors, references)]

    def outcome(**options):
        with forced_tile_cells(cells or 10_000):
            value = loss(rows(anchors, labels[0]), rows(references, labels[1]), **options)
        return value, *torch.autograd.grad(value, (anchors, references))

    for found, expected in zip(outcome(), outcome(miner=everything), strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=1e-12)


def test_only_what_wants_a_gradient_gets_one():
    anchors, references = torch.randn(4, 3, requires_grad=True), torch.randn(9, 3)
    value = PointwisePairLoss(pull, push)(rows(anchors, torch.arange(4) % 2), rows(references, torch.arange(9) % 2))
    value.backward()
    assert anchors.grad.abs().sum() > 0
    assert references.grad is None
    with torch.no_grad():
        bare = PointwisePairLoss(pull, push)(rows(anchors, torch.arange(4) % 2), rows(references, torch.arange(9) % 2))
    assert not bare.requires_grad
    assert bare == value


@pytest.mark.parametrize("nonzero_only", [False, True])
def test_it_keeps_what_every_loss_keeps(nonzero_only):
    check_loss(PointwisePairLoss(pull, push, nonzero_only=nonzero_only))


def test_a_second_gradient_is_refused():
    z = torch.randn(4, 3, requires_grad=True)
    batch = rows(z, torch.tensor([0, 0, 1, 1]))
    with pytest.raises(RuntimeError, match="takes its gradient in the forward and has no second one"):
        torch.autograd.grad(PointwisePairLoss(pull, push)(batch, batch), z, create_graph=True)
