"""The bridge to pytorch-metric-learning: its losses as oracles of ours, how it calls them, and their faults."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from pytorch_metric_learning import losses, miners
from torch import Tensor

from metriclab.core.rows import Rows, concatenate, rows
from metriclab.errors import RecipeError
from metriclab.registry import build
from metriclab.testing import check_loss
from tests.support.loss_loops import peer_batch


def pml(loss: str, params=None, miner: str | None = None, miner_params=None, classes=8, width=4):
    return build(
        "loss", "pml", width, torch.arange(classes), loss=loss, params=params, miner=miner, miner_params=miner_params
    )


def memory(batch: Rows, n: int = 6) -> Rows:
    """Rows that are none of the batch."""
    return rows(torch.randn(n, batch.embedding_dim, dtype=torch.float64), torch.arange(n) % 3)


def same(value: Tensor, peer: Tensor, z: Tensor) -> None:
    """Equal values, and equal gradients of the raw embeddings."""
    torch.testing.assert_close(value, peer, atol=1e-10, rtol=0)
    gradients = [torch.autograd.grad(one, z, retain_graph=True)[0] for one in (value, peer)]
    torch.testing.assert_close(*gradients, atol=1e-10, rtol=0)


# The library as oracle of our own losses.

SAME = [
    (
        ("contrastive", {"variant": "squared-margin", "margin": 1.0}),
        ("ContrastiveLoss", {"distance": {"name": "LpDistance", "power": 2}, "reducer": "MeanReducer"}),
    ),
    (
        ("contrastive", {"variant": "cosine"}),
        ("ContrastiveLoss", {"distance": "CosineSimilarity", "pos_margin": 1, "neg_margin": 0.5}),
    ),
    (
        ("triplet", {"margin": 0.3}),
        ("TripletMarginLoss", {"margin": 0.3, "distance": {"name": "LpDistance", "power": 2}}),
    ),
    (
        ("triplet", {"margin": 0.3, "soft": True}),
        ("TripletMarginLoss", {"margin": 0.3, "smooth_loss": True, "distance": {"name": "LpDistance", "power": 2}}),
    ),
    (("nt-xent", {"temperature": 0.07}), ("NTXentLoss", {})),
    (("supcon", {"temperature": 0.2}), ("SupConLoss", {"temperature": 0.2})),
    (("multi-similarity", {"base": 0.4}), ("MultiSimilarityLoss", {"base": 0.4})),
]


@pytest.mark.parametrize(("ours", "theirs"), SAME, ids=lambda pair: pair[0])
def test_our_losses_are_as_theirs(ours, theirs):
    z, _, batch = peer_batch([0, 1, 0, 2, 1, 0, 2, 2])
    peer = pml(*theirs)
    for references in (batch, memory(batch), concatenate([batch, memory(batch)])):
        same(build("loss", ours[0], **ours[1])(batch, references), peer(batch, references), z)


def test_rows_of_unknown_label_and_huge_labels():
    big = 2**62
    z, _, batch = peer_batch([big, 0, big, -1, 0, big - 1, -7, big - 1])
    same(build("loss", "supcon")(batch, batch), pml("SupConLoss")(batch, batch), z)
    others = replace(memory(batch), labels=torch.tensor([big, -1, 0, big - 1, 0, 5]))
    same(build("loss", "supcon")(batch, others), pml("SupConLoss")(batch, others), z)


# The bridge calls the library as it is meant to be called.


def test_a_batch_is_what_the_library_makes_of_it():
    z, labels, batch = peer_batch([0, 1, 0, 2, 1, 0, 2, 2])
    miner = miners.MultiSimilarityMiner(epsilon=0.3)
    expected = losses.CircleLoss(m=0.3, gamma=20)(z, labels, miner(z, labels))
    found = pml("CircleLoss", {"m": 0.3, "gamma": 20}, "MultiSimilarityMiner", {"epsilon": 0.3})(batch, batch)
    same(found, expected, z)
    others = memory(batch)
    chosen = miner(z, labels, others.z, others.labels)
    expected = losses.CircleLoss(m=0.3, gamma=20)(z, labels, chosen, others.z, others.labels)
    found = pml("CircleLoss", {"m": 0.3, "gamma": 20}, "MultiSimilarityMiner", {"epsilon": 0.3})(batch, others)
    same(found, expected, z)


def test_weights_are_those_of_the_training_classes():
    classes = torch.tensor([3, 40, 2**62])
    loss = build("loss", "pml", 4, classes, loss="ArcFaceLoss", params={"scale": 8}).double()
    assert {name: tuple(p.shape) for name, p in loss.named_parameters()} == {"loss.W": (4, 3)}
    z, labels, _ = peer_batch([1, 0, 2, 2, 1])
    batch = rows(z, classes[labels])
    same(loss(batch, batch), loss.loss(z, labels), z)
    loss(batch, batch).backward()
    assert loss.loss.W.grad.any()
    strange = rows(z, labels + 3)
    with pytest.raises(RecipeError, match=r"learns weights for the training classes, and 4 is none\n  help: use it in"):
        loss(strange, strange)


def test_a_boundary_for_each_class_where_the_recipe_says_how_many():
    assert pml("MarginLoss", {"learn_beta": True}).loss.beta.shape == (1,)
    assert pml("MarginLoss", {"learn_beta": True, "num_classes": 8}).loss.beta.shape == (8,)
    with pytest.raises(RecipeError, match="num_classes of MarginLoss is 7, but there are 8 training classes"):
        pml("MarginLoss", {"num_classes": 7})


def test_state_that_the_library_forgets_is_kept():
    _, _, batch = peer_batch([0, 1, 0, 2, 1, 0, 2, 2])
    loss, resumed = pml("DynamicSoftMarginLoss"), pml("DynamicSoftMarginLoss").double()
    loss(batch, batch)
    resumed.load_state_dict(loss.state_dict())
    assert resumed.loss.hist_.any()
    assert torch.equal(loss(batch, batch), resumed(batch, batch))


@pytest.mark.parametrize(
    ("given", "checks"),
    [
        ({"loss": "CircleLoss"}, {"gradcheck": False}),  # it holds its pairs' weights constant
        ({"loss": "TripletMarginLoss", "params": {"margin": 0.5}, "miner": "BatchHardMiner"}, {}),
        ({"loss": "MarginLoss", "params": {"learn_beta": True}, "miner": "DistanceWeightedMiner"}, {}),
        ({"loss": "TripletMarginLoss", "params": {"triplets_per_anchor": 2, "margin": 1}}, {}),
        # It has nothing to say of a single positive pair.
        ({"loss": "NPairsLoss"}, {"signs": False}),
        ({"loss": "NCALoss"}, {}),
        ({"loss": "ProxyAnchorLoss"}, {"signs": False}),  # proxies, and not rows, attract and repel
        ({"loss": "SubCenterArcFaceLoss", "params": {"margin": 5, "scale": 4}}, {"signs": False}),
    ],
    ids=lambda value: "-".join(str(part) for part in value.values() if isinstance(part, str)),
)
def test_the_kit(given, checks):
    check_loss(build("loss", "pml", 5, torch.arange(8), **given), unit=False, **checks)  # the library normalises


# Its faults.


def test_temperatures_at_which_theirs_is_cut_off():
    z = torch.tensor([[1.0, 0.0], [-1.0, 0.0], [1.0, 0.0]])
    batch = rows(z, torch.tensor([0, 0, 1]))
    anchor = replace(batch[:1], ids=torch.tensor([-5]))
    both = concatenate([batch[1:], batch[2:]])  # more than one pair, or theirs is 0
    both = replace(both, ids=torch.tensor([-6, -7, -8]))
    exact = 100 + float(torch.tensor(2.0).log())  # log(e^-50 + 2 e^50) + 50
    assert float(build("loss", "nt-xent", temperature=0.02)(anchor, both)) == pytest.approx(exact, abs=1e-4)
    assert float(pml("NTXentLoss", {"temperature": 0.02}, width=2)(anchor, both)) < 88  # -log of the least float32


def test_one_positive_and_one_negative_pair_cost_nothing_in_theirs():
    batch = rows(torch.randn(3, 4), torch.tensor([0, 0, 1]))
    anchor, others = batch[:1], batch[1:]
    for theirs, ours in (("ContrastiveLoss", "contrastive"), ("NTXentLoss", "nt-xent"), ("SupConLoss", "supcon")):
        assert float(pml(theirs)(anchor, others)) == 0
        assert float(build("loss", ours)(anchor, others)) > 0


def test_theirs_looks_references_up_among_the_batch():
    z, labels, batch = peer_batch([0, 1, 0, 2, 1, 0])
    others = memory(batch)
    back = others[torch.arange(5, -1, -1)]
    lifted = losses.LiftedStructureLoss()
    one, other = (lifted(z, labels, ref_emb=rows.z, ref_labels=rows.labels) for rows in (others, back))
    assert abs(float((one - other).detach())) > 0.001  # by the order of the references
    for name, params in (("LiftedStructureLoss", {}), ("TripletMarginLoss", {"swap": True})):
        with pytest.raises(RecipeError, match=f"{name} of pytorch-metric-learning holds a batch against itself alone"):
            pml(name, params)(batch, others)


def test_smooth_ap_is_wrong_unless_there_are_as_many_classes_as_rows_of_each():
    z, labels, batch = peer_batch([0, 0, 1, 1, 2, 2])
    s = batch.z @ batch.z.T
    costs = []
    for a in range(6):
        alike = [p for p in range(6) if labels[p] == labels[a]]
        for p in alike:
            ahead = {q: torch.sigmoid((s[a, q] - s[a, p]) / 0.01) for q in range(6) if q != p}
            costs.append((1 + sum(ahead[q] for q in alike if q != p)) / (1 + sum(ahead.values())) / len(alike))
    assert abs(float((losses.SmoothAPLoss()(z, labels) - 1 + sum(costs) / 6).detach())) > 0.001
    with pytest.raises(
        RecipeError, match="SmoothAPLoss of pytorch-metric-learning cannot be used: its values are wrong"
    ):
        pml("SmoothAPLoss")


def test_the_instance_loss_goes_by_the_order_of_rows():
    z, labels, _ = peer_batch([0, 0, 1, 1])
    back = losses.InstanceLoss()(z.flip(0), labels.flip(0))
    assert abs(float((losses.InstanceLoss()(z, labels) - back).detach())) > 1
    with pytest.raises(
        RecipeError, match="InstanceLoss of pytorch-metric-learning cannot be used: it takes the number"
    ):
        pml("InstanceLoss")


def test_a_row_that_is_not_a_number_shows():
    z, labels, _ = peer_batch([0, 1, 0, 2, 1, 0])
    with torch.no_grad():
        z[0] = torch.nan
    batch = rows(z, labels)
    assert losses.ContrastiveLoss()(z, labels).isfinite()  # its reducer averages what is above 0
    assert pml("ContrastiveLoss")(batch, batch).isnan()


def test_an_easy_miner_and_a_memory():
    z, labels, batch = peer_batch([0, 1, 0, 2, 1, 0])
    easy = {"pos_strategy": "easy", "neg_strategy": "easy"}
    loss = pml("TripletMarginLoss", {"margin": 2}, "BatchEasyHardMiner", easy)
    queue = losses.CrossBatchMemory(
        losses.TripletMarginLoss(margin=2), 4, memory_size=64, miner=miners.BatchEasyHardMiner(**easy)
    )
    assert not queue(z, labels).any()  # the batch is in its memory, and each row its own easiest positive
    assert loss(batch, memory(batch)) > 0
    with pytest.raises(
        RecipeError, match=r"BatchEasyHardMiner of .* takes a row that the memory holds too for its own"
    ):
        loss(batch, concatenate([memory(batch), batch]))
    with pytest.raises(RecipeError, match=r"NCALoss of .* takes a row that the memory holds too for its own neighbour"):
        pml("NCALoss")(batch, concatenate([memory(batch), batch]))


def test_without_any_pair_the_loss_is_0_with_a_live_gradient():
    for name in ("CircleLoss", "NCALoss", "ProxyAnchorLoss", "ContrastiveLoss"):
        z, _, batch = peer_batch([-1, -1])
        empty = replace(memory(batch), labels=torch.full((6,), -1))
        for references in (batch,) if name == "ProxyAnchorLoss" else (batch, empty):
            value = pml(name)(batch, references)
            assert float(value.detach()) == 0
            assert not torch.autograd.grad(value, z, retain_graph=True)[0].any()


def test_state_that_the_library_keeps_does_not_keep_the_graph_of_a_step():
    loss = pml("DynamicSoftMarginLoss")
    for _ in range(3):
        z = torch.randn(8, 5, requires_grad=True)
        batch = rows(z, torch.arange(8) % 3)
        loss(batch, batch).backward()
        assert z.grad is not None
