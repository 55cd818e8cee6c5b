"""Supervised learning as a method: classes from labels, all views, miners."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from metriclab.core.network import embedding_function
from metriclab.core.pairs import Pairs
from metriclab.errors import RecipeError
from metriclab.methods.supervised import Supervised
from metriclab.registry import build
from metriclab.testing import check_method
from tests.support.small_methods import labelled, network

LABELS = (0, 1, 0, 2, 1, 0, -1)


def hard_negatives(pairs: Pairs) -> Pairs:
    return replace(pairs, negative=pairs.negative & (pairs.similarity > 0.3))


def no_pairs(pairs: Pairs) -> Pairs:
    nothing = torch.zeros_like(pairs.positive)
    return replace(pairs, positive=nothing, negative=nothing)


def whole(anchors, references):
    """A loss that is not pairwise."""
    return (anchors.z * references.z).sum()


@pytest.mark.parametrize("loss", ["contrastive", "triplet", "nt-xent"])
@pytest.mark.parametrize("views", [1, 2])
def test_it_keeps_what_a_method_keeps_on_any_number_of_ranks(loss, views):
    method = Supervised(network(batch_norm=True), loss=build("loss", loss))
    check_method(method, labelled(LABELS, views=views))


@pytest.mark.parametrize("loss", ["contrastive", "nt-xent"])
def test_with_a_miner_too(loss):
    method = Supervised(network(batch_norm=True), loss=build("loss", loss), miner=hard_negatives)
    check_method(method, labelled(LABELS))


def test_rows_carry_the_class_of_every_view():
    made = Supervised(network(batch_norm=False), loss=whole)(labelled(LABELS, views=2))
    assert made.labels.tolist() == [*LABELS, *LABELS]
    assert made.items.tolist() == [*range(7), *range(7)]
    assert made.views.tolist() == [0] * 7 + [1] * 7
    assert len(made.ids.unique()) == 14


def test_it_is_the_loss_of_the_mined_pairs():
    loss, images = build("loss", "contrastive"), labelled(LABELS)
    method = Supervised(network(batch_norm=False), loss=loss)
    outputs = method(images)
    plain = method.objective(outputs, outputs).loss
    method.miner = hard_negatives
    mined = method.objective(outputs, outputs).loss
    assert torch.equal(plain, loss(outputs, outputs))
    assert torch.equal(mined, loss(outputs, outputs, miner=hard_negatives))
    assert float(mined.detach()) != pytest.approx(float(plain.detach()), abs=1e-3)
    method.miner = no_pairs
    assert float(method.objective(outputs, outputs).loss.detach()) == 0


def test_images_of_unknown_class_change_nothing():
    method = Supervised(network(batch_norm=False), loss=build("loss", "nt-xent"))
    images = labelled(LABELS)
    every, known = method(images), method(images.slice(0, 6))
    assert torch.allclose(method.objective(every, every).loss, method.objective(known, known).loss, atol=1e-6)


def test_with_a_memory_the_batch_is_held_against_its_rows_alone():
    memory, loss = build("memory", "ring", 4, torch.arange(3), size=8), build("loss", "contrastive")
    method, images = Supervised(network(batch_norm=True), loss=loss, memory=memory), labelled(LABELS)
    outputs = method(images)
    assert float(method.objective(outputs, outputs).loss.detach()) == 0  # nothing is in it yet
    method.after_step(outputs.detach(), 0)
    later = method(labelled(LABELS, step=1))
    assert torch.equal(method.objective(later, later).loss, loss(later, memory.rows()))
    check_method(method, labelled(LABELS, step=2))


def test_a_miner_beside_a_loss_that_takes_none_is_refused():
    with pytest.raises(RecipeError, match=r"the loss function takes no miner.*\n.*remove \[miner\], or name a loss"):
        Supervised(network(batch_norm=False), loss=whole, miner=hard_negatives)


def test_what_is_used_after_training_is_the_encoders_output():
    method, images = Supervised(network(batch_norm=False), loss=whole), torch.rand(2, 3, 4, 4)
    embedded = embedding_function(method)(images)
    assert torch.equal(embedded.h, method.network.encoder(images))
    assert embedded.z.shape == (2, 4)


def test_who_is_alone_is_asked_of_the_memory_where_there_is_one():
    memory = build("memory", "proxies", 4, torch.arange(3))
    method = Supervised(network(batch_norm=False), loss=build("loss", "normalized-softmax"), memory=memory)
    outputs = method(labelled((0, 1, 2)))
    assert float(method.objective(outputs, outputs).metrics["anchors_without_positives"]) == 0
