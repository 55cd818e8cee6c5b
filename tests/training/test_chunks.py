"""Gradient caching: the gradient of the whole batch, chunk by chunk."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from torch import nn

from metriclab.assembly.assemble import Training, assemble
from metriclab.assembly.splits import load_splits
from metriclab.distributed import map_tensors
from metriclab.errors import RecipeError
from metriclab.recipe import Recipe
from metriclab.training.batches import batches
from metriclab.training.chunks import batch_statistics
from metriclab.training.fit import backward, fit, telling_of_memory
from tests.support.tiny import run, tiny

METHODS = {
    "simclr": ["method.name=simclr"],
    "simclr, four views": ["views.count=4"],
    "supervised": ["method.name=supervised", "loss.name=supcon"],
    "multi-similarity": ["loss.name=multi-similarity"],
    "proxies": ["method.name=supervised", "loss.name=proxy-nca", "memory.name=proxies"],
    "xbm": ["method.name=xbm", "method.start_step=0", "memory.name=ring", "memory.size=16"],
    "learned temperature": ["loss.name=logistic", "loss.learnable=true"],
}
EXACT = ["encoder.model=test_convnext", "views.size=32", "head.batch_norm=false"]


def gradients(recipe: Recipe, chunk: int | None, *, steps: int = 1, dropout: float = 0.0) -> dict[str, torch.Tensor]:
    """Of each parameter after some steps' backward passes in float64, with the objective and the buffers."""
    training = doubled(recipe, chunk)
    method = training.method
    if dropout:
        method.network.encoder = Dropping(method.network.encoder, dropout)
    found = {}
    for number, loaded in enumerate(batches(training, 0)):
        objective, world = backward(training, loaded)
        found |= {f"{number} {name}": p.grad.clone() for name, p in method.named_parameters() if p.grad is not None}
        found[f"{number} loss"] = objective.loss.detach()
        with torch.no_grad():
            method.after_step(map_tensors(torch.Tensor.detach, world), number)
        if number + 1 == steps:
            break
    return found | {f"buffer {name}": buffer for name, buffer in method.named_buffers()}


class DoubleViews:
    """The views of a training, as float64."""

    def __init__(self, views) -> None:
        self.views, self.count = views, views.count

    def __call__(self, images, draws):
        return tuple(view.double() for view in self.views(images, draws))

    def test(self, images):
        return self.views.test(images).double()


def doubled(recipe: Recipe, chunk: int | None) -> Training:
    """A training in float64, in chunks or not."""
    training = assemble(recipe, load_splits(recipe).train)
    settings = recipe.train.model_copy(update={"chunk": chunk})
    return replace(training, method=training.method.double(), views=DoubleViews(training.views), settings=settings)


class Dropping(nn.Module):
    """An encoder with dropout behind it."""

    def __init__(self, encoder: nn.Module, share: float) -> None:
        super().__init__()
        self.encoder, self.dropout, self.out_features = encoder, nn.Dropout(share), encoder.out_features

    def forward(self, images):
        return self.dropout(self.encoder(images))


def assert_same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, value in one.items():
        torch.testing.assert_close(other[name], value, rtol=1e-10, atol=1e-12, msg=lambda text, n=name: f"{n}: {text}")


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("chunk", [3, 1])  # of 8 images, so that the last chunk is a smaller one, or each is one image
def test_the_gradient_is_that_of_the_whole_batch(tmp_path, method, chunk):
    recipe = tiny(tmp_path, *EXACT, "sampler.batch_size=8", *METHODS[method])
    whole, cached = (gradients(recipe, part, steps=2) for part in (None, chunk))
    assert any(value.abs().max() > 1e-6 for name, value in whole.items() if "network" in name)
    assert_same(whole, cached)


@pytest.mark.slow
@pytest.mark.parametrize(
    "encoder",
    [EXACT, ["encoder.model=resnet18", "encoder.freeze_batch_norm=true", "views.size=32", "head.batch_norm=false"]],
)
def test_it_is_at_64_images(tmp_path, encoder):
    recipe = tiny(tmp_path, *encoder, "sampler.batch_size=64")
    assert_same(gradients(recipe, None), gradients(recipe, 16))


