"""XBM as a method: against a dense reference, on several ranks, resumed in the middle."""

from __future__ import annotations

import copy
from dataclasses import replace

import pytest
import torch

from metriclab.core.protocols import Memory
from metriclab.core.rows import rows
from metriclab.distributed import average_gradients, gather, mean
from metriclab.errors import RecipeError
from metriclab.losses import Composite, NTXent, Part, SupCon
from metriclab.methods import xbm as xbm_module
from metriclab.methods.xbm import XBM
from metriclab.recipe import Recipe, read_recipe
from metriclab.registry import build
from metriclab.testing import check_method, two_ranks
from metriclab.training.interruption import Interrupted
from tests.support.small_methods import labelled, network
from tests.support.tiny import TINY, outcome, run

LABELS = [(0, 1, 0, 2, 1), (2, 0, 1, 1, 3), (3, 3, 0, 2, -1), (1, 0, 2, 0, 3), (2, 2, 1, 0, 0)]
RATE = 0.1


def ring(size: int, width: int = 4) -> Memory:
    return build("memory", "ring", width, torch.arange(4), size=size)


def xbm(size: int = 12, *, loss: str = "contrastive", batch_norm: bool = True, **options) -> XBM:
    return XBM(network(batch_norm=batch_norm), loss=build("loss", loss), memory=ring(size), **options)


def whole(anchors, references):
    """A loss that is not pairwise."""
    return ((anchors.z @ references.z.T).exp().mean(1) ** 2).sum()


def nearest_negatives(pairs):
    return replace(pairs, negative=pairs.negative & (pairs.similarity > 0.3))


def no_pairs(pairs):
    nothing = torch.zeros_like(pairs.positive)
    return replace(pairs, positive=nothing, negative=nothing)


def batches():
    return [labelled(labels, step=step) for step, labels in enumerate(LABELS)]


@pytest.mark.parametrize("loss", ["contrastive", "triplet", "nt-xent"])
@pytest.mark.parametrize("start_step", [0, 2])
def test_it_keeps_what_a_method_keeps_on_any_number_of_ranks(loss, start_step):
    check_method(xbm(loss=loss, start_step=start_step), labelled((0, 1, 0, 2, 1, 0, 3)))


@pytest.mark.parametrize("loss", ["contrastive", "nt-xent"])
def test_a_miner_chooses_among_the_pairs_of_the_memory_too(loss):
    method = xbm(loss=loss, start_step=0)
    method.miner = nearest_negatives
    check_method(method, labelled((0, 1, 0, 2, 1, 0, 3)))
    method.miner = no_pairs
    outputs = method(labelled((0, 1, 0)))
    method.after_step(outputs, 0)
    assert float(method.objective(outputs, method(labelled((0, 1, 0), step=1))).loss.detach()) == 0


def test_a_miner_beside_a_loss_that_takes_none_is_refused():
    with pytest.raises(RecipeError, match="the loss function takes no miner"):
        XBM(network(batch_norm=False), loss=whole, memory=ring(4), miner=no_pairs)


def test_losses_over_the_rows_of_all_ranks_too():
    check_method(XBM(network(batch_norm=True), loss=whole, memory=ring(9), start_step=0), labelled((0, 1, 0, 2, 1, 0)))


def take_steps(share, method, parts):
    """Steps on a new batch each: the memory wraps in the middle of one. Returns loss, metrics, state."""
    values = []
    for step, part in enumerate(parts):
        mine = share.of(len(part))
        method.zero_grad()
        local = method(part.slice(mine.start, mine.stop))
        world = gather(local)
        loss, metrics = method.objective(local, world)
        loss.backward()
        average_gradients(method.parameters())
        with torch.no_grad():
            for parameter in method.parameters():
                parameter.sub_(RATE * parameter.grad)
            method.after_step(world, step)
        values.append(torch.stack([mean(loss), metrics["memory_filled"].double()]))
    return {"values": torch.stack(values), **method.state_dict()}


def in_double(parts):
    return [replace(part, views=tuple(view.double() for view in part.views)) for part in parts]


@pytest.mark.parametrize("loss", ["contrastive", "nt-xent"])
def test_every_rank_trains_and_remembers_as_one_process_does(loss):
    two_ranks(take_steps, xbm(12, loss=loss, batch_norm=False, start_step=1).double(), in_double(batches()))


def dense(encode, images, labels, memory, weight):
    """Hadsell's loss over all pairs of a batch, and over the batch against (embedding, label) of earlier rows."""
    z = encode(images)
    z = z / z.norm(dim=1, keepdim=True)

    def part(others):
        pull, push = [], []
        for i, label in enumerate(labels):
            for j, (other, of_other) in enumerate(others):
                if (others is own and i == j) or label < 0 or of_other < 0:
                    continue
                distance = (z[i] - other).norm()
                if label == of_other:
                    pull.append(distance**2)
                else:
                    push.append(torch.clamp(1 - distance, min=0) ** 2)
        return sum(sum(costs) / len(costs) for costs in (pull, push) if costs)

    own = list(zip(z, labels, strict=True))
    return part(own) + weight * part(memory), [(row.detach().clone(), label) for row, label in own]


