"""MoCo against its papers' formulas, written as loops, and what is easy to get wrong in it."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from metriclab.api import Batch, Network, RecipeError, average_gradients, build, gather
from metriclab.testing import check_method, two_ranks

RATE, TEMPERATURE, ITEMS = 0.1, 0.2, 7


class Flat(nn.Module):
    """A linear encoder of 3 x 4 x 4 images."""

    def __init__(self):
        super().__init__()
        self.out_features = 6
        self.linear = nn.Linear(48, 6)

    def forward(self, images):
        return self.linear(images.flatten(1))


def moco(size=10, *, batch_norm=True, loss=None, total_steps=8, **options):
    torch.manual_seed(0)
    head = nn.Sequential(nn.BatchNorm1d(6) if batch_norm else nn.Identity(), nn.ReLU(), nn.Linear(6, 4))
    parts = {
        "loss": loss or build("loss", "nt-xent", temperature=TEMPERATURE),
        "memory": build("memory", "ring", 4, torch.arange(4), size=size),
    }
    return build("method", "moco", Network(Flat(), head), total_steps, **parts, **options).double()


def over_rows(anchors, references):
    """A loss that knows no pairs."""
    return (anchors.z @ references.z.T).exp().mean()


def batch(step, *, views=2, n=ITEMS):
    """Every step shows the same items anew, as the epochs of a small data set do."""
    generator = torch.Generator().manual_seed(step)
    images = tuple(torch.randn(n, 3, 4, 4, generator=generator, dtype=torch.float64) for _ in range(views))
    return Batch(images, torch.zeros(n, dtype=torch.int64), torch.arange(n), torch.arange(n), step)


def take_step(method, part, step):
    """One step as the loop takes it; returns loss and metrics."""
    method.zero_grad()
    local = method(part)
    world = gather(local)
    loss, metrics = method.objective(local, world)
    loss.backward()
    average_gradients(method.parameters())
    with torch.no_grad():
        for parameter in method.network.parameters():
            parameter.sub_(RATE * parameter.grad)
        method.after_step(type(world)(world.queries.detach(), world.keys), step)
    return loss.detach(), metrics


def unit(z):
    return [row / row.norm() for row in z]


def info_nce(query, key, queue):
    """Equation 1: the positive logit against itself and those of the queue."""
    positive = torch.exp(query @ key / TEMPERATURE)
    return -torch.log(positive / (positive + sum(torch.exp(query @ old / TEMPERATURE) for old in queue)))


@pytest.mark.parametrize("size", [5, 9, 100])
@pytest.mark.parametrize("batch_norm", [False, True])
@pytest.mark.parametrize("symmetric", [False, True])
@pytest.mark.parametrize("statistics", ["batch", "averaged"])
def test_steps_are_those_of_algorithm_1(size, batch_norm, symmetric, statistics):
    """As in facebookresearch/moco (commit 4397a04) on a single GPU, and its key network in MoCo version 3 (commit
    0c5d00a of facebookresearch/moco-v3); averaged statistics follow as in EMAN, where each tensor of the state but the
    counts is averaged (commit 25676c4 of amazon-science/exponential-moving-average-normalization)."""
    method = moco(size, batch_norm=batch_norm, momentum=0.9, symmetric=symmetric, key_batch_norm=statistics)
    fast, slow, queue = copy.deepcopy(method.network), copy.deepcopy(method.network), []
    slow.train(statistics == "batch")
    for step in range(4):
        part = batch(step)
        loss, _ = take_step(method, part, step)

        queries = [row for view in (part.views if symmetric else part.views[:1]) for row in unit(fast(view).z)]
        with torch.no_grad():
            keys = [unit(slow(view).z) for view in (part.views if symmetric else part.views[1:])]
        partners = [*keys[1], *keys[0]] if symmetric else keys[0]
        costs = [info_nce(q, k, queue) for q, k in zip(queries, partners, strict=True)]
        expected = sum(costs) / len(costs)
        assert float(loss) == pytest.approx(float(expected.detach()), abs=1e-12)
        fast.zero_grad()
        expected.backward()
        with torch.no_grad():
            for mine, own in zip(method.network.parameters(), fast.parameters(), strict=True):
                torch.testing.assert_close(mine.grad, own.grad, atol=1e-12, rtol=0)
                own.sub_(RATE * own.grad)
            for old, new in zip(slow.parameters(), fast.parameters(), strict=True):
                old.copy_(0.9 * old + 0.1 * new)
            for old, new in zip(slow.buffers(), fast.buffers(), strict=True):
                if statistics == "averaged":
                    old.copy_(0.9 * old + 0.1 * new if old.is_floating_point() else new)
        # Within a step, an image's keys enter together.
        queue = [*queue, *(key for image in zip(*keys, strict=True) for key in image)][-size:]

        for found, reference in ((method.network, fast), (method.key_network, slow)):
            for name, value in reference.state_dict().items():
                torch.testing.assert_close(found.state_dict()[name], value, atol=1e-12, rtol=0)
        held = method.memory.rows()
        newest = held.z[held.ids.argsort()][len(held) - len(queue) :]  # empty places have the lowest ids
        torch.testing.assert_close(newest, torch.stack(queue), atol=1e-12, rtol=0)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"symmetric": True},
        {"batch_negatives": True, "momentum_schedule": "cosine"},
        {"loss": build("loss", "contrastive"), "momentum": 0.5},
        {"key_batch_norm": "averaged"},
    ],
    ids=["paper", "symmetric", "as version 3", "another loss", "averaged statistics"],
)
def test_conformance(options):
    check_method(moco(**options), batch(0))


def some_steps(share, method):
    values = []
    for step in range(4):
        part = batch(step)
        mine = share.of(len(part))
        loss, metrics = take_step(method, part.slice(mine.start, mine.stop), step)
        values.append(torch.stack([gather(loss[None]).mean(), metrics["queue_filled"].double()]))
    return {"values": torch.stack(values), **method.state_dict()}


@pytest.mark.parametrize("symmetric", [False, True])
def test_every_rank_trains_and_queues_as_one_process_does(symmetric):
    two_ranks(some_steps, moco(18, batch_norm=False, momentum=0.5, symmetric=symmetric))


def test_saved_in_the_middle_it_goes_on_equal():
    whole, resumed = moco(10, momentum=0.5), moco(10, momentum=0.5)
    for step in range(3):
        take_step(whole, batch(step), step)
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    for method in (whole, resumed):
        take_step(method, batch(3), 3)
    one, other = whole.state_dict(), resumed.state_dict()
    assert one.keys() == other.keys()
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_keys_carry_no_gradient_and_nothing_optimizes_their_network():
    method = moco()
    take_step(method, batch(0), 0)
    outputs = method(batch(1))
    assert outputs.queries.z.requires_grad
    assert not outputs.keys.z.requires_grad
    method.objective(outputs, outputs).loss.backward()
    assert all(parameter.grad is None for parameter in method.key_network.parameters())
    optimizer = build("optimizer", "sgd", {"all": method})
    optimized = {id(parameter) for group in optimizer.param_groups for parameter in group["params"]}
    assert optimized == {id(parameter) for parameter in method.network.parameters()}


def test_an_averaged_key_does_not_depend_on_the_other_images_of_its_batch():
    for statistics in ("averaged", "batch"):
        method = moco(key_batch_norm=statistics).train()
        assert method.network.head[0].training
        many, few = method(batch(0)), method(batch(0).slice(0, 2))
        assert torch.allclose(many.keys.z[:2], few.keys.z, atol=1e-12, rtol=0) == (statistics == "averaged")
        assert not torch.allclose(many.queries.z[:2], few.queries.z)


@pytest.mark.parametrize("statistics", ["batch", "averaged"])
def test_the_key_network_never_has_the_statistics_of_other_weights(statistics):
    """Where they were copied from the network, keys were off by standard deviations: weights follow slowly."""
    method = moco(momentum=0.98, total_steps=400, key_batch_norm=statistics)
    with torch.no_grad():
        for step in range(300):  # the network moves away, and its statistics at once
            method.network.encoder.linear.bias += 0.05
            outputs = method(batch(step))
            method.after_step(outputs, step)
    fast, slow = method.network, method.key_network
    lag = float((fast.encoder.linear.bias - slow.encoder.linear.bias).detach().mean())
    assert lag == pytest.approx(0.05 * 0.98 / 0.02, rel=0.05)
    # The statistics lag as far behind as the weights do.
    found = float((fast.head[0].running_mean - slow.head[0].running_mean).mean())
    assert found == pytest.approx(lag, rel=0.25)


def test_a_single_image_is_refused_beside_batch_norm():
    text = r"BatchNorm takes its statistics of one image alone.*\n  help: set sampler\.batch_size, and train\.chunk"
    with pytest.raises(RecipeError, match=text):
        moco()(batch(0, n=1))
    assert moco(batch_norm=False)(batch(0, n=1)).keys.z.isfinite().all()


def test_the_memory_holds_unit_keys_of_earlier_batches_alone():
    method = moco(100)
    outputs = method(batch(0))
    method.objective(outputs, outputs)
    assert (method.memory.rows().labels < 0).all()
    take_step(method, batch(0), 0)
    held = method.memory.rows()
    held = held[(held.labels >= 0).nonzero()[:, 0]]
    torch.testing.assert_close(held.z, outputs.keys.z)
    torch.testing.assert_close(held.z.norm(dim=1), torch.ones(ITEMS).double())
    assert not torch.isin(method(batch(1)).keys.ids, held.ids).any()


@pytest.mark.parametrize("batch_negatives", [False, True])
def test_other_images_of_the_batch_are_negatives_where_asked_for(batch_negatives):
    method = moco(batch_norm=False, batch_negatives=batch_negatives)
    take_step(method, batch(0), 0)
    costs, every = [], batch(1)
    for rows in (slice(0, 7), slice(0, 1)):
        outputs = method(every.slice(rows.start, rows.stop))
        outputs.queries.z.retain_grad()
        method.objective(outputs, outputs).loss.backward()
        costs.append(outputs.queries.z.grad[0] * len(outputs.queries))
    assert torch.allclose(*costs, atol=1e-12) != batch_negatives


def test_an_older_key_of_the_same_image_is_a_negative():
    method = moco(ITEMS, batch_norm=False)
    take_step(method, batch(0), 0)  # the queue now holds one key of each item
    outputs = method(batch(1).slice(2, 3))
    queue = list(method.memory.rows().z)
    expected = info_nce(outputs.queries.z[0], outputs.keys.z[0], queue)
    torch.testing.assert_close(method.objective(outputs, outputs).loss, expected)


def test_an_image_drawn_twice_is_two_queries_with_a_key_each():
    method = moco(batch_norm=False)
    take_step(method, batch(0), 0)
    part = batch(1, n=2)
    twice = Batch(part.views, part.labels, torch.tensor([4, 4]), part.positions, part.step)
    outputs, of_two = method(twice), method(part)
    torch.testing.assert_close(method.objective(outputs, outputs).loss, method.objective(of_two, of_two).loss)


def test_an_empty_queue_gives_a_loss_of_0_that_is_alive():
    method = moco()
    outputs = method(batch(0))
    loss, metrics = method.objective(outputs, outputs)
    loss.backward()
    assert float(loss.detach()) == 0
    assert all(not parameter.grad.any() for parameter in method.network.parameters())
    assert float(metrics["queue_filled"]) == 0
    _, metrics = take_step(method, batch(0), 0)
    outputs = method(batch(1))
    assert float(method.objective(outputs, outputs).metrics["queue_filled"]) == pytest.approx(ITEMS / 10)


def test_the_cosine_goes_from_the_momentum_to_1():
    method = moco(momentum=0.9, momentum_schedule="cosine", total_steps=8)
    found = [method.momentum(step) for step in range(9)]
    assert found == pytest.approx([1 - 0.1 * (math.cos(math.pi * step / 8) + 1) / 2 for step in range(9)])
    assert (found[0], found[4], found[8]) == pytest.approx((0.9, 0.95, 1.0))
    assert moco(momentum=0.9).momentum(7) == 0.9


def test_any_loss_over_rows_may_stand_there_with_the_negatives_of_the_batch():
    with pytest.raises(RecipeError, match=r"no loss over pairs.*\n  help: set loss\.name = \"nt-xent\", or method\."):
        moco(loss=over_rows)
    method = moco(loss=over_rows, batch_negatives=True)
    assert take_step(method, batch(0), 0)[0].isfinite()


def test_what_does_not_fit_is_refused():
    with pytest.raises(RecipeError, match=r"compares views of an image, and there is one\n  help: set views.count = 2"):
        moco()(batch(0, views=1))
    method = moco()
    proxies = build("memory", "proxies", 4, torch.arange(4))
    with pytest.raises(RecipeError, match=r"learned rows of its own\n  help: set memory.name = \"ring\""):
        build("method", "moco", method.network, 8, loss=method.loss, memory=proxies)
    with pytest.raises(RecipeError, match=r"momentum of method 'moco' must be float >= 0 and <= 1, not 1\.1"):
        moco(momentum=1.1)
