"""S-XBM as a method: against dense references, on several ranks, with a frozen encoder."""

from __future__ import annotations

import copy
import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from metriclab.core.batch import Batch
from metriclab.core.network import Network
from metriclab.core.pair_loss import PairLoss
from metriclab.core.rows import Rows, rows
from metriclab.core.tiles import forced_tile_cells
from metriclab.distributed import average_gradients, gather, mean
from metriclab.errors import RecipeError
from metriclab.methods.neighbours import nearest_features
from metriclab.methods.sxbm import SXBM, rank_terms
from metriclab.registry import build
from metriclab.testing import check_method, measure, two_ranks
from tests.support.small_methods import labelled, network

LABELS = (0, 1, 0, 2, 1, 0, -1)


def frozen(*, batch_norm: bool = False) -> Network:
    """An encoder of 6 features without gradient, and a head of width 4."""
    made = network(batch_norm=batch_norm)
    made.encoder.requires_grad_(False)
    return made


def sxbm(size: int = 12, *, loss: str | None = None, batch_norm: bool = False, **options) -> SXBM:
    memory = build("memory", "features", 6, torch.arange(4), size=size)
    chosen = None if loss is None else build("loss", loss)
    return SXBM(frozen(batch_norm=batch_norm), memory=memory, loss=chosen, **options)


def whole(anchors, references):
    """A loss that is not pairwise."""
    return ((anchors.z @ references.z.T).exp().mean(1) ** 2).sum()


def nearest_negatives(pairs):
    return replace(pairs, negative=pairs.negative & (pairs.similarity > 0.3))


def stream(steps: int, n: int = 5, items: int = 17) -> list[Batch]:
    """Batches in float64 that draw each of some items again and again, always as the same image."""
    images = torch.randn(items, 3, 4, 4).double()
    classes = torch.randint(-1, 3, (items,))
    made = []
    for step in range(steps):
        chosen = torch.randperm(items)[:n]
        made.append(Batch((images[chosen],), classes[chosen], chosen, torch.arange(n), step))
    return made


def take_step(method: SXBM, part: Batch):
    """One step of gradient descent on this batch; what the objective was."""
    method.zero_grad()
    local = method(part)
    world = gather(local)
    objective = method.objective(local, world)
    objective.loss.backward()
    average_gradients(method.parameters())
    with torch.no_grad():
        for parameter in method.parameters():
            if parameter.grad is not None:
                parameter.sub_(0.1 * parameter.grad)
        method.after_step(world, part.step)
    return objective


@pytest.mark.parametrize("with_features", [False, True])
@pytest.mark.parametrize(
    "options", [{}, {"batch_norm": True, "k": 3}, {"loss": "contrastive", "rank_weight": 0.5}, {"loss": "nt-xent"}]
)
def test_it_keeps_what_a_method_keeps_on_any_number_of_ranks(options, with_features):
    method, batch = sxbm(**options), labelled(LABELS)
    if with_features:
        batch = replace(batch, features=method.network.encoder(batch.views[0]))
    check_method(method, batch)


def test_with_a_miner_or_a_loss_over_the_rows_of_all_ranks_too():
    check_method(sxbm(loss="contrastive", miner=nearest_negatives), labelled(LABELS))
    method = sxbm()
    method.loss = whole
    check_method(method, labelled(LABELS))


def take_steps(share, method, parts):
    """Steps on a new batch each: the memory wraps, and items come again. Returns loss, metrics, state."""
    values = []
    for part in parts:
        mine = share.of(len(part))
        loss, metrics = take_step(method, part.slice(mine.start, mine.stop))
        numbers = [mean(loss.detach()), *(metrics[name].double() for name in sorted(metrics))]
        values.append(torch.stack(numbers))
    return {"values": torch.stack(values), **method.state_dict()}


@pytest.mark.parametrize("loss", [None, "supcon"])
def test_every_rank_trains_and_remembers_as_one_process_does(loss):
    two_ranks(take_steps, sxbm(8, loss=loss, k=3, rank_weight=0.3).double(), stream(5))


