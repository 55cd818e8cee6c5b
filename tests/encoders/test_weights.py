"""Checkpoints as other projects write them: the network is found, named, or refused with the way to choose it."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from metriclab.encoders.timm import TimmEncoder
from metriclab.encoders.weights_file import ENDINGS, read_weights
from metriclab.errors import DataError, RecipeError

State = dict[str, Tensor]


@pytest.fixture(scope="module")
def trained() -> State:
    return state(timm.create_model("test_resnet", num_classes=0))


def state(network: nn.Module) -> State:
    return {name: torch.rand_like(t.float()).to(t.dtype) for name, t in network.state_dict().items()}


def below(prefix: str, *parts: Mapping[str, Tensor]) -> State:
    return {prefix + name: tensor for part in parts for name, tensor in part.items()}


def mlp(name: str, width: int = 96) -> State:
    """A head of two layers."""
    layers = {"0.weight": torch.rand(width, width), "0.bias": torch.rand(width), "2.weight": torch.rand(16, width)}
    return below(f"{name}.", layers)


def other(trained: State) -> State:
    """A momentum copy."""
    return {name: tensor + 1 for name, tensor in trained.items()}


def numbered(trained: State) -> State:
    """As nn.Sequential(*list(resnet.children())[:-1]) calls its parts."""
    place = {name: index for index, (name, _) in enumerate(timm.create_model("test_resnet").named_children())}
    return {f"{place[name.partition('.')[0]]}.{name.partition('.')[2]}": tensor for name, tensor in trained.items()}


def optimizer() -> dict[str, Any]:
    return {"state": {0: {"momentum_buffer": torch.rand(3)}}, "param_groups": [{"lr": 0.1, "params": [0]}]}


def moco(trained: State) -> dict[str, Any]:
    networks = below("module.encoder_q.", trained, mlp("fc")) | below("module.encoder_k.", other(trained), mlp("fc"))
    queue = {"module.queue": torch.rand(16, 32), "module.queue_ptr": torch.zeros(1, dtype=torch.int64)}
    return {"epoch": 200, "arch": "resnet50", "state_dict": networks | queue, "optimizer": optimizer()}


def moco_v3(trained: State) -> dict[str, Any]:
    base = below("module.base_encoder.", trained, mlp("fc")) | below("module.predictor.", mlp("0"))
    return {"epoch": 1, "state_dict": base | below("module.momentum_encoder.", other(trained)), "scaler": {}}


def simsiam(trained: State) -> dict[str, Any]:
    networks = below("module.encoder.", trained, mlp("fc")) | below("module.", mlp("predictor"))
    return {"epoch": 100, "arch": "resnet50", "state_dict": networks, "optimizer": optimizer()}


def supcon(trained: State) -> dict[str, Any]:
    model = below("encoder.module.", trained) | mlp("head")
    return {"opt": argparse.Namespace(temp=0.07), "model": model, "optimizer": optimizer(), "epoch": 1000}


def solo_learn(trained: State) -> dict[str, Any]:
    heads = below("classifier.", {"weight": torch.rand(10, 96), "bias": torch.rand(10)}) | mlp("projector")
    return {"epoch": 9, "global_step": 99, "state_dict": below("backbone.", trained) | heads, "loops": {}}


def lightly(trained: State) -> dict[str, Any]:
    networks = below("backbone.", numbered(trained)) | mlp("projection_head.layers")
    return {"epoch": 9, "pytorch-lightning_version": "2.4.0", "state_dict": networks, "callbacks": {}}


def dino(trained: State) -> dict[str, Any]:
    head = {"head.mlp.0.weight": torch.rand(8, 96), "head.last_layer.weight_g": torch.rand(9, 1)}
    student, teacher = below("module.backbone.", other(trained)), below("backbone.", trained)
    networks = {"student": student | below("module.", head), "teacher": teacher | head}
    return {**networks, "optimizer": optimizer(), "epoch": 100, "args": argparse.Namespace(arch="resnet50")}


def assert_loaded(encoder: TimmEncoder, trained: State) -> None:
    for name, tensor in encoder.model.state_dict().items():
        assert torch.equal(tensor, trained[name]), name


@pytest.mark.parametrize(
    ("wrap", "file", "choice", "prefix", "left_out"),
    [
        (moco, "moco_v2_200ep_pretrain.pth.tar", "encoder_q", "state_dict.module.encoder_q.", ", without its fc"),
        (moco_v3, "r-50-100ep.pth.tar", "base_encoder", "state_dict.module.base_encoder.", ", without its fc"),
        (simsiam, "checkpoint_0099.pth.tar", None, "state_dict.module.encoder.", ", without its fc"),
        (supcon, "last.pth", None, "model.encoder.module.", ""),
        (solo_learn, "simclr-ep=9.ckpt", None, "state_dict.backbone.", ""),
        (lightly, "last.ckpt", None, "state_dict.backbone.", ""),
        (dino, "checkpoint.pth", "teacher", "teacher.backbone.", ""),
        (lambda trained: trained, "pytorch_model.bin", None, "", None),
        (lambda trained: trained | mlp("head"), "flat.pt", None, "", ", without its head"),
    ],
)
def test_checkpoints_of_other_projects(tmp_path: Path, trained: State, wrap, file, choice, prefix, left_out):
    torch.save(wrap(trained), tmp_path / file)
    weights = {"weights": str(tmp_path / file), "weights_prefix": choice}
    encoder = TimmEncoder(model="test_resnet", freeze_batch_norm=False, **weights)
    assert_loaded(encoder, trained)
    below_prefix = f" below '{prefix}'" if prefix else ""
    took = f"encoder.weights: took the {len(trained)} tensors of {tmp_path / file}{below_prefix}"
    assert encoder.note == (None if left_out is None else took + left_out)


def test_safetensors_are_searched_too(tmp_path: Path, trained: State):
    save_file(below("module.encoder.", trained), tmp_path / "x.safetensors")
    assert_loaded(TimmEncoder(model="test_resnet", weights=str(tmp_path / "x.safetensors")), trained)


@pytest.mark.parametrize(
    ("wrap", "prefixes", "ways"),
    [
        (moco, ("state_dict.module.encoder_q.", "state_dict.module.encoder_k."), '"encoder_q" or "encoder_k"'),
        (dino, ("student.module.backbone.", "teacher.backbone."), '"student" or "teacher"'),
        (lambda t: t | below("ema.", other(t)), ("", "ema."), '"" or "ema"'),
        (lambda t: below("a.", t) | below("a.b.", other(t)), ("a.", "a.b."), '"a." or "b"'),
    ],
)
def test_two_networks_that_fit_are_refused_and_each_can_be_chosen(tmp_path: Path, trained: State, wrap, prefixes, ways):
    file = tmp_path / "two.pth"
    torch.save(wrap(trained), file)
    with pytest.raises(DataError) as caught:
        TimmEncoder(model="test_resnet", weights=str(file))
    places = ", ".join(f"'{prefix}'" for prefix in prefixes)
    assert caught.value.message == f"{file}: 2 networks of this file fit the encoder, those below {places}"
    assert caught.value.help == f"choose one: encoder.weights_prefix = {ways}"
    everything = read_weights(file)
    for way, prefix in zip(ways.split(" or "), prefixes, strict=True):
        for choice in (way.strip('"'), prefix):
            encoder = TimmEncoder(model="test_resnet", weights=str(file), weights_prefix=choice)
            assert_loaded(encoder, {name: everything[prefix + name] for name in trained})


def test_one_network_under_two_names_is_not_ambiguous(tmp_path: Path, trained: State):
    torch.save(below("backbone.", trained) | below("model.backbone.", trained), tmp_path / "alias.ckpt")
    encoder = TimmEncoder(model="test_resnet", weights=str(tmp_path / "alias.ckpt"))
    assert_loaded(encoder, trained)
    assert "below 'backbone.'" in str(encoder.note)


def test_the_shape_decides_where_names_do_not(tmp_path: Path, trained: State):
    wide = {name: torch.rand(*tensor.shape, 2) for name, tensor in trained.items()}
    torch.save(below("wide.", wide) | below("right.", trained), tmp_path / "two.pth")
    assert_loaded(TimmEncoder(model="test_resnet", weights=str(tmp_path / "two.pth")), trained)


def test_a_prefix_that_is_not_there_is_refused(tmp_path: Path, trained: State):
    torch.save(simsiam(trained), tmp_path / "x.pth")
    with pytest.raises(DataError) as caught:
        TimmEncoder(model="test_resnet", weights=str(tmp_path / "x.pth"), weights_prefix="encoder_q")
    assert caught.value.message == (
        f'{tmp_path}/x.pth: encoder.weights_prefix = "encoder_q" is not where this encoder\'s weights are'
    )
    assert caught.value.help == "they are below 'state_dict.module.encoder.'; name one of these, or leave it out"


def test_layers_too_many_or_too_few_are_refused_below_a_prefix_too(tmp_path: Path, trained: State):
    deeper = trained | {"layer1.7.conv1.weight": torch.rand(1)}
    torch.save(below("module.encoder.", deeper), tmp_path / "deeper.pth")
    with pytest.raises(DataError, match=r"0 missing; 1 unexpected: layer1\.7\.conv1\.weight below 'module\.encoder"):
        TimmEncoder(model="test_resnet", weights=str(tmp_path / "deeper.pth"))
    fewer = {name: tensor for name, tensor in trained.items() if name != "layer2.0.conv1.weight"}
    torch.save(below("backbone.", fewer), tmp_path / "fewer.pth")
    with pytest.raises(DataError, match=r"\(1 missing: layer2\.0\.conv1\.weight; 0 unexpected below 'backbone\.'\)"):
        TimmEncoder(model="test_resnet", weights=str(tmp_path / "fewer.pth"))


class Settings:
    """What a training script may have pickled beside its weights."""


def test_a_file_that_needs_pickled_classes_says_which_and_what_to_do(tmp_path: Path, trained: State):
    file = tmp_path / "own.pth"
    torch.save({"state_dict": trained, "settings": Settings()}, file)
    with pytest.raises(DataError) as caught:
        TimmEncoder(model="test_resnet", weights=str(file))
    assert caught.value.message == (
        f"{file}: holds pickled objects (tests.encoders.test_weights.Settings), which could run code and are not "
        "loaded, or is damaged"
    )
    assert caught.value.help == (
        f"where you trust its origin, save only its tensors: content = torch.load({str(file)!r}, map_location='cpu', "
        "weights_only=False); torch.save(content['state_dict'], 'weights.pth'), or whatever key of content holds the "
        "model's state_dict()"
    )


@pytest.mark.parametrize("ending", ENDINGS[1:])
@pytest.mark.parametrize("content", [b"", b"\n", b"[1, 2]", b"\x80\x02}q\x00(X", b"PK\x03\x04", b"\xff" * 100])
def test_any_bytes_are_an_error_and_no_traceback(tmp_path: Path, ending: str, content: bytes):
    (tmp_path / f"x{ending}").write_bytes(content)
    with pytest.raises(DataError):
        read_weights(tmp_path / f"x{ending}")


def test_a_dict_that_holds_itself_ends(tmp_path: Path):
    content: dict[str, Any] = {"weight": torch.ones(1)}
    content["again"] = content
    torch.save(content, tmp_path / "x.pth")
    assert {name.count("again") for name in read_weights(tmp_path / "x.pth")} == set(range(8))


def test_a_prefix_without_a_file_is_refused():
    with pytest.raises(RecipeError, match=r"weights_prefix is of a file, and encoder\.weights names none"):
        TimmEncoder(model="test_resnet", weights_prefix="encoder_q")
