"""What every built-in miner does with rows that are NaN, and with the loss behind it."""

from __future__ import annotations

from importlib.metadata import entry_points

import pytest
import torch

from metriclab.core.rows import rows
from metriclab.registry import build
from tests.support.mining import broken, lost

MINERS = sorted({point.name for point in entry_points(group="metriclab.miner")})
SIDES = [name for name in MINERS if name in ("hard-pairs", "semihard-pairs", "easy-pairs")]
PARAMETERS = [*((name, {}) for name in MINERS), *((name, {"sides": "both"}) for name in SIDES)]


@pytest.mark.parametrize(("name", "parameters"), PARAMETERS)
def test_a_pair_that_is_nan_stays(name, parameters):
    miner = build("miner", name, **parameters)
    for labels in ([0, 0, 1, 1, 2, -1, 0], [0, 1, 2], [3, 3, 3]):
        for row in range(len(labels)):
            pairs = broken(labels, row)
            assert not lost(pairs, miner(pairs)).any()


@pytest.mark.parametrize("loss", ["contrastive", "triplet", "nt-xent", "multi-similarity", "logistic"])
@pytest.mark.parametrize("name", MINERS)
def test_the_loss_of_a_broken_row_is_nan(name, loss):
    z = torch.randn(8, 4)
    z[3] = torch.nan
    batch = rows(z, torch.arange(8) % 3)
    assert build("loss", loss)(batch, batch, miner=build("miner", name)).isnan()
