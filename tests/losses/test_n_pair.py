"""N-pair against its formula, written as loops from Sohn 2016."""

from __future__ import annotations

import pytest
import torch
from pytorch_metric_learning.losses import NPairsLoss

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


def by_loops(anchors, references):
    """The mean over positive pairs of log(1 + sum over negatives of e^(s_an - s_ap))."""
    zero = anchors.z.new_zeros(())
    costs = [
        log_sum_exp([zero, *(s_an - s_ap for s_an in apart)])
        for alike, apart in partners(anchors, references)
        for s_ap in alike
    ]
    return mean(costs)


@pytest.mark.parametrize("kind", ROWS)
def test_the_formula(kind):
    agree(build("loss", "n-pair"), by_loops, kind)


def test_lower_precision_is_right_to_rounding():
    agree_in_lower_precision(build("loss", "n-pair"), by_loops, 1.0)


def test_it_is_nt_xent_at_temperature_one():
    _, _, batch = peer_batch([0, 1, 0, 1, 2, 2, 0])
    values = build("loss", "n-pair")(batch, batch), build("loss", "nt-xent", temperature=1.0)(batch, batch)
    assert torch.equal(*values)


def test_as_in_pytorch_metric_learning():
    # The peer takes the first pair of each label, and as negatives only the other pairs' second rows.
    z, labels, batch = peer_batch([0, 1, 2, 3] * 2)
    unit = torch.nn.functional.normalize(z)
    same_as_peer(build("loss", "n-pair")(batch[:4], batch[4:]), NPairsLoss()(unit, labels), z)
