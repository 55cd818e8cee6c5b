"""Several losses in a run: each logged with its gradient, resumed, in chunks, and on several ranks."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from metriclab.assembly.assemble import assemble
from metriclab.assembly.splits import load_splits
from metriclab.core.rows import normalize
from metriclab.distributed import gather
from metriclab.losses import Composite, Contrastive, NTXent, Part, ProxyAnchor, SupCon
from metriclab.memories import Proxies, Ring
from metriclab.methods import XBM, Supervised
from metriclab.recipe import Recipe, read_recipe
from metriclab.testing import two_ranks
from metriclab.training.batches import batches
from metriclab.training.fit import backward
from metriclab.training.interruption import Interrupted
from metriclab.training.objective import differentiate
from tests.support.small_methods import labelled, network
from tests.support.tiny import TINY, outcome, run

SEVERAL = """
[[loss]]
name = "supcon"
dims = [2, 8]

[[loss]]
name = "nt-xent"
weight = 0.5
labels = "item"
learnable_temperature = true

[[loss]]
name = "contrastive"
dims = 4
miner = { name = "semihard-pairs" }
"""
SUPERVISED = ["method.name=supervised"]
XBM_RING = ["method.name=xbm", "method.start_step=1", "memory.name=ring", "memory.size=24"]
NAMES = ("supcon-2", "supcon-8", "nt-xent", "contrastive")


def several(folder, *overrides: str) -> Recipe:
    path = folder / "several.toml"
    path.write_text(TINY.replace('[loss]\nname = "nt-xent"\n', SEVERAL))
    return read_recipe(path, overrides)


def of_step(recipe: Recipe, chunk: int | None = None):
    """What the first step logs of the method, and the gradients it leaves."""
    training = assemble(recipe, load_splits(recipe).train)
    training = replace(training, settings=recipe.train.model_copy(update={"chunk": chunk}))
    objective, _ = backward(training, next(iter(batches(training, 0))))
    gradients = {name: p.grad for name, p in training.method.named_parameters() if p.grad is not None}
    return {"loss": objective.loss.detach(), **objective.metrics}, gradients


def test_each_is_logged_with_what_it_is_alone(tmp_path):
    run(several(tmp_path, *SUPERVISED, "train.steps=2"), tmp_path / "run")
    first, *_ = (line for line in outcome(tmp_path / "run")["metrics"] if "loss" in line)
    assert [name for name in first if name.startswith("loss.")] == [f"loss.{name}" for name in NAMES]
    weights = {"nt-xent": 0.5}
    total = sum(weights.get(name, 1.0) * first[f"loss.{name}"] for name in NAMES)
    assert first["loss"] == pytest.approx(total, rel=1e-5)
    assert all(first[f"gradient_norm.{name}"] > 0 for name in NAMES)


def differentiated(method, images):
    outputs = method(images)
    found = differentiate(method, outputs, gather(outputs))
    return {"loss": found.loss.detach(), **found.metrics}, outputs


def test_values_and_norms_are_those_of_the_losses_by_themselves():
    one, other = SupCon(), NTXent()
    method = Supervised(network(batch_norm=False), loss=Composite({"one": Part(one, weight=4.0), "other": other}))
    method.double()
    images = labelled([0, 1, 0, 2, 1, 0, -1], views=2)
    images = replace(images, views=tuple(view.double() for view in images.views))
    found, outputs = differentiated(method, images)
    for name, loss in (("one", one), ("other", other)):
        raw = outputs.z.detach().clone().requires_grad_()
        value = loss(replace(outputs, z=normalize(raw)))  # of norm 1 already: the gradient along the sphere is left
        (gradient,) = torch.autograd.grad(value, raw)
        assert float(found[f"loss.{name}"]) == pytest.approx(float(value.detach()), abs=1e-12)
        assert float(found[f"gradient_norm.{name}"]) == pytest.approx(float(gradient.norm()), abs=1e-12)


def test_a_memory_counts_with_its_weight():
    memory, loss = Ring(4, size=8), Contrastive()
    method = XBM(network(batch_norm=False), loss=Composite([loss]), memory=memory, weight=0.25, start_step=0)
    images = labelled([0, 1, 0, 2, 1, 0, -1])
    method.after_step(method(images), 0)
    found, outputs = differentiated(method, replace(images, step=1))
    expected = loss(outputs) + 0.25 * loss(outputs, memory.rows())
    assert float(found["loss.0"]) == pytest.approx(float(expected.detach()), abs=1e-6)


def test_one_loss_is_logged_as_the_loss_alone():
    method = Supervised(network(batch_norm=False), loss=SupCon())
    found, _ = differentiated(method, labelled([0, 0, 1, 1]))
    assert set(found) == {"loss"}


def test_what_learns_by_no_part_of_the_network_has_a_value_and_no_norm():
    parts = {"centres": ProxyAnchor(), "images": Part(NTXent(), labels="item", against="batch")}
    method = Supervised(network(batch_norm=False), loss=Composite(parts), memory=Proxies(4, range(3)))
    method.network.requires_grad_(False)
    found, _ = differentiated(method, labelled([0, 0, 1, 1], views=2))
    assert set(found) == {"loss", "loss.centres", "anchors_without_positives"}


@pytest.mark.parametrize("method", [SUPERVISED, XBM_RING], ids=["supervised", "xbm"])
def test_in_chunks_it_is_the_same(tmp_path, method):
    exact = ["encoder.model=test_convnext", "views.size=32", "head.batch_norm=false", "sampler.batch_size=8"]
    recipe = several(tmp_path, *method, *exact)
    (whole, of_whole), (cut, of_cut) = of_step(recipe), of_step(recipe, 3)
    assert whole.keys() == cut.keys()
    for name, value in whole.items():
        torch.testing.assert_close(cut[name], value, rtol=1e-4, atol=1e-5)
    for name, gradient in of_whole.items():
        torch.testing.assert_close(of_cut[name], gradient, rtol=1e-3, atol=1e-4 * float(gradient.abs().max() + 1))


@pytest.mark.parametrize(
    "method", [pytest.param(SUPERVISED, marks=pytest.mark.slow), XBM_RING], ids=["supervised", "xbm"]
)
def test_a_run_that_was_stopped_ends_with_the_same_bytes(tmp_path, method):
    recipe, whole, stopped = several(tmp_path, *method), tmp_path / "whole", tmp_path / "stopped"
    run(recipe, whole)
    asked = iter(range(1, 100))
    with pytest.raises(Interrupted):
        run(recipe, stopped, stop=lambda: next(asked) >= 3)
    run(recipe, stopped, resume=True)
    assert outcome(stopped) == outcome(whole)


def step_on_ranks(share, memory: str | None):
    """All that a step logs of several losses, in float64; the shares differ in size."""
    torch.manual_seed(0)
    parts = {
        "prefix": Part(SupCon(), weight=0.5, dims=2),
        "classes": Part(ProxyAnchor() if memory == "proxies" else Contrastive()),
        "images": Part(NTXent(), labels="item", against="batch" if memory else "method"),
    }
    held = Proxies(4, range(3)) if memory == "proxies" else None
    method = Supervised(network(batch_norm=False), loss=Composite(parts), memory=held).double()
    images = labelled([0, 1, 0, 2, 1, 0, -1, -1], views=2)
    part = share.of(8)
    images = replace(images, views=tuple(view.double() for view in images.views)).slice(part.start, part.stop)
    found, _ = differentiated(method, images)
    return {name: value for name, value in found.items() if name != "loss"}


@pytest.mark.parametrize("memory", [None, "proxies"])
def test_what_is_logged_is_the_same_on_any_number_of_ranks(memory):
    two_ranks(step_on_ranks, memory)
