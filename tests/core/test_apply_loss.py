"""Which losses can be told what to leave out."""

from __future__ import annotations

from metriclab.core.call_loss import takes_miner
from metriclab.registry import build


def test_losses_over_pairs_take_a_miner():
    assert takes_miner(build("loss", "nt-xent"))
    assert takes_miner(build("loss", "contrastive"))
    assert not takes_miner(lambda anchors, references: anchors.z.sum())
