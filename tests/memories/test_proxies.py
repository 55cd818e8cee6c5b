"""Proxies: rows of classes that learn, in a memory that remembers nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from metriclab.assembly.assemble import assemble, build_method, classes_of
from metriclab.assembly.splits import load_splits
from metriclab.core.rows import rows
from metriclab.errors import RecipeError
from metriclab.memories.proxies import Proxies
from metriclab.memories.ring import Ring
from metriclab.methods.supervised import Supervised
from metriclab.recipe import Recipe, read_recipe
from metriclab.registry import build
from metriclab.testing import check_method
from metriclab.training.fit import fit
from metriclab.training.imprint import imprint_proxies, some_of_each
from tests.support.small_methods import labelled, network
from tests.support.tiny import TINY, run, tiny

CLASSES = torch.tensor([1, 4, 2**62])


@pytest.mark.parametrize("per_class", [1, 3])
def test_each_class_has_its_unit_rows(per_class):
    held = Proxies(5, CLASSES, per_class=per_class).rows()
    assert held.labels.tolist() == [label for label in CLASSES.tolist() for _ in range(per_class)]
    torch.testing.assert_close(held.z.norm(dim=1), torch.ones(3 * per_class), atol=1e-6, rtol=0)
    assert (held.items < 0).all()
    assert not held.views.any()


def test_their_ids_are_nobody_elses():
    held = Proxies(2, torch.arange(50), per_class=2).rows()
    assert len(held.ids.unique()) == 100
    fresh = rows(torch.randn(100, 2), torch.zeros(100, dtype=torch.int64))
    empty = Ring(2, size=100).rows()
    assert not torch.isin(held.ids, torch.cat([fresh.ids, empty.ids])).any()
    assert (held.ids < 0).all()


def test_nothing_is_pushed_into_them():
    memory = Proxies(5, CLASSES)
    before = {name: value.clone() for name, value in memory.state_dict().items()}
    memory.push(rows(torch.randn(4, 5), torch.tensor([0, 1, 4, -1])))
    assert all(torch.equal(value, before[name]) for name, value in memory.state_dict().items())


def test_a_loss_moves_them_towards_their_class_and_across_their_length():
    memory = Proxies(2, torch.tensor([0, 1]))
    memory.directions.data = torch.tensor([[0.0, 3.0], [0.0, -2.0]])
    batch = rows(torch.tensor([[1.0, 0.0]]), torch.tensor([0]))
    build("loss", "normalized-softmax", temperature=1.0)(batch, memory.rows()).backward()
    (first, second), lengthwise = memory.directions.grad[:, 0], memory.directions.grad[:, 1]
    assert first < 0 < second
    assert not lengthwise.any()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_they_are_read_in_float32_or_better(dtype):
    read_as = torch.float64 if dtype == torch.float64 else torch.float32
    assert Proxies(5, CLASSES).to(dtype).rows().z.dtype == read_as


def test_a_training_split_without_labels_is_refused():
    text = r"'proxies' holds a row for each training class, but the training split has no labels.*\n.*such as ring"
    with pytest.raises(RecipeError, match=text):
        build("memory", "proxies", 5, classes_of(np.array([-1, -1])))


@pytest.mark.parametrize("loss", ["proxy-anchor", "arcface", "triplet"])
def test_a_method_trains_them_the_same_on_any_number_of_ranks(loss):
    memory = Proxies(4, torch.arange(4), per_class=2)
    method = Supervised(network(batch_norm=True), loss=build("loss", loss), memory=memory)
    check_method(method, labelled((0, 1, 0, 2, 1, 0, -1)))


def recipe(folder: Path, *overrides: str) -> Recipe:
    path = folder / "proxies.toml"
    text = TINY.replace('name = "simclr"\n\n[optimizer]', 'name = "supervised"\n\n[optimizer]')
    text = text.replace('name = "simclr"\nsize = 8', 'name = "plain"\nsize = 8')
    text = text.replace("learning_rate = 0.05", "learning_rate = 0.05\ngroups = {memory = 100.0}")
    text = text.replace('name = "nt-xent"', 'name = "proxy-anchor"')
    path.write_text(text + '\n[memory]\nname = "proxies"\nper_class = 2\n')
    return read_recipe(path, overrides)


def test_in_a_run_they_are_an_optimizer_group_of_their_own(tmp_path):
    chosen = recipe(tmp_path)
    data = load_splits(chosen).train
    training = assemble(chosen, data)
    memory = training.method.get_submodule("memory")
    assert memory.rows().labels.tolist() == [label for label in classes_of(data.labels).tolist() for _ in range(2)]
    assert memory.rows().embedding_dim == 8
    rates = {group["name"]: group["initial_lr"] for group in training.optimizer.param_groups}
    assert rates["memory"] == pytest.approx(5.0)
    assert all(rate == pytest.approx(0.05) for name, rate in rates.items() if name != "memory")
    held = [p for group in training.optimizer.param_groups if group["name"] == "memory" for p in group["params"]]
    assert [id(p) for p in held] == [id(memory.directions)]


@pytest.mark.parametrize("loss", ["proxy-anchor", "arcface"])
def test_in_a_run_they_learn(loss, tmp_path):
    chosen = recipe(tmp_path, f"loss.name={loss}", "schedule.name=constant")
    training = assemble(chosen, load_splits(chosen).train)
    memory = training.method.get_submodule("memory")
    before = memory.rows().z.detach().clone()
    losses = [float(step.loss) for step in fit(training)]
    assert np.isfinite(losses).all()
    assert ((memory.rows().z - before).norm(dim=1) > 1e-3).all()


def test_the_seed_of_a_run_draws_them(tmp_path):
    drawn = [
        build_method(recipe(tmp_path, f"train.seed={seed}"), torch.arange(12)).get_submodule("memory").directions
        for seed in (1, 1, 2)
    ]
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])


def images_of(labels: list[int], dim: int = 5):
    return rows(torch.randn(len(labels), dim, generator=torch.Generator().manual_seed(0)), labels)


def test_imprinted_they_are_where_the_means_of_their_classes_lie_from_the_mean_of_all():
    """Against loops; a class without images keeps its random direction, and images without a class have no part."""
    images = images_of([4, 1, 4, -1, 1, 4])
    memory = Proxies(5, CLASSES)
    before = memory.directions.detach().clone()
    memory.imprint(images)
    ones, fours = images.z[[1, 4]].mean(0), images.z[[0, 2, 5]].mean(0)
    for place, mean in enumerate((ones, fours)):
        apart = mean - (ones + fours) / 2
        torch.testing.assert_close(memory.rows().z[place], apart / apart.norm())
        assert memory.directions[place].norm().item() == pytest.approx(5**0.5)
    assert torch.equal(memory.directions[2], before[2])


def test_several_proxies_of_a_class_share_its_images():
    images = images_of([1, 1, 1, 1, 4])
    memory = Proxies(5, CLASSES, per_class=2)
    memory.imprint(images)
    held = memory.rows().z.detach()
    means = torch.stack([images.z[[0, 2]].mean(0), images.z[[1, 3]].mean(0), images.z[4], images.z[4]])
    for place, apart in enumerate(means - means.mean(0)):
        torch.testing.assert_close(held[place], apart / apart.norm())


@pytest.mark.parametrize("labels", [[], [-1, -1], [1, 1, 1]])
def test_without_two_classes_they_stay_where_they_are(labels):
    memory = Proxies(5, CLASSES)
    before = memory.directions.detach().clone()
    memory.imprint(images_of(labels))
    assert torch.equal(memory.directions, before)


@pytest.mark.parametrize(
    ("start", "loaded", "imprinted"),
    [(None, True, True), (None, False, False), ("means", False, True), ("random", True, False)],
)
def test_a_run_imprints_them_where_weights_are_loaded_or_it_is_told_to(start, loaded, imprinted, tmp_path):
    if loaded:
        run(tiny(tmp_path, "train.steps=1"), tmp_path / "first")
    sets = ["method.name=supervised", "loss.name=arcface", "memory.name=proxies", "train.steps=1"]
    sets += [f"encoder.weights={tmp_path / 'first'}"] if loaded else []
    recipe = tiny(tmp_path, *sets, *([f"memory.start={start}"] if start else []))
    training = assemble(recipe, load_splits(recipe).train)
    before = training.method.memory.rows().z.detach()
    imprint_proxies(recipe, training)
    assert torch.equal(training.method.memory.rows().z, before) is not imprinted
    assert training.method.training


def test_a_mean_needs_few_images():
    labels = np.array([2, -1, *[0] * 40, 2])
    assert some_of_each(labels).tolist() == [0, *range(2, 34), 42]
