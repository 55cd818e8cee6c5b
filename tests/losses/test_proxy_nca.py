"""Proxy-NCA against its formula, written as loops from Movshovitz-Attias et al. 2017, and ProxyNCA++."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.losses import ProxyNCALoss

from metriclab.core.rows import rows
from metriclab.registry import build
from metriclab.testing import check_loss
from tests.support.class_losses import (
    CLASSES,
    agree_in_bfloat16,
    class_batch,
    proxies,
    same_as_peer_over_proxies,
    softmax_by_loops,
)
from tests.support.loss_loops import ROWS, agree, agree_in_lower_precision, log_sum_exp, mean, partners

TEMPERATURES = [1.0, 0.11, 0.001, 4e-4]


def by_loops(t):
    """By squared distances; the mean over anchors with a positive and a negative."""

    def loss(anchors, references):
        costs = []
        for alike, apart in partners(anchors, references):
            if alike and apart:
                own, others = (log_sum_exp([-(2 - 2 * s) / t for s in cosines]) for cosines in (alike, apart))
                costs.append(others - own)
        return mean(costs)

    return loss


def plus_by_loops(t):
    return softmax_by_loops(lambda s: -(2 - 2 * s) / t, lambda s: -(2 - 2 * s) / t)


BY_LOOPS = {"negatives": by_loops, "all": plus_by_loops}


def make(t, denominator):
    return build("loss", "proxy-nca", temperature=t, denominator=denominator)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("denominator", BY_LOOPS)
def test_the_formula(denominator, t, kind):
    agree(make(t, denominator), BY_LOOPS[denominator](t), kind)


@pytest.mark.parametrize("t", TEMPERATURES)
@pytest.mark.parametrize("denominator", BY_LOOPS)
def test_lower_precision_is_right_to_rounding(denominator, t):
    # A distance has twice the rounding of a cosine.
    agree_in_lower_precision(make(t, denominator), BY_LOOPS[denominator](t), t / 2)
    agree_in_bfloat16(make(t, denominator), BY_LOOPS[denominator](t), t / 2)


def test_with_all_in_the_denominator_it_is_the_normalized_softmax_at_half_the_temperature():
    _, _, batch = class_batch([0, 1, 4, 2, 3, 0])
    held = proxies(per_class=2).rows()
    softmax = build("loss", "normalized-softmax", temperature=0.1)
    torch.testing.assert_close(make(0.2, "all")(batch, held), softmax(batch, held), atol=1e-13, rtol=0)


def test_an_anchor_that_is_right_is_drawn_on_unless_its_proxy_is_in_the_denominator():
    batch = rows(torch.eye(2, dtype=torch.float64)[:1], torch.tensor([0]))
    both = rows(torch.tensor([[1.0, 0.0], [-1.0, 0.0]], dtype=torch.float64), torch.tensor([0, 1]))
    assert float(make(0.1, "negatives")(batch, both)) == pytest.approx(-40)  # -(4 - 0) / t
    assert 0 < float(make(0.1, "all")(batch, both)) < 1e-17


def test_all_in_the_denominator_keeps_what_the_kit_asks():
    check_loss(make(0.11, "all"), ranks=False)


@pytest.mark.parametrize("scale", [1.0, 9.0])
def test_as_in_pytorch_metric_learning(scale):
    # That library has the positive in the denominator.
    peer = ProxyNCALoss(CLASSES, 4, softmax_scale=scale).double()
    same_as_peer_over_proxies(make(1 / scale, "all"), peer, peer.proxies)


def test_the_hardest_anchors_cost_most_unlike_in_pytorch_metric_learning():
    # There the share of a far proxy underflows to 0, and the anchor is left out: the mean is that of the third alone.
    z, labels = torch.eye(4)[:3], torch.tensor([0, 1, 2])
    memory = proxies().float()
    memory.directions.data = torch.eye(4)[[1, 0, 2, 3, 3]]  # the first two are each on the other's
    peer = ProxyNCALoss(CLASSES, 4, softmax_scale=100.0)
    peer.proxies.data = memory.directions.detach().clone()
    assert float(peer(z, labels).detach()) == 0
    assert float(make(0.01, "all")(rows(z, labels), memory.rows()).detach()) == pytest.approx(400 / 3)
