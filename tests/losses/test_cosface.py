"""CosFace against its formula, written as loops from Wang et al. 2018."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.losses import CosFaceLoss

from metriclab.registry import build
from tests.support.class_losses import (
    CLASSES,
    agree_in_bfloat16,
    class_batch,
    proxies,
    same_as_peer_over_proxies,
    softmax_by_loops,
)
from tests.support.loss_loops import ROWS, agree, agree_in_lower_precision

SETTINGS = [(1.0, 0.35), (64.0, 0.35), (20.0, 0.0), (5000.0, 1.0)]


def by_loops(scale, margin):
    return softmax_by_loops(lambda s: scale * (s - margin), lambda s: scale * s)


def make(scale, margin):
    return build("loss", "cosface", scale=scale, margin=margin)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_formula(setting, kind):
    agree(make(*setting), by_loops(*setting), kind)


@pytest.mark.parametrize("setting", SETTINGS)
def test_lower_precision_is_right_to_rounding(setting):
    agree_in_lower_precision(make(*setting), by_loops(*setting), 1 / setting[0])
    agree_in_bfloat16(make(*setting), by_loops(*setting), 1 / setting[0])


def test_without_a_margin_it_is_the_normalized_softmax():
    _, _, batch = class_batch([0, 1, 4, 2, 3, 0])
    held = proxies(per_class=2).rows()
    plain = build("loss", "normalized-softmax", temperature=1 / 64)
    torch.testing.assert_close(make(64.0, 0.0)(batch, held), plain(batch, held), atol=1e-12, rtol=0)


@pytest.mark.parametrize("setting", SETTINGS[:3])
def test_as_in_pytorch_metric_learning(setting):
    scale, margin = setting
    peer = CosFaceLoss(CLASSES, 4, margin=margin, scale=scale).double()
    same_as_peer_over_proxies(make(*setting), peer, peer.W)
