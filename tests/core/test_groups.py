"""Where rows have groups, two of one class and group are no pair: for every loss, in the memory, on the way to it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from metriclab import losses
from metriclab.core.pairs import Pairs, all_pairs
from metriclab.core.rows import Rows, count_positives, rows
from metriclab.errors import DataError, RecipeError
from metriclab.images.datasets import LabelledFile
from metriclab.losses import PML, Contrastive, NTXent, SupCon
from metriclab.memories import Proxies, Ring
from metriclab.methods import Supervised
from metriclab.miners import SameCategory
from tests.support.pictures import fill
from tests.support.small_methods import network
from tests.support.tiny import run, tiny

LABELS = torch.tensor([0, 0, 0, 1, 1, 1, -1, 0])
GROUPS = torch.tensor([2, 2, 3, 2, -1, -1, 2, 2])
PAIRWISE = [getattr(losses, name) for name in losses.__all__ if getattr(getattr(losses, name), "pairwise", False)]


def batch(groups: torch.Tensor | None = GROUPS) -> Rows:
    z = torch.randn(8, 6, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    return rows(z, LABELS, torch.arange(8), torch.arange(8), groups=groups)


def no_pair() -> torch.Tensor:
    """By the definition, cell by cell."""
    return torch.tensor(
        [
            [bool(LABELS[i] == LABELS[j] and GROUPS[i] == GROUPS[j] and GROUPS[i] >= 0) for j in range(8)]
            for i in range(8)
        ]
    )


def without_them(pairs: Pairs) -> Pairs:
    place = pairs.anchors.items
    return replace(pairs, positive=pairs.positive & ~no_pair()[place])


def test_the_masks():
    plain, grouped = (all_pairs(each, each) for each in (batch(None), batch()))
    assert torch.equal(grouped.positive, plain.positive & ~no_pair())
    assert torch.equal(grouped.negative, plain.negative)
    one_side = all_pairs(batch(), batch(None))
    assert torch.equal(one_side.positive, plain.positive)
    assert torch.equal(count_positives(batch(), batch()), grouped.positive.sum(1))
    assert torch.equal(count_positives(batch(), batch(None)), plain.positive.sum(1))


@pytest.mark.parametrize("loss", PAIRWISE, ids=lambda loss: loss.__name__)
def test_every_loss_of_pairs_leaves_them_out(loss):
    try:
        criterion = loss()
    except TypeError:
        pytest.skip("is built from a run's classes, and held against rows of no group")
    expected = criterion(batch(None), miner=without_them)
    assert float(criterion(batch())) == pytest.approx(float(expected), rel=1e-12)


def test_some_of_them_were_tried():
    assert {NTXent, SupCon, Contrastive} <= set(PAIRWISE)


def test_a_memory_keeps_groups_and_an_older_state_has_none():
    memory = Ring(6, size=16)
    memory.push(batch())
    held = memory.rows()
    assert held.groups[held.labels >= 0].sort().values.tolist() == GROUPS[LABELS >= 0].sort().values.tolist()
    expected = (all_pairs(batch(), batch()).positive.sum(1)).tolist()
    assert count_positives(batch(), held).tolist() == expected
    state = {name: value for name, value in memory.state_dict().items() if "groups" not in name}
    memory.load_state_dict({name: value for name, value in state.items() if "categories" not in name})
    assert memory.rows().groups.unique().tolist() == [-1]


def test_negatives_of_the_same_category():
    categories = torch.tensor([0, 0, 1, 0, 1, 1, 0, -1])
    pairs = all_pairs(*[replace(batch(None), categories=categories)] * 2)
    kept = SameCategory()(pairs)
    assert torch.equal(kept.positive, pairs.positive)
    for anchor in range(8):
        for other in range(8):
            alike = bool(categories[anchor] < 0 or categories[anchor] == categories[other])
            assert kept.negative[anchor, other] == (pairs.negative[anchor, other] & alike)


def test_a_memory_of_proxies_has_no_groups():
    with pytest.raises(RecipeError, match="has no effect beside a memory whose rows are of no group"):
        Supervised(
            network(batch_norm=False), loss=NTXent(), memory=Proxies(6, torch.tensor([0, 1])), positives="across-groups"
        )


@pytest.mark.usefixtures("cache")
def test_a_run_trains_across_groups_and_refuses_data_without(tmp_path: Path):
    fill(tmp_path / "photos", 24)
    lines = [f"{n:03}.png,{'abc'[n % 3]},cam{n % 2},{'xxy'[n % 3]}" for n in range(24)]
    settings = [
        "data.name=folder",
        "data.size=12",
        "data.val=0",
        "data.test=0.25",
        "sampler.batch_size=8",
        "train.steps=2",
    ]
    losses_by_way = {}
    for name, header in (("with", "path,label,group,category"), ("without", "path,label,cam,kind")):
        table = tmp_path / "photos" / f"{name}.csv"
        table.write_text("\n".join([header, *lines]) + "\n")
        for positives in ("all", "across-groups"):
            way = [f"data.root={table}", "method.name=supervised", f"method.positives={positives}"]
            recipe, folder = tiny(tmp_path, *settings, *way), tmp_path / f"{name} {positives}"
            if (name, positives) == ("without", "across-groups"):
                with pytest.raises(DataError, match="the method goes by groups, and the train split has none"):
                    run(recipe, folder)
            else:
                run(recipe, folder)
                losses_by_way[name, positives] = (folder / "metrics.jsonl").read_text().splitlines()[0]
    assert losses_by_way["with", "across-groups"] != losses_by_way["with", "all"]


def test_a_loss_of_another_library_says_that_it_knows_no_groups():
    with pytest.raises(RecipeError, match="ContrastiveLoss of pytorch-metric-learning goes by labels, and knows of no"):
        PML(6, torch.tensor([0, 1]), loss="ContrastiveLoss")(batch(), batch())


def test_a_file_has_no_group_unless_it_is_given_one():
    assert LabelledFile(Path("a.png")).group == ""
    assert np.array([LabelledFile(Path("a.png")).query]).tolist() == [False]
