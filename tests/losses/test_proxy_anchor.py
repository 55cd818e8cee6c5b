"""Proxy-anchor against its formula, written as loops from Kim et al. 2020."""

from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning.losses import ProxyAnchorLoss

from metriclab.core.call_loss import apply_loss, check_miner_fits
from metriclab.core.rows import rows
from metriclab.distributed import average_gradients, gather
from metriclab.distributed import mean as mean_over_ranks
from metriclab.errors import RecipeError
from metriclab.registry import build
from metriclab.testing import check_loss, two_ranks
from tests.support.class_losses import CLASSES, agree_in_bfloat16, class_batch, proxies, same_as_peer_over_proxies
from tests.support.loss_loops import ROWS, agree, agree_in_lower_precision, log_sum_exp, mean

SETTINGS = [(1.0, 0.1), (32.0, 0.1), (32.0, 0.0), (1000.0, 0.5), (5000.0, 0.1)]


def by_loops(scale, margin):
    def loss(anchors, references):
        pulls, pushes = [], []
        for proxy, label, identity in zip(references.z, references.labels, references.ids, strict=True):
            if label < 0:
                continue
            zero = proxy.new_zeros(())
            pull, push = [zero], [zero]
            for image, other, its in zip(anchors.z, anchors.labels, anchors.ids, strict=True):
                if other >= 0 and its != identity:
                    s = (image * proxy).sum()
                    (pull if other == label else push).append(scale * (margin - s if other == label else s + margin))
            if len(pull) > 1:
                pulls.append(log_sum_exp(pull))
            pushes.append(log_sum_exp(push))
        return mean(pulls) + mean(pushes) + 0 * anchors.z.sum()

    return loss


def make(scale, margin):
    return build("loss", "proxy-anchor", scale=scale, margin=margin)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_formula(setting, kind):
    agree(make(*setting), by_loops(*setting), kind)


@pytest.mark.parametrize("setting", SETTINGS)
def test_lower_precision_is_right_to_rounding(setting):
    agree_in_lower_precision(make(*setting), by_loops(*setting), 1 / setting[0])
    agree_in_bfloat16(make(*setting), by_loops(*setting), 1 / setting[0])


def test_by_hand():
    # Proxies at right angles, an image at the first one's place: its class is pulled, the two others pushed.
    batch = rows(torch.eye(3, dtype=torch.float64)[:1], torch.tensor([0]))
    held = rows(torch.eye(3, dtype=torch.float64), torch.tensor([0, 1, 2]))
    pull, push = math.log1p(math.exp(-2 * 0.9)), math.log1p(math.exp(2 * 0.1))
    assert float(make(2.0, 0.1)(batch, held)) == pytest.approx(pull + 2 * push / 3, rel=1e-12)


@pytest.mark.parametrize("setting", SETTINGS[:3])
def test_as_in_pytorch_metric_learning(setting):
    scale, margin = setting
    peer = ProxyAnchorLoss(CLASSES, 4, margin=margin, alpha=scale).double()
    same_as_peer_over_proxies(make(*setting), peer, peer.proxies)


def test_a_memory_without_labels_costs_nothing_and_has_a_live_gradient():
    z, _, batch = class_batch([0, 1, 0])
    value = make(32.0, 0.1)(batch, build("memory", "ring", 4, torch.arange(2), size=5).rows())
    assert float(value.detach()) == 0
    assert not torch.autograd.grad(value, z)[0].any()


def test_other_settings_keep_what_the_kit_asks():
    check_loss(make(4.0, 0.0), ranks=False)


def test_it_takes_no_miner():
    with pytest.raises(RecipeError, match="ProxyAnchor takes no miner"):
        check_miner_fits(make(32.0, 0.1), lambda pairs: pairs)


def step(share, names, memory, z, labels):
    """Value and gradients of losses over proxies, the embeddings being parameters of all ranks."""
    result = {}
    for name in names:
        leaf = torch.nn.Parameter(z.clone())
        part = share.of(len(z))
        local = rows(leaf[part], labels[part], ids=torch.arange(len(z))[part])
        memory.directions.grad = None
        value = apply_loss(build("loss", name), local, gather(local), memory.rows())
        value.backward()
        if leaf.grad is None:
            leaf.grad = torch.zeros_like(leaf)
        average_gradients([leaf, memory.directions])
        result |= {
            f"{name} loss": mean_over_ranks(value.detach()),
            f"{name} embeddings": leaf.grad,
            f"{name} proxies": memory.directions.grad.clone(),
        }
    return result


def test_every_loss_over_proxies_is_the_same_on_every_rank():
    z, labels = torch.randn(7, 4, dtype=torch.float64), torch.tensor([0, 1, 0, 4, 4, -1, -1])
    names = ["proxy-anchor", "proxy-nca", "normalized-softmax", "arcface", "cosface"]
    two_ranks(step, names, proxies(per_class=2), z, labels)
