"""The multi-similarity loss against its formula, written as loops from Wang et al. 2019."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pytorch_metric_learning.losses import MultiSimilarityLoss

from metriclab.core.rows import rows
from metriclab.registry import build
from tests.support.loss_loops import (
    ROWS,
    agree,
    agree_in_lower_precision,
    log_sum_exp,
    mean,
    partners,
    peer_batch,
    same_as_peer,
)

SETTINGS = [(2.0, 50.0, 0.5), (1.0, 1.0, 1.0), (10.0, 10.0, -0.2), (50.0, 1000.0, 0.0), (1000.0, 2.0, 0.7)]


def by_loops(alpha, beta, base):
    """The mean over anchors of known label; a sum over no pairs is 0."""

    def loss(anchors, references):
        zero = anchors.z.new_zeros(())
        costs = []
        for alike, apart in partners(anchors, references):
            pull = log_sum_exp([zero, *(-alpha * (s - base) for s in alike)]) / alpha
            push = log_sum_exp([zero, *(beta * (s - base) for s in apart)]) / beta
            costs.append(pull + push)
        return mean(costs)

    return loss


def make(alpha, beta, base):
    return build("loss", "multi-similarity", alpha=alpha, beta=beta, base=base)


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("setting", SETTINGS)
def test_the_formula(setting, kind):
    agree(make(*setting), by_loops(*setting), kind)


@pytest.mark.parametrize("setting", SETTINGS)
def test_lower_precision_is_right_to_rounding(setting):
    # A similarity's rounding reaches the value unscaled; the slope, through a softmax, at 1 / t = max(alpha, beta).
    agree_in_lower_precision(make(*setting), by_loops(*setting), 1 / max(setting[:2]))


def test_float32_values_do_not_suffer_from_sharpness():
    batch = rows(torch.randn(32, 12), torch.arange(32) % 9)
    double = replace(batch, z=batch.z.double())
    for setting in SETTINGS:
        expected = float(by_loops(*setting)(double, double))
        assert float(make(*setting)(batch, batch)) == pytest.approx(expected, abs=8 * 2**-23)


def test_an_anchor_counts_whatever_a_miner_leaves_of_its_pairs():
    _, _, batch = peer_batch([0, 1, 0, 1])
    first = torch.tensor([True, False, False, False])[:, None]

    def only_the_first(pairs):
        return replace(pairs, positive=pairs.positive & first, negative=pairs.negative & first)

    loss = build("loss", "multi-similarity")
    torch.testing.assert_close(loss(batch, batch, miner=only_the_first), loss(batch[:1], batch) / 4)


@pytest.mark.parametrize("setting", SETTINGS)
def test_as_in_pytorch_metric_learning(setting):
    alpha, beta, base = setting
    # Where the peer is right: no label is unknown.
    z, labels, batch = peer_batch([0, 1, 0, 2, 1, 0, 3])
    same_as_peer(make(*setting)(batch, batch), MultiSimilarityLoss(alpha=alpha, beta=beta, base=base)(z, labels), z)


def test_anomaly_detection_finds_nothing_in_rows_without_pairs():
    _, _, batch = peer_batch([0, 1, 0, -1])
    with pytest.warns(UserWarning, match="Anomaly Detection has been enabled"), torch.autograd.detect_anomaly():
        build("loss", "multi-similarity")(batch, batch).backward()
