"""SimCLR as a method: on one rank and on several, with and without BatchNorm."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from metriclab.core.batch import Batch
from metriclab.core.network import Network, embedding_function
from metriclab.core.rows import rows
from metriclab.errors import RecipeError
from metriclab.methods.simclr import SimCLR
from metriclab.registry import build
from metriclab.testing import check_method
from tests.support.small_methods import network


def batch(items=(4, 1, 7, 4, 2, 9, 5), views=2, labels=None) -> Batch:
    n = len(items)
    images = tuple(torch.rand(n, 3, 4, 4) for _ in range(views))
    known = torch.full((n,), -1) if labels is None else torch.tensor(labels)
    return Batch(images, known, torch.tensor(items), torch.arange(n), 3)


@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("views", [2, 3])
def test_it_keeps_what_a_method_keeps_on_any_number_of_ranks(batch_norm, views):
    check_method(SimCLR(network(batch_norm=batch_norm), loss=build("loss", "nt-xent")), batch(views=views))


@pytest.mark.parametrize("loss", ["contrastive", "triplet"])
def test_any_loss_can_take_the_place_of_nt_xent(loss):
    check_method(SimCLR(network(batch_norm=True), loss=build("loss", loss)), batch())


@pytest.mark.parametrize("miner", ["false-negatives", "distance-weighted"])
def test_with_a_miner_too(miner):
    chosen = build("miner", miner, k=2)
    check_method(SimCLR(network(batch_norm=True), loss=build("loss", "nt-xent"), miner=chosen), batch())


def test_it_is_the_loss_of_the_mined_pairs():
    loss, miner = build("loss", "nt-xent"), build("miner", "false-negatives", threshold=-1.0, k=3)
    method, images = SimCLR(network(batch_norm=False), loss=loss, miner=miner), batch()
    outputs = method(images)
    mined = method.objective(outputs, outputs).loss
    assert torch.equal(mined, loss(outputs, outputs, miner=miner))
    assert float(mined.detach()) < float(loss(outputs, outputs).detach())  # its costliest negatives are gone


def test_a_miner_beside_a_loss_that_takes_none_is_refused():
    with pytest.raises(RecipeError, match="takes no miner"):
        SimCLR(network(batch_norm=False), loss=lambda anchors, references: 0, miner=build("miner", "false-negatives"))


def test_a_rank_without_positives_changes_nothing():
    # With one view an image has no positive, unless it is drawn twice: here only the first ranks' images are.
    items = (0, 0, 1, 1, 0, 2, 3)
    check_method(SimCLR(network(batch_norm=True), loss=build("loss", "nt-xent")), batch(items, views=1))


def test_one_step_is_algorithm_1():
    torch.manual_seed(3)
    method, images = SimCLR(network(batch_norm=False), loss=build("loss", "nt-xent", temperature=0.5)), batch(range(5))
    outputs = method(images)
    loss, metrics = method.objective(outputs, outputs)
    z = torch.cat([method.network(view).z for view in images.views])
    z = (z / z.norm(dim=1, keepdim=True)).tolist()
    similarity = [[math.exp(sum(a * b for a, b in zip(x, y, strict=True)) / 0.5) for y in z] for x in z]
    costs = [
        -math.log(row[(i + 5) % 10] / sum(value for k, value in enumerate(row) if k != i))
        for i, row in enumerate(similarity)
    ]
    assert float(loss.detach()) == pytest.approx(sum(costs) / 10, abs=1e-5)
    assert metrics == {}


def with_ring(size: int, *, batch_norm: bool = False, temperature: float = 0.5) -> SimCLR:
    memory = build("memory", "ring", 4, torch.arange(0), size=size)
    return SimCLR(network(batch_norm=batch_norm), loss=build("loss", "nt-xent", temperature=temperature), memory=memory)


def test_with_a_memory_it_keeps_what_a_method_keeps_on_any_number_of_ranks():
    check_method(with_ring(20, batch_norm=True), batch())


def test_views_of_earlier_steps_stand_beside_those_of_the_batch():
    torch.manual_seed(4)
    method = with_ring(100)
    first, second = batch((0, 1, 2)), batch((2, 3, 4))  # image 2 comes again
    earlier = method(first)
    assert method.objective(earlier, earlier).metrics["memory_filled"] == 0
    method.after_step(earlier.detach(), 0)
    outputs = method(replace(second, step=first.step + 1))
    loss, metrics = method.objective(outputs, outputs)
    assert float(metrics["memory_filled"]) == pytest.approx(6 / 100)

    labels = [*outputs.labels.tolist(), *earlier.labels.tolist()]
    everything = torch.cat([outputs.z, earlier.z]).tolist()
    costs = []
    for i, anchor in enumerate(outputs.z.tolist()):
        exps = [math.exp(sum(a * b for a, b in zip(anchor, other, strict=True)) / 0.5) for other in everything]
        negatives = sum(e for e, label in zip(exps, labels, strict=True) if label != labels[i])
        positives = [e for k, (e, label) in enumerate(zip(exps, labels, strict=True)) if label == labels[i] and k != i]
        costs += [-math.log(e / (e + negatives)) for e in positives]
    assert len(costs) == 6 + 2 * 2
    assert float(loss.detach()) == pytest.approx(sum(costs) / len(costs), abs=1e-5)


def test_a_memory_of_classes_is_refused():
    proxies = build("memory", "proxies", 4, torch.arange(3))
    with pytest.raises(RecipeError, match="the memory Proxies holds classes, but to simclr each image is") as caught:
        SimCLR(network(batch_norm=False), loss=build("loss", "nt-xent"), memory=proxies)
    assert caught.value.help == "choose a memory of embeddings, such as ring, or method.name = 'supervised'"


def test_rows_carry_item_occurrence_and_view():
    method = SimCLR(network(batch_norm=False), loss=build("loss", "nt-xent"))
    made = method(batch((4, 1, 4), views=2, labels=[0, 0, 1]))
    assert made.labels.tolist() == made.items.tolist() == [4, 1, 4, 4, 1, 4]
    assert made.views.tolist() == [0, 0, 0, 1, 1, 1]
    assert len(made.ids.unique()) == 6


def test_what_is_used_after_training_is_the_encoders_output():
    method = SimCLR(network(batch_norm=False), loss=build("loss", "nt-xent"))
    images = torch.rand(2, 3, 4, 4)
    embedded = embedding_function(method)(images)
    assert torch.equal(embedded.h, method.network.encoder(images))
    assert embedded.z.shape == (2, 4)


def test_views_of_two_sizes_are_embedded_each_by_itself():
    class Mean(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            return images.mean((2, 3))

    small, large = torch.rand(3, 3, 2, 2), torch.rand(3, 3, 4, 4)
    views = Network(Mean(), nn.Identity()).views([large, large + 1, small])
    torch.testing.assert_close(views[1].z, large.mean((2, 3)) + 1)
    torch.testing.assert_close(views[2].z, small.mean((2, 3)))


def test_a_loss_over_rows_of_all_ranks_gets_them_on_both_sides():
    seen = []

    def whole(anchors, references):
        seen.append((len(anchors), len(references)))
        return anchors.z.sum()

    method = SimCLR(network(batch_norm=False), loss=whole)
    local, world = method(batch((1, 2, 3))), method(batch((1, 2, 3, 4)))
    method.objective(local, world)
    method.loss = build("loss", "nt-xent")
    assert seen == [(8, 8)]
    assert rows(torch.randn(2, 2), torch.arange(2)).embedding_dim == 2
