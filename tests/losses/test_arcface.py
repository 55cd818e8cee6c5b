"""ArcFace against its formula, written as loops over angles from Deng et al. 2019."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from pytorch_metric_learning.losses import ArcFaceLoss

from metriclab.core.rows import rows
from metriclab.losses.class_softmax import widened
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
from tests.support.loss_loops import ROWS, agree, agree_in_lower_precision

SETTINGS = [(1.0, 0.5), (64.0, 0.5), (20.0, 0.0), (5000.0, 1.2)]


def by_loops(scale, margin):
    def own(s):
        cosine = float(s.detach())
        if abs(cosine) > 1 - 1e-13:
            return scale * (s * math.cos(margin) if cosine > 0 else s - margin * math.sin(margin))
        angle = torch.acos(s)
        beyond = float(angle.detach()) + margin >= math.pi
        return scale * (s - margin * math.sin(margin) if beyond else torch.cos(angle + margin))

    return softmax_by_loops(own, lambda s: scale * s)


def make(scale, margin):
    return build("loss", "arcface", scale=scale, margin=margin)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_formula(setting, kind):
    agree(make(*setting), by_loops(*setting), kind)


@pytest.mark.parametrize("setting", SETTINGS)
def test_lower_precision_is_right_to_rounding(setting):
    agree_in_lower_precision(make(*setting), by_loops(*setting), 1 / setting[0])
    agree_in_bfloat16(make(*setting), by_loops(*setting), 1 / setting[0])


@pytest.mark.parametrize("margin", [0.0, 0.2, 0.5, 1.0, 1.5])
def test_the_logit_falls_with_the_angle_all_the_way(margin):
    angles = torch.linspace(0, math.pi, 2001, dtype=torch.float64)
    logits = widened(angles.cos()[None], margin)[0]
    assert (logits.diff() < 0).all()
    before = angles + margin < math.pi - 1e-9
    torch.testing.assert_close(logits[before], (angles + margin).cos()[before], atol=1e-12, rtol=0)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("cosine", [1.0, -1.0])
def test_the_gradient_is_finite_where_the_slope_of_the_angle_is_not(cosine, dtype):
    # One row is the proxy itself, or its opposite, and a hair to either side of it.
    eps = torch.finfo(dtype).eps
    s = torch.tensor([[cosine * (1 + step * eps) for step in (-100, -5, -1, 0, 1, 5)]], dtype=dtype).requires_grad_()
    (slope,) = torch.autograd.grad(widened(s, 0.5).sum(), s)
    assert slope.isfinite().all()
    assert (slope > 0).all()
    first = torch.tensor([[1.0, 0.0, 0.0]], dtype=dtype, requires_grad=True)
    third = torch.tensor([[cosine, 0.0, 0.0], [0.0, 1.0, 0.0]], dtype=dtype, requires_grad=True)
    value = make(64.0, 0.5)(rows(first, torch.tensor([0])), rows(third, torch.tensor([0, 1])))
    assert all(one.isfinite().all() for one in torch.autograd.grad(value, [first, third]))


@pytest.mark.parametrize("angle", [1e-3, 1e-2, 0.1])
def test_near_its_proxy_a_row_has_the_gradient_of_the_angle(angle):
    # The cost falls by scale sin(theta + margin) a radian, times how far it is from certain.
    turned = torch.tensor(angle, dtype=torch.float64, requires_grad=True)
    zero = torch.zeros((), dtype=torch.float64)
    anchor = rows(torch.stack([turned.cos(), turned.sin(), zero])[None], torch.tensor([0]))
    others = rows(torch.eye(3, dtype=torch.float64)[[0, 2]], torch.tensor([0, 1]))
    value = make(4.0, 0.5)(anchor, others)
    (slope,) = torch.autograd.grad(value, turned)
    doubt = 1 - math.exp(-float(value.detach()))
    assert float(slope) == pytest.approx(4 * math.sin(angle + 0.5) * doubt, rel=1e-6)


def test_without_a_margin_it_is_the_normalized_softmax():
    _, _, batch = class_batch([0, 1, 4, 2, 3, 0])
    held = proxies(per_class=2).rows()
    plain = build("loss", "normalized-softmax", temperature=1 / 64)
    torch.testing.assert_close(make(64.0, 0.0)(batch, held), plain(batch, held), atol=1e-12, rtol=0)


@pytest.mark.parametrize("setting", SETTINGS[:3])
def test_as_in_pytorch_metric_learning(setting):
    scale, margin = setting
    peer = ArcFaceLoss(CLASSES, 4, margin=math.degrees(margin), scale=scale).double()
    same_as_peer_over_proxies(make(*setting), peer, peer.W)


@pytest.mark.parametrize("setting", [(10.0, 0.0), (4.0, 1.5)])
def test_other_settings_keep_what_the_kit_asks(setting):
    check_loss(make(*setting), ranks=False)


def test_a_miner_chooses_among_the_proxies_too():
    _, _, batch = class_batch([0, 1, 4, 2])
    held = proxies().rows()

    def first_classes(pairs):
        kept = pairs.references.labels[None, :] < 3
        return replace(pairs, positive=pairs.positive & kept, negative=pairs.negative & kept)

    known = held[:3]
    mined = make(64.0, 0.5)(batch, held, miner=first_classes)
    torch.testing.assert_close(mined, make(64.0, 0.5)(batch, known), atol=1e-12, rtol=0)