@pytest.mark.parametrize("size", [5, 7, 100])
def test_steps_equal_those_of_a_dense_reference(size):
    method = xbm(size, batch_norm=False, weight=0.7, start_step=2).double()
    reference, parts, memory = copy.deepcopy(method.network), in_double(batches()), []
    for step, part in enumerate(parts):
        outputs = method(part)
        loss, metrics = method.objective(outputs, outputs)
        weight = 0.7 if step >= 2 else 0.0
        expected, new = dense(lambda x: reference(x).z, part.views[0], part.labels.tolist(), memory, weight)
        assert float(loss.detach()) == pytest.approx(float(expected.detach()), abs=1e-12)
        known = sum(label >= 0 for _, label in memory)
        assert float(metrics["memory_filled"]) == pytest.approx(known / size)
        for module, value in ((method, loss), (reference, expected)):
            module.zero_grad()
            value.backward()
            with torch.no_grad():
                for parameter in module.parameters():
                    parameter.sub_(RATE * parameter.grad)
        method.after_step(outputs.detach(), step)
        memory = [*memory, *new][-size:]
    for name, value in reference.state_dict().items():
        torch.testing.assert_close(method.network.state_dict()[name], value, atol=1e-12, rtol=0)


def mean_over_anchors_with_positives(z, labels, others):
    """NT-Xent at temperature 0.1, as loops over (embedding, label, number of the row) on both sides."""
    costs = []
    for i, label in enumerate(labels):
        known = [(torch.dot(z[i], other) / 0.1, of_other) for other, of_other, j in others if of_other >= 0 and j != i]
        alike = [s for s, of_other in known if label >= 0 and of_other == label]
        apart = [s for s, of_other in known if of_other != label]
        if alike:
            costs.append(sum(torch.logsumexp(torch.stack([s, *apart]), 0) - s for s in alike) / len(alike))
    return sum(costs) / max(1, len(costs)), len(costs)


@pytest.mark.parametrize("weighting", ["constant", "positives"])
@pytest.mark.parametrize("batch_in_memory", [False, True])
def test_a_memory_with_few_positives_counts_as_asked_for(weighting, batch_in_memory):
    options = {"weight": 0.7, "weighting": weighting, "batch_in_memory": batch_in_memory}
    method = xbm(4, loss="nt-xent", batch_norm=False, start_step=0, **options).double()
    parts = in_double([labelled((0, 1, 1, -1)), labelled((0, 2, 2, 3, -1, 3), step=1)])
    method.after_step(method(parts[0]).detach(), 0)  # of the next batch's classes the memory has one row of class 0
    outputs = method(parts[1])
    objective = method.objective(outputs, outputs)
    z, labels, memory = outputs.z, outputs.labels.tolist(), method.memory.rows()
    of_batch = [(row, label, j) for j, (row, label) in enumerate(zip(z, labels, strict=True))]
    held = [(row, label, None) for row, label in zip(memory.z, memory.labels.tolist(), strict=True)]
    if batch_in_memory:
        held += [(row.detach(), label, j) for row, label, j in of_batch]
    first, _ = mean_over_anchors_with_positives(z, labels, of_batch)
    second, anchors = mean_over_anchors_with_positives(z, labels, held)
    assert anchors == (5 if batch_in_memory else 1)
    factor = 0.7 * (anchors / 5 if weighting == "positives" else 1)  # five anchors are of known class
    expected = first + factor * second
    torch.testing.assert_close(objective.loss, expected, atol=1e-12, rtol=0)
    assert float(objective.metrics["memory_weight"]) == pytest.approx(factor)
    found, of_loops = (torch.autograd.grad(loss, z, retain_graph=True)[0] for loss in (objective.loss, expected))
    torch.testing.assert_close(found, of_loops, atol=1e-12, rtol=0)


def test_it_keeps_what_a_method_keeps_however_the_memory_counts():
    method = xbm(start_step=0, weighting="positives", batch_in_memory=True)
    check_method(method, labelled((0, 1, 0, 2, 1, 0, 3)))


def test_the_memory_holds_earlier_batches_alone():
    method, (first, second, *_) = xbm(8, start_step=0, batch_norm=False), batches()
    outputs = method(first)
    method.objective(outputs, outputs)
    assert (method.memory.rows().labels < 0).all()
    method.after_step(outputs, 0)
    held = method.memory.rows()
    assert set(held.ids[held.labels >= 0].tolist()) == set(outputs.ids.tolist())
    assert not torch.isin(method(second).ids, held.ids).any()


def test_the_memory_fills_before_its_part_of_the_loss_counts():
    method, (first, second, third, *_) = xbm(20, start_step=2, batch_norm=False), batches()
    for step, part in enumerate((first, second)):
        outputs = method(part)
        loss = method.objective(outputs, outputs).loss
        assert torch.equal(loss, method.loss(outputs, outputs))
        method.after_step(outputs, step)
    outputs = method(third)
    objective = method.objective(outputs, outputs)
    remembered = method.loss(outputs, method.memory.rows())
    torch.testing.assert_close(objective.loss, method.loss(outputs, outputs) + remembered)
    assert float(objective.metrics["memory_filled"]) == 0.5