def unit(x: list[float]) -> list[float]:
    length = math.sqrt(sum(a * a for a in x))
    return [a / length for a in x]


def dot(x, y):
    return sum(a * b for a, b in zip(x, y, strict=True))


def dense_neighbours(features, items, memory, k):
    """For each image its k nearest (feature, label) of other items, ties by item, with the cosine; loops only."""
    found = []
    for e, item in zip(features, items, strict=True):
        others = [(-round(dot(e, f) * 2**20), other, dot(e, f)) for other, (f, _) in memory.items() if other != item]
        found.append([(other, cosine) for _, other, cosine in sorted(others)[:k]])
    return found


def dense_rank_loss(z, labels):
    n, costs = len(z), []
    for i in range(n):
        for j in range(n):
            for k in range(n):
                if i != j and i != k and min(labels[i], labels[j], labels[k]) >= 0:
                    y_ij, y_ik = labels[i] == labels[j], labels[i] == labels[k]
                    if y_ij > y_ik:
                        costs.append((y_ij - y_ik) * torch.log1p(torch.exp(dot(z[i], z[k]) - dot(z[i], z[j]))))
    return sum(costs) / len(costs) if costs else 0.0


@pytest.mark.parametrize(("size", "k"), [(5, 2), (7, 4), (11, 30), (100, 3)])
def test_steps_equal_those_of_a_dense_reference(size, k):
    method = sxbm(size, k=k, rank_weight=0.7).double()
    head, memory = copy.deepcopy(method.network.head), {}
    for part in stream(6):
        features = [unit(x) for x in method.network.encoder(part.views[0]).tolist()]
        items, labels = part.items.tolist(), part.labels.tolist()

        def g(e, head=head):
            z = head(torch.tensor([e], dtype=torch.float64))[0]
            return z / z.norm()

        z, gaps = [g(e) for e in features], []
        found = dense_neighbours(features, items, memory, k)
        for own, near in zip(z, found, strict=True):
            gaps += [abs(dot(own, g(memory[other][0])) - cosine) for other, cosine in near]
        expected = (sum(gaps) / len(gaps) if gaps else 0.0) + 0.7 * dense_rank_loss(z, labels)
        loss, metrics = take_step(method, part)
        assert float(loss.detach()) == pytest.approx(float(torch.as_tensor(expected).detach()), abs=1e-12)
        assert float(metrics["neighbours"]) == pytest.approx(sum(map(len, found)) / len(items))
        head.zero_grad()
        if torch.is_tensor(expected):
            expected.backward()
            with torch.no_grad():
                for parameter in head.parameters():
                    parameter.sub_(0.1 * parameter.grad)
        for name, value in head.state_dict().items():
            torch.testing.assert_close(method.network.head.state_dict()[name], value, atol=1e-12, rtol=0)
        for item, e, label in zip(items, features, labels, strict=True):
            memory.pop(item, None)
            memory[item] = (e, label)
        memory = dict(list(memory.items())[-size:])


def test_with_a_loss_it_is_that_of_the_batch_and_its_neighbours_by_label_each_item_once():
    method = sxbm(100, loss="contrastive", k=2).double()
    for part in stream(6):
        outputs = method(part)
        features = [unit(x) for x in method.network.encoder(part.views[0]).tolist()]
        held = method.memory.rows()
        memory = {
            int(held.items[n]): (held.z[n].tolist(), int(held.labels[n])) for n in range(100) if held.items[n] >= 0
        }
        near = {other for found in dense_neighbours(features, part.items.tolist(), memory, 2) for other, _ in found}
        joining = sorted(near - set(part.items.tolist()))
        z = method.network.head(torch.tensor(features + [memory[item][0] for item in joining], dtype=torch.float64))
        labels = torch.tensor(part.labels.tolist() + [memory[item][1] for item in joining])
        together = rows(z, labels)
        expected = method.loss(together[: len(part)], together)
        torch.testing.assert_close(method.objective(outputs, outputs).loss, expected, atol=1e-12, rtol=0)
        take_step(method, part)