def test_frozen_batch_norm_is_exact_too(tmp_path):
    recipe = tiny(tmp_path, "encoder.freeze_batch_norm=true", "head.batch_norm=false")
    assert_same(gradients(recipe, None), gradients(recipe, 3))


def test_dropout_draws_alike_in_both_passes(tmp_path):
    # With the draws of each chunk fixed, chunks give what the chunks' networks give on the whole batch.
    recipe = tiny(tmp_path, *EXACT)
    first, again = gradients(recipe, 4, dropout=0.5), gradients(recipe, 4, dropout=0.5)
    assert_same(first, again)
    training = doubled(recipe, 8)
    training.method.network.encoder = Dropping(training.method.network.encoder, 0.5)
    loaded = next(iter(batches(training, 0)))
    seen = []
    training.method.network.register_forward_hook(lambda module, inputs, output: seen.append(output.h.detach()))
    backward(training, loaded)
    assert len(seen) == 4
    for one, other in zip(seen[:2], seen[2:], strict=True):
        assert (one == 0).any()
        assert torch.equal(one, other)
    assert not torch.equal(seen[0] == 0, seen[1] == 0)


def test_running_statistics_move_in_one_pass_and_batch_norm_is_told_of(tmp_path):
    recipe = tiny(tmp_path, "train.steps=1")
    counted = gradients(recipe, 8)
    names = [name for name in counted if name.endswith("num_batches_tracked")]
    assert names
    assert all(int(counted[name]) == 2 for name in names)  # chunks, each in one of two passes
    messages = [p.message for p in run(tiny(tmp_path, "train.steps=1", "train.chunk=8"), tmp_path / "run") if p.message]
    assert any(
        message.startswith("BatchNorm takes its statistics of each chunk of 8 images, not of the batch")
        for message in messages
    )
    for without in ([*EXACT, "train.chunk=8"], [], ["train.chunk=16"]):
        assert batch_statistics(assemble(tiny(tmp_path, *without), load_splits(recipe).train)) is None


@pytest.mark.slow
def test_a_run_in_chunks_is_the_run_without(tmp_path):
    for name, overrides in {"whole": [], "chunks": ["train.chunk=7"]}.items():
        run(tiny(tmp_path, *EXACT, *overrides), tmp_path / name)
    lines = [
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("whole", "chunks")
    ]
    for one, other in zip(*lines, strict=True):
        assert one.keys() == other.keys()
        for key in one.keys() & {"loss", "gradient_norm", "spread", "anchors_without_positives"}:
            assert other[key] == pytest.approx(one[key], rel=2e-3, abs=1e-5), key


def test_no_more_images_than_a_chunk_are_seen_at_a_time(tmp_path):
    training = doubled(tiny(tmp_path, *EXACT, "sampler.batch_size=64"), 6)
    seen = []
    training.method.network.register_forward_pre_hook(lambda _, images: seen.append(len(images[0])))
    backward(training, next(iter(batches(training, 0))))
    assert max(seen) == 12  # of each image two views
    assert sum(seen) == 2 * 2 * 64


def test_a_batch_smaller_than_a_chunk_takes_one_pass(tmp_path):
    recipe = tiny(tmp_path, *EXACT, "train.chunk=64")
    training = assemble(recipe, load_splits(recipe).train)
    passes = []
    training.method.network.register_forward_hook(lambda *_: passes.append(1))
    next(fit(training))
    assert len(passes) == 1


def test_a_device_without_memory_is_an_error_that_helps(tmp_path):
    settings = tiny(tmp_path).train
    with (
        pytest.raises(
            RecipeError, match=r"step 3 does not fit the memory of the device: CUDA out of memory\."
        ) as caught,
        telling_of_memory(settings, 3),
    ):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.\nmore")
    assert caught.value.help.startswith(
        "set train.chunk = 64, or another number: so many images are embedded at a time"
    )
    with pytest.raises(RecipeError) as caught, telling_of_memory(settings.model_copy(update={"chunk": 64}), 3):
        raise torch.OutOfMemoryError("CUDA out of memory.")
    assert caught.value.help.startswith("set train.chunk = 32:")