def recipe(folder) -> Recipe:
    path = folder / "xbm.toml"
    text = TINY.replace('name = "simclr"\n\n[optimizer]', 'name = "xbm"\nstart_step = 2\n\n[optimizer]')
    text = text.replace('name = "simclr"\nsize = 8', 'name = "simclr"\ncount = 1\nsize = 8')
    text = text.replace('name = "shuffled"\nbatch_size = 16', 'name = "balanced"\nclasses_per_batch = 4\nper_class = 4')
    path.write_text(text + '\n[memory]\nname = "ring"\nsize = 50\n')
    return read_recipe(path)


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_run_stopped_before_and_after_the_memory_wraps_ends_equal(step, tmp_path):
    whole_run, stopped = tmp_path / "whole", tmp_path / "stopped"
    chosen, asked = recipe(tmp_path), iter(range(1, 100))
    run(chosen, whole_run)
    with pytest.raises(Interrupted):
        run(chosen, stopped, stop=lambda: next(asked) >= step)
    run(chosen, stopped, resume=True)
    expected, ended = outcome(whole_run), outcome(stopped)
    assert ended["metrics"] == expected["metrics"]
    assert ended["result"] == expected["result"]
    last = f"step-{7:010d}"  # its tensors hold the memory too
    assert ended["checkpoints"][last] == expected["checkpoints"][last]
    filled = [line["memory_filled"] for line in expected["metrics"] if "memory_filled" in line]
    assert filled == pytest.approx([0, 0.32, 0.64, 0.96, 1, 1, 1])


def test_it_logs_when_the_memory_counts_and_who_is_alone_with_it():
    method = xbm(start_step=1, weight=0.5, batch_norm=False)
    first, second = (labelled((0, 1, 2), step=step) for step in (0, 1))
    outputs = method(first)
    metrics = method.objective(outputs, outputs).metrics
    assert (float(metrics["memory_weight"]), float(metrics["anchors_without_positives"])) == (0.0, 1.0)
    method.after_step(outputs, 0)
    outputs = method(second)
    metrics = method.objective(outputs, outputs).metrics
    assert (float(metrics["memory_weight"]), float(metrics["anchors_without_positives"])) == (0.5, 0.0)


def recalls(method: XBM, monkeypatch) -> list[bool]:
    """Whether each of the objectives so far looked at the memory's pairs."""
    looked: list[bool] = []
    original = xbm_module.apply_loss

    def watched(loss, local, world, *references, **options):
        looked[-1] |= bool(references)
        return original(loss, local, world, *references, **options)

    monkeypatch.setattr(xbm_module, "apply_loss", watched)
    objective = method.objective

    def counted(local, world):
        looked.append(False)
        return objective(local, world)

    monkeypatch.setattr(method, "objective", counted)
    return looked


def test_the_memory_costs_nothing_before_it_counts(monkeypatch):
    method = xbm(start_step=2)
    looked = recalls(method, monkeypatch)
    saved = None
    for step, batch in enumerate(batches()[:4]):
        outputs = method(batch)
        objective = method.objective(outputs, outputs)
        assert float(objective.metrics["memory_weight"]) == (step >= 2)
        method.after_step(outputs, step)
        saved = saved or (copy.deepcopy(method.state_dict()) if step == 1 else None)
    assert looked == [False, False, True, True]
    # Where a state is loaded, its step decides, and not what the module did before.
    for start_step, state, expected in ((2, saved, True), (3, saved, False), (2, xbm().state_dict(), False)):
        other = xbm(start_step=start_step)
        other.after_step(other(batches()[0]), 5)
        other.load_state_dict(state)
        assert other.memory_counts is expected


def test_each_of_several_losses_counts_by_its_own_labels():
    """All anchors have a positive of their class in the memory, and one alone has one of its image."""
    loss = Composite({"classes": Part(SupCon(), weight=2.0), "images": Part(NTXent(), weight=0.5, labels="item")})
    method = XBM(network(batch_norm=False), loss=loss, memory=ring(8), start_step=0, weight=0.7, weighting="positives")
    z = torch.randn(8, 4, dtype=torch.float64)
    earlier = rows(z[:4], [0, 1, 0, 1], torch.tensor([5, 6, 7, 8]))
    now = rows(z[4:], [0, 1, 0, 1], torch.tensor([5, 2, 3, 4]))
    method.double().memory.push(earlier)
    value, metrics = method.objective(now, now)
    held = method.memory.rows()
    by_item = [replace(side, labels=side.items) for side in (now, held)]
    expected = 2.0 * (SupCon()(now) + 0.7 * SupCon()(now, held))
    expected += 0.5 * (NTXent()(by_item[0]) + 0.7 * (1 / 4) * NTXent()(*by_item))
    assert float(value) == pytest.approx(float(expected), rel=1e-6)
    assert float(metrics["memory_weight"]) == pytest.approx(0.7 * (2.0 * 1 + 0.5 / 4) / 2.5)