def test_a_head_that_changes_nothing_costs_nothing():
    method = sxbm(20)
    method.network.head = nn.Identity()
    method = method.double()
    for part in stream(4):
        outputs = method(part)
        loss, metrics = method.objective(outputs, outputs)
        assert float(loss) == pytest.approx(0, abs=1e-14)
        method.after_step(outputs, part.step)
    assert float(metrics["agreement"]) == pytest.approx(1)


def test_without_neighbours_the_loss_is_zero_with_a_live_gradient():
    method = sxbm(batch_norm=True)
    loss, metrics = take_step(method, labelled(LABELS))
    assert float(loss.detach()) == 0
    assert all(parameter.grad is not None for parameter in method.network.head.parameters())
    assert not any(parameter.grad.any() for parameter in method.network.head.parameters())
    assert (
        float(metrics["neighbours"]) == float(metrics["agreement"]) == float(metrics["anchors_without_positives"]) == 0
    )


@pytest.mark.parametrize("remembers", [False, True])
def test_a_feature_that_is_not_a_number_is_seen(remembers):
    method, part = sxbm(), labelled(LABELS)
    if remembers:
        take_step(method, part)
    part.views[0][2] = torch.nan
    outputs = method(part)
    assert method.objective(outputs, outputs).loss.isnan()


def test_the_encoder_stays_bit_by_bit_and_always_in_evaluation():
    method = sxbm(batch_norm=True)
    method.network.encoder.norm = nn.BatchNorm1d(6).requires_grad_(False)
    before = copy.deepcopy(method.network.encoder.state_dict())
    heads = copy.deepcopy(method.network.head.state_dict())
    method.train()
    assert not any(module.training for module in method.network.encoder.modules())
    assert method.network.head.training
    for step in range(3):
        take_step(method, labelled(LABELS, step=step))
    for name, value in method.network.encoder.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert all(parameter.grad is None for parameter in method.network.encoder.parameters())
    assert any(not torch.equal(value, heads[name]) for name, value in method.network.head.state_dict().items())


def test_what_is_used_is_what_was_trained():
    method, batch = sxbm(), labelled(LABELS)
    trained = method(batch).rows
    h, z = method.embed(batch.views[0])
    assert torch.equal(h, method.network.encoder(batch.views[0]))
    torch.testing.assert_close(rows(z, batch.labels).z, trained.z)


def test_the_rank_loss_is_that_of_equation_8_whatever_the_tiles():
    made = rows(torch.randn(7, 3, dtype=torch.float64), torch.tensor(LABELS))
    expected = float(dense_rank_loss(made.z, LABELS))
    for cells in (1, 60, 10**6):
        with forced_tile_cells(cells):
            assert float(PairLoss(rank_terms)(made, made)) == pytest.approx(expected, abs=1e-12)


def cloud(n: int, width: int = 6, start: int = 0) -> Rows:
    z = torch.randn(n, width, dtype=torch.float64)
    return rows(z, torch.arange(n) % 3, start + torch.randperm(n), start + torch.arange(n))


def test_with_all_items_in_memory_it_is_the_exact_graph_of_neighbours_whatever_the_tiles():
    every = cloud(40)
    similarity = (every.z @ every.z.T).fill_diagonal_(-2)
    for cells in (1, 50, 10**6):
        with forced_tile_cells(cells):
            found = nearest_features(every, every, 5)
        exact = similarity.topk(5)
        assert torch.equal(found.slots, exact.indices)
        torch.testing.assert_close(found.similarity, exact.values)


def test_the_order_of_the_memory_does_not_matter_and_ties_go_by_item():
    anchors, memory = cloud(6), cloud(20, start=100)
    twice = torch.cat([memory.z[:10], memory.z[:10]])  # ten pairs of equal rows
    memory = replace(memory, z=twice)
    expected = nearest_features(anchors, memory, 5)
    for _ in range(5):
        moved = memory[torch.randperm(20)]
        found = nearest_features(anchors, moved, 5)
        assert torch.equal(moved.items[found.slots], memory.items[expected.slots])
    for near, similarity in zip(memory.items[expected.slots], expected.similarity, strict=True):
        first, second = near[:2].tolist()
        assert similarity[0] == pytest.approx(float(similarity[1]))
        assert first < second


