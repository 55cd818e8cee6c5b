"""Adapters against their formula, written by hand, and what is easy to get wrong beside a frozen base."""

from __future__ import annotations

from functools import partial

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from metriclab.api import Batch, Network, RecipeError, build
from metriclab.testing import check_encoder, check_method

SMALL = {"name": "timm", "model": "test_vit", "image_size": 32}
IMAGES = torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def weights(tmp_path_factory):
    """A file of the base's weights, as somebody trained them."""
    torch.manual_seed(1)
    file = tmp_path_factory.mktemp("base") / "vit.safetensors"
    save_file(plain().state_dict(), file)
    return str(file)


def plain(**options):
    params = {key: value for key, value in SMALL.items() if key != "name"}
    return build("encoder", SMALL["name"], **params, **options)


def encoder(weights=None, **options):
    torch.manual_seed(2)
    base = SMALL if weights is None else {**SMALL, "weights": weights}
    return build("encoder", "timm-lora", base=base, **{"rank": 3, "alpha": 6.0, **options})


def tuned(weights=None, **options):
    """As after some steps: B is 0 no longer."""
    made = encoder(weights, **options)
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for name, parameter in made.named_parameters():
            if "lora_B" in name:
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 10)
    return made


def seen(module):
    with torch.no_grad():
        return module.eval()(IMAGES)


def test_a_layer_is_its_own_and_the_product_of_the_adapters_by_alpha_over_rank():
    made = tuned()
    layer = made.base.model.blocks[0].attn.qkv
    x = torch.randn(5, 64)
    a, b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    expected = x @ layer.base_layer.weight.T + layer.base_layer.bias + 6.0 / 3 * (x @ a.T) @ b.T
    torch.testing.assert_close(layer(x), expected)


def test_it_begins_with_the_features_of_the_base(weights):
    base = plain(weights=weights)
    torch.testing.assert_close(seen(encoder(weights)), seen(base), atol=0, rtol=0)
    assert not torch.allclose(seen(tuned(weights)), seen(base))


def test_only_adapters_are_trained_and_saved_where_the_base_comes_from_a_file(weights):
    made = tuned(weights)
    trained = [name for name, parameter in made.named_parameters() if parameter.requires_grad]
    assert len(trained) == 2 * 2 * 6  # A and B of qkv and proj in six blocks
    assert all(".lora_" in name for name in trained)
    state = made.state_dict()
    assert set(state) == {*trained, "base_digest"}
    whole = tuned().state_dict()
    assert sum(value.nbytes for value in state.values()) < sum(value.nbytes for value in whole.values()) / 10
    # In a method, below a prefix.
    network = Network(made, nn.Identity())
    assert set(network.state_dict()) == {f"encoder.{key}" for key in state}
    other = Network(encoder(weights), nn.Identity())
    other.load_state_dict(network.state_dict())
    torch.testing.assert_close(seen(other.encoder), seen(made), atol=0, rtol=0)


def test_adapters_of_another_base_are_refused(weights, tmp_path):
    torch.manual_seed(9)
    save_file(plain().state_dict(), tmp_path / "other.safetensors")
    other = encoder(str(tmp_path / "other.safetensors"))
    with pytest.raises(RuntimeError, match=r"its adapters belong to a base of other weights than encoder\.base"):
        other.load_state_dict(tuned(weights).state_dict())
    with pytest.raises(RuntimeError, match="Missing key"):
        encoder(weights).load_state_dict({})


def test_a_random_base_is_saved_whole():
    made, other = tuned(), encoder()
    with torch.no_grad():
        next(other.base.parameters()).add_(1)
    other.load_state_dict(made.state_dict())
    torch.testing.assert_close(seen(other), seen(made), atol=0, rtol=0)


def test_merged_it_is_the_base_with_other_weights(weights):
    made = tuned(weights)
    before = seen(made)
    made.merge()
    torch.testing.assert_close(seen(made), before, atol=1e-5, rtol=0)
    base = plain()
    state = made.state_dict()
    base.load_state_dict({k.removeprefix("base."): v for k, v in state.items() if k.startswith("base.")})
    torch.testing.assert_close(seen(base), seen(made), atol=0, rtol=0)


def test_the_base_stays_in_evaluation_mode_and_the_adapters_drop_out_in_training():
    made = encoder(dropout=0.5).train()
    training = {name for name, module in made.named_modules() if module.training}
    assert training - {""} == {name for name, module in made.named_modules() if ".lora_dropout" in name}
    assert not any(module.training for module in made.eval().modules())


@pytest.mark.parametrize(
    ("targets", "text"),
    [
        (
            ["attn.qvk"],
            r"has 'attn\.qvk', and no layer of the base that can have an adapter ends so\n  help: such layers, linear "
            r"ones and convolutions, end in attn\.proj, attn\.qkv, mlp\.fc1, mlp\.fc2, patch_embed\.proj",
        ),
        (["attn.qkv", "norm1"], r"has 'norm1', and no layer .* ends so: model\.blocks\.0\.norm1 is a LayerNorm"),
        ([], r"targets of encoder 'timm-lora' must be list\[str\] with at least 1 entries"),
    ],
)
def test_names_that_match_nothing_are_told(targets, text):
    with pytest.raises(RecipeError, match=text):
        encoder(targets=targets)


def test_convolutions_can_have_adapters_too():
    base = {"name": "timm", "model": "test_resnet"}
    made = build("encoder", "timm-lora", base=base, targets=["conv1"], rank=2)
    made.train()(IMAGES).sum().backward()
    state = {name: buffer.clone() for name, buffer in made.named_buffers()}
    made(IMAGES + 0.1)
    assert all(torch.equal(buffer, state[name]) for name, buffer in made.named_buffers())  # BatchNorm's statistics


def test_conformance(weights):
    check_encoder(encoder(), rebuild=encoder)
    check_encoder(tuned(weights), rebuild=partial(encoder, weights))


def test_on_any_number_of_ranks_it_trains_as_in_one_process(weights):
    generator = torch.Generator().manual_seed(1)
    images = (torch.rand(7, 3, 32, 32, generator=generator),)
    batch = Batch(images, torch.tensor([0, 1, 0, 2, 1, 0, 2]), torch.arange(7), torch.arange(7), 0)
    network = Network(encoder(weights, targets=["blocks.0.attn.qkv"]), build("head", "linear", 64, embedding_dim=4))
    check_method(build("method", "supervised", network, loss=build("loss", "supcon")), batch, steps=2)
