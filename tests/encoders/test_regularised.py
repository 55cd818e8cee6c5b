"""Dropout, stochastic depth and gradient checkpointing of timm's models."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from metriclab.assembly.assemble import assemble
from metriclab.assembly.splits import load_splits
from metriclab.encoders.timm import TimmEncoder
from metriclab.errors import RecipeError
from metriclab.training.fit import fit
from tests.support.tiny import run, tiny

MODELS = ["test_resnet", "test_convnext", "test_vit", "test_efficientnet"]


def images(count: int = 4, size: int = 32) -> torch.Tensor:
    return torch.rand(count, 3, size, size, generator=torch.Generator().manual_seed(0))


SKIPPED = ["test_resnet", "test_convnext", "test_vit", "mobilenetv3_small_050"]
"""Models with shortcuts: test_efficientnet has none, so there is nothing to skip."""


@pytest.mark.parametrize(
    ("rate", "model"),
    [*(("drop_rate", model) for model in MODELS), *(("drop_path_rate", model) for model in SKIPPED)],
)
def test_rates_make_training_random_and_leave_evaluation_alone(rate: str, model: str):
    encoder = TimmEncoder(model=model, freeze_batch_norm=True, **{rate: 0.5})
    for parameter in encoder.parameters():  # timm starts some scales at zero, and nothing passes those
        torch.nn.init.normal_(parameter)
    encoder.double().eval()
    x = images().double()
    assert torch.equal(encoder(x), encoder(x))
    encoder.train()
    assert not torch.equal(encoder(x), encoder(x))
    if rate == "drop_rate":
        dropped = (encoder(x) == 0).double().mean()
        assert dropped >= 0.3


@pytest.mark.parametrize(
    ("settings", "text"),
    [
        (
            {"drop_path_rate": 0.1},
            "timm model 'vgg11' has no drop_path_rate: it is built without stochastic depth\n  help: leave it out",
        ),
        (
            {"gradient_checkpointing": True},
            "timm model 'vgg11' has no gradient_checkpointing\n"
            "  help: leave it out; train.chunk bounds the memory of a step for every model",
        ),
    ],
)
def test_a_model_that_lacks_it_is_told(settings, text: str):
    with pytest.raises(RecipeError) as caught:
        TimmEncoder(model="vgg11", **settings)
    assert str(caught.value) == text


@pytest.mark.parametrize("model", MODELS)
def test_checkpointed_gradients_are_equal(model: str):
    gradients, features = [], []
    for gradient_checkpointing in (False, True):
        torch.manual_seed(0)
        encoder = TimmEncoder(model=model, drop_path_rate=0.3, gradient_checkpointing=gradient_checkpointing).double()
        encoder.train()
        torch.manual_seed(1)
        h = encoder(images().double())
        h.square().sum().backward()
        features.append(h.detach())
        gradients.append({name: one.grad for name, one in encoder.named_parameters() if one.grad is not None})
    assert torch.equal(*features)
    assert gradients[0].keys() == gradients[1].keys()
    for name, gradient in gradients[0].items():
        torch.testing.assert_close(gradients[1][name], gradient, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("chunk", [[], ["train.chunk=8"]], ids=["whole", "chunks"])
def test_a_run_with_checkpoints_is_that_without_running_statistics_included(chunk: list[str], tmp_path: Path):
    ends = []
    for gradient_checkpointing in ("false", "true"):
        option = f"encoder.gradient_checkpointing={gradient_checkpointing}"
        recipe = tiny(tmp_path, "train.steps=2", "encoder.drop_path_rate=0.2", option, *chunk)
        training = assemble(recipe, load_splits(recipe).train)
        training.method.double()
        for _ in fit(training):
            pass
        ends.append(training.method.state_dict())
    assert ends[0]["network.encoder.model.bn1.num_batches_tracked"] == 2 * (2 if chunk else 1)
    for name, tensor in ends[0].items():
        torch.testing.assert_close(ends[1][name], tensor, rtol=1e-12, atol=1e-12)


def test_a_run_with_all_of_them_goes_to_its_end(tmp_path: Path):
    options = ["encoder.drop_rate=0.1", "encoder.drop_path_rate=0.1", "encoder.gradient_checkpointing=true"]
    assert run(tiny(tmp_path, "train.steps=2", *options), tmp_path / "run")[-1].stage == "finished"