def test_an_item_is_never_its_own_neighbour_nor_is_an_empty_place():
    memory = build("memory", "features", 6, torch.arange(0), size=9).double()
    anchors = cloud(6)
    memory.push(anchors)
    found = nearest_features(anchors, memory.rows(), 30)
    assert found.similarity.shape == (6, 9)
    assert (found.similarity.isfinite().sum(1) == 5).all()
    for item, near in zip(anchors.items.tolist(), memory.rows().items[found.slots], strict=True):
        assert item not in near[:5].tolist()
        assert sorted([item, *near[:5].tolist()]) == anchors.items.sort().values.tolist()


def test_the_head_sees_each_remembered_row_once_however_many_are_near():
    n, size, k, dim = 32, 60, 50, 64
    network = Network(nn.Flatten(), nn.Linear(dim, 16, bias=False))
    network.encoder.out_features = dim
    method = SXBM(network, memory=build("memory", "features", dim, size=size), k=k)
    method.memory.push(cloud(size, dim))
    seen = []
    network.head.register_forward_hook(lambda module, given, output: seen.append(len(given[0])))
    images = torch.randn(n, 1, 8, 8)
    batch = Batch((images,), torch.arange(n) % 3, torch.arange(100, 100 + n), torch.arange(n), 1)
    with measure() as meter:
        outputs = method(batch)
        method.objective(outputs, outputs).loss.backward()
    assert seen == [n + size]
    assert meter.largest <= (n + size) * dim < n * k * 16


def test_values_and_gradients_are_those_of_k_rows_an_image():
    method = sxbm(40, k=7).double()
    *before, last = stream(8)
    for part in before:
        take_step(method, part)
    held, head = method.memory.rows(), method.network.head
    features = torch.nn.functional.normalize(method.network.encoder(last.views[0]))
    found = nearest_features(rows(features, last.labels, last.items), held, 7)
    here = found.similarity.isfinite()
    own, near = (torch.nn.functional.normalize(head(z), dim=-1) for z in (features, held.z[found.slots]))
    expected = ((own[:, None] * near).sum(2) - found.similarity)[here].abs().mean()
    outputs = method(last)
    loss = method.objective(outputs, outputs).loss
    torch.testing.assert_close(loss, expected, atol=1e-12, rtol=0)
    for one, other in zip(*(torch.autograd.grad(x, head.parameters()) for x in (loss, expected)), strict=True):
        torch.testing.assert_close(one, other, atol=1e-12, rtol=0)


def test_it_never_holds_all_similarities():
    anchors, memory = cloud(64), cloud(512, start=64)
    with forced_tile_cells(4 * 512), measure() as meter:
        nearest_features(anchors, memory, 4)
    assert meter.largest < 64 * 512


def test_an_encoder_that_trains_is_refused():
    with pytest.raises(RecipeError, match="compresses the features of a frozen encoder, and this one trains") as caught:
        SXBM(network(batch_norm=False), memory=build("memory", "ring", 6, torch.arange(3), size=4))
    assert caught.value.help.startswith('set encoder.trainable = "none"')


def test_components_that_do_not_go_together_are_refused():
    proxies = build("memory", "proxies", 6, torch.arange(3))
    with pytest.raises(RecipeError, match=r"this memory has learned rows of its own\n.*memory.name = \"features\""):
        SXBM(frozen(), memory=proxies)
    ring = build("memory", "ring", 6, torch.arange(3), size=4)
    with pytest.raises(RecipeError, match=r"the miner has nothing to choose from.*\n.*add \[loss\]"):
        SXBM(frozen(), memory=ring, miner=nearest_negatives)
    with pytest.raises(RecipeError, match="the loss function takes no miner"):
        SXBM(frozen(), memory=ring, loss=whole, miner=nearest_negatives)


def test_it_says_what_it_trains_on():
    assert sxbm().trains_on == "features"
    assert sxbm(features="online").trains_on == "images"
