"""What is found before the first step, and said by its own name."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from metriclab.assembly.assemble import assemble
from metriclab.assembly.splits import load_splits
from metriclab.errors import RecipeError
from metriclab.registry import register
from tests.support.tiny import run, tiny


class Broken(nn.Module):
    """An encoder that fails in its own way, whatever the image."""

    out_features = 4

    def __init__(self, error: Exception) -> None:
        super().__init__()
        self.error = error
        self.layer = nn.Linear(3, 4)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise self.error


def assembled_with(encoder: nn.Module, folder) -> None:
    @register("encoder", "test-encoder")
    def build_it() -> nn.Module:
        return encoder

    recipe = tiny(folder, "encoder.name=test-encoder")
    assemble(recipe, load_splits(recipe).train)


def test_an_encoder_that_fails_at_any_size_is_not_said_to_need_a_larger_one(tmp_path):
    with pytest.raises(RecipeError) as caught:
        assembled_with(Broken(RuntimeError("expected scalar type Half but found Float")), tmp_path)
    assert str(caught.value) == (
        "the encoder fails on an image of 8 x 8 pixels, and on larger ones: expected scalar type Half but found Float\n"
        "  help: if it was built for one size, set that in [views]; if not, the fault is the encoder's"
    )


def test_lack_of_memory_is_not_blamed_on_the_size_of_images(tmp_path):
    with pytest.raises(RecipeError) as caught:
        assembled_with(Broken(torch.OutOfMemoryError("CUDA out of memory.\nand more")), tmp_path)
    assert str(caught.value) == (
        "one image does not fit the memory of the device beside the encoder: CUDA out of memory.\n"
        '  help: choose a smaller encoder, or train.device = "cpu"; or is the device in use by another process?'
    )


@pytest.mark.parametrize("steps", [0, 2])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_weights_that_are_not_finite_are_found_before_the_first_step(steps, value, tmp_path):
    recipe = tiny(tmp_path, "train.steps=2")
    method = assemble(recipe, load_splits(recipe).train).method
    weights = method.network.encoder.state_dict()
    name = next(name for name, tensor in weights.items() if tensor.is_floating_point())
    weights[name].view(-1)[0] = value
    torch.save({key.removeprefix("network."): tensor for key, tensor in weights.items()}, tmp_path / "broken.pth")
    path = (tmp_path / "broken.pth").as_posix()
    with pytest.raises(RecipeError) as caught:
        run(tiny(tmp_path, f"encoder.weights={path}", f"train.steps={steps}"), tmp_path / "run")
    assert "1 of " in caught.value.message
    assert "tensors hold NaN or infinity before the first step: network.encoder." in caught.value.message
    assert caught.value.help == "encoder.weights brings them: choose weights of a training that has not diverged"
    assert not (tmp_path / "run").exists()


def test_a_component_that_starts_with_nan_is_named_by_its_parameter(tmp_path):
    class Head(nn.Module):
        def __init__(self, in_features: int, /) -> None:
            super().__init__()
            self.out_features = in_features
            self.scale = nn.Parameter(torch.tensor([math.nan]))

        def forward(self, h: torch.Tensor) -> torch.Tensor:
            return h * self.scale

    register("head", "test-nan")(Head)
    with pytest.raises(RecipeError, match=r"before the first step: network.head.scale\n  help: the component that"):
        run(tiny(tmp_path, "head.name=test-nan"), tmp_path / "run")
