"""The normalised softmax against its formula, written as loops from Zhai & Wu 2019."""

from __future__ import annotations

import math

import pytest
import torch
from pytorch_metric_learning.losses import NormalizedSoftmaxLoss
from torch.nn.functional import cross_entropy, normalize

from metriclab.core.rows import rows
from metriclab.core.tiles import forced_tile_cells
from metriclab.memories.proxies import Proxies
from metriclab.registry import build
from metriclab.testing import measure
from tests.support.class_losses import (
    CLASSES,
    agree_in_bfloat16,
    class_batch,
    proxies,
    same_as_peer_over_proxies,
    softmax_by_loops,
)
from tests.support.loss_loops import ROWS, agree, agree_in_lower_precision

TEMPERATURES = [1.0, 0.05, 0.001, 2e-4]


def by_loops(t):
    return softmax_by_loops(lambda s: s / t, lambda s: s / t)


def make(t):
    return build("loss", "normalized-softmax", temperature=t)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("t", TEMPERATURES)
def test_the_formula(t, kind):
    agree(make(t), by_loops(t), kind)


@pytest.mark.parametrize("t", TEMPERATURES)
def test_lower_precision_is_right_to_rounding(t):
    agree_in_lower_precision(make(t), by_loops(t), t)
    agree_in_bfloat16(make(t), by_loops(t), t)


def test_over_proxies_it_is_the_cross_entropy_of_the_cosines():
    z, labels, batch = class_batch([0, 1, 4, 2, 3, 0])
    memory = proxies()
    expected = cross_entropy(normalize(z) @ normalize(memory.directions).T / 0.05, labels)
    found = make(0.05)(batch, memory.rows())
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    leaves = [z, memory.directions]
    torch.testing.assert_close(torch.autograd.grad(found, leaves), torch.autograd.grad(expected, leaves))


def test_probabilities_of_the_proxies_of_a_class_add_up():
    z, labels, batch = class_batch([0, 1, 4, 2, 3, 0])
    memory = proxies(per_class=3)
    probabilities = (normalize(z) @ normalize(memory.directions).T / 0.2).softmax(1)
    of_classes = probabilities.reshape(len(z), CLASSES, 3).sum(2)
    expected = -of_classes[torch.arange(len(z)), labels].log().mean()
    torch.testing.assert_close(make(0.2)(batch, memory.rows()), expected, atol=1e-12, rtol=0)


def test_what_is_right_by_far_still_costs_its_small_part():
    batch = rows(torch.eye(2, dtype=torch.float64)[:1], torch.tensor([0]))
    both = rows(torch.eye(2, dtype=torch.float64), torch.tensor([0, 1]))
    assert float(make(0.02)(batch, both)) == pytest.approx(math.exp(-50), rel=1e-12)


def test_with_one_positive_an_anchor_it_is_nt_xent():
    _, _, batch = class_batch([0, 1, 2, 3] * 2)
    torch.testing.assert_close(
        make(0.2)(batch, batch), build("loss", "nt-xent", temperature=0.2)(batch, batch), atol=1e-13, rtol=0
    )


@pytest.mark.parametrize("name", ["normalized-softmax", "arcface", "cosface", "proxy-nca", "proxy-anchor"])
def test_many_classes_never_meet_the_whole_batch_at_once(name):
    classes, n = 3000, 40
    memory = Proxies(4, torch.arange(classes))
    batch = rows(torch.randn(n, 4), torch.arange(n) * 7)
    with forced_tile_cells(2 * classes), measure() as meter:
        build("loss", name)(batch, memory.rows()).backward()
    assert memory.directions.grad.any()
    assert meter.largest <= 4 * classes < n * classes / 9  # the proxies themselves are the largest


def test_as_in_pytorch_metric_learning():
    peer = NormalizedSoftmaxLoss(CLASSES, 4, temperature=0.1).double()
    same_as_peer_over_proxies(make(0.1), peer, peer.W)


def test_anomaly_detection_finds_nothing_in_rows_without_pairs():
    _, _, batch = class_batch([0, 1, 0, -1])
    with pytest.warns(UserWarning, match="Anomaly Detection has been enabled"), torch.autograd.detect_anomaly():
        make(0.05)(batch, batch).backward()
