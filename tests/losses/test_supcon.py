"""SupCon against its formula, written as loops from Khosla et al. 2020, equation 2."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pytorch_metric_learning.losses import SupConLoss

from metriclab.core.rows import concatenate, rows
from metriclab.core.tiles import forced_tile_cells
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

TEMPERATURES = [1.0, 0.1, 0.02, 0.001, 2e-4]


def by_loops(t):
    """The mean over anchors with a positive of the mean over their positives."""

    def loss(anchors, references):
        costs = []
        for alike, apart in partners(anchors, references):
            if alike:
                others = log_sum_exp([s / t for s in alike + apart])
                costs.append(mean([others - s / t for s in alike]))
        return mean(costs)

    return loss


@pytest.mark.parametrize("kind", ROWS)
@pytest.mark.parametrize("t", TEMPERATURES)
def test_the_formula(t, kind):
    agree(build("loss", "supcon", temperature=t), by_loops(t), kind)


def everything(pairs):
    return pairs


@settings(deadline=None, max_examples=40)
@given(
    labels=st.lists(st.integers(-1, 4), min_size=1, max_size=14),
    anchors=st.integers(1, 14),
    t=st.sampled_from([1.0, 0.02, 2e-4]),
    cells=st.sampled_from([1, 30, 10_000]),
)
def test_the_closed_form_is_the_generic_path_whatever_the_labels_and_tiles(labels, anchors, t, cells):
    loss = build("loss", "supcon", temperature=t)
    z, older = (torch.randn(n, 4, dtype=torch.float64, requires_grad=True) for n in (len(labels), 5))
    outcomes = []
    for options in ({}, {"miner": everything}):
        batch = rows(z, torch.tensor(labels))
        references = concatenate([batch[1:], rows(older, torch.tensor([0, 1, -1, 7, 0]))])
        with forced_tile_cells(cells):
            value = loss(batch[:anchors], references, **options)
        outcomes.append((value, *torch.autograd.grad(value, (z, older))))
    for found, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-11 / t, rtol=0)


@pytest.mark.parametrize("labels", [[0, 1, 0, -1, 1, 0], [0, 1, -1, -1, -1, 0]], ids=["known", "unknown"])
def test_a_row_that_the_references_hold_twice_is_still_itself(labels):
    loss = build("loss", "supcon", temperature=0.2)
    ids = torch.tensor([1, 2, 3, 1, 2, 1])
    z = torch.randn(6, 4, dtype=torch.float64, requires_grad=True)
    outcomes = []
    for options in ({}, {"miner": everything}):
        batch = rows(z, torch.tensor(labels), ids=ids)
        value = loss(batch[:3], batch, **options)
        outcomes.append((value, *torch.autograd.grad(value, z)))
    for found, expected in zip(*outcomes, strict=True):
        torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_a_class_of_very_many_rows_keeps_its_digits():
    z, labels = torch.ones(4096, 8) + 0.01 * torch.randn(4096, 8), torch.arange(4096) % 2
    gradients = []
    for dtype in (torch.float32, torch.float64):
        leaf = z.to(dtype, copy=True).requires_grad_()
        batch = rows(leaf, labels)
        build("loss", "supcon", temperature=0.05)(batch[:64], batch).backward()
        gradients.append(leaf.grad.double())
    single, double = gradients
    assert float((single - double).norm() / double.norm()) < 5e-5


@pytest.mark.parametrize("t", TEMPERATURES)
def test_lower_precision_is_right_to_rounding(t):
    agree_in_lower_precision(build("loss", "supcon", temperature=t), by_loops(t), t)


def test_identical_rows_cost_the_logarithm_of_the_others():
    batch = rows(torch.ones(6, 3), torch.tensor([0, 0, 0, 1, 1, 2]))
    assert float(build("loss", "supcon")(batch, batch)) == pytest.approx(math.log(5), abs=1e-5)


def test_an_anchor_counts_once_however_many_positives_it_has():
    # Three rows at one place, two at right angles: log(2 + 2 / e) three times, log(1 + 3) twice.
    z = torch.eye(3, dtype=torch.float64)[[0, 0, 0, 1, 2]]
    batch = rows(z, torch.tensor([0, 0, 0, 1, 1]))
    value = float(build("loss", "supcon", temperature=1.0)(batch, batch))
    assert value == pytest.approx((3 * math.log(2 + 2 / math.e) + 2 * math.log(4)) / 5, abs=1e-14)


def test_with_one_positive_an_anchor_it_is_nt_xent():
    _, _, batch = peer_batch([0, 1, 2, 3] * 2)
    supcon, nt_xent = (build("loss", name, temperature=0.2)(batch, batch) for name in ("supcon", "nt-xent"))
    torch.testing.assert_close(supcon, nt_xent, atol=1e-13, rtol=0)


def test_what_a_miner_leaves_out_is_in_no_denominator():
    _, _, batch = peer_batch([0, 1, 0, 1, 1])

    def no_negatives(pairs):
        return replace(pairs, negative=torch.zeros_like(pairs.negative))

    alone = [build("loss", "supcon")(part, part) for part in (batch[batch.labels == label] for label in (0, 1))]
    mined = build("loss", "supcon")(batch, batch, miner=no_negatives)
    torch.testing.assert_close(mined, (2 * alone[0] + 3 * alone[1]) / 5, atol=1e-13, rtol=0)


@pytest.mark.parametrize("t", TEMPERATURES[:3])
def test_as_in_pytorch_metric_learning(t):
    # Where the peer is right: there is a negative, no anchor costs exactly 0, no label is unknown.
    z, labels, batch = peer_batch([0, 1, 0, 2, 1, 0, 3])
    same_as_peer(build("loss", "supcon", temperature=t)(batch, batch), SupConLoss(temperature=t)(z, labels), z)


def test_positives_alone_still_cost_unlike_in_pytorch_metric_learning():
    z, labels, batch = peer_batch([0, 0, 0])
    assert SupConLoss()(z, labels) == 0
    assert float(build("loss", "supcon")(batch, batch).detach()) >= math.log(2)


def test_anomaly_detection_finds_nothing_in_rows_without_pairs():
    _, _, batch = peer_batch([0, 1, 0, -1])
    with pytest.warns(UserWarning, match="Anomaly Detection has been enabled"), torch.autograd.detect_anomaly():
        build("loss", "supcon")(batch, batch).backward()
