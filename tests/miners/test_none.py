"""The miner `none`: the same pairs, and in a recipe no miner at all."""

from __future__ import annotations

import torch

from metriclab.losses import Contrastive
from metriclab.miners import NoMiner
from metriclab.recipe import read_recipe
from tests.support.tiny import TINY


def test_it_changes_no_loss():
    z, labels = torch.randn(12, 4), [0, 1, 2] * 4
    torch.testing.assert_close(Contrastive()(z, labels, miner=NoMiner()), Contrastive()(z, labels))


def test_an_entry_drops_the_miner_of_its_base(tmp_path):
    base = tmp_path / "base.toml"
    base.write_text(TINY + '[miner]\nname = "false-negatives"\nk = 3\n')
    assert read_recipe(base).components["miner"].params["k"] == 3
    dropped = read_recipe(base, ["miner.name=none"])
    assert "miner" not in dropped.components
    (tmp_path / "without.toml").write_text(TINY)
    assert dropped == read_recipe(tmp_path / "without.toml")


def test_a_method_that_takes_no_miner_may_be_told_that_there_is_none(tmp_path):
    path = tmp_path / "recipe.toml"
    path.write_text(TINY.replace('[loss]\nname = "nt-xent"\n', "") + '[miner]\nname = "none"\n')
    assert read_recipe(path, ["method.name=none", "train.steps=0"]).components["method"].name == "none"
