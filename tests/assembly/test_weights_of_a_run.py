"""Encoders that start from a run: the right checkpoint, checked, or an error that says what to do."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import timm
import torch
from safetensors.torch import load_file

from metriclab.assembly.assemble import build_method
from metriclab.assembly.embedder import load
from metriclab.errors import RecipeError, StorageError
from metriclab.runs import checkpoint as checkpoints
from metriclab.training.interruption import Interrupted
from tests.support.tiny import run, tiny
from tests.training.test_features import sxbm

CLASSES = torch.arange(3)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("source")
    run(tiny(folder, "train.steps=3", "train.keep_checkpoints=true"), folder / "simclr")
    return folder / "simclr"


def built(folder: Path, weights: Path, *overrides: str):
    return build_method(sxbm(folder, f"encoder.weights={weights}", *overrides), CLASSES)


def encoder_in(run_folder: Path, step: int) -> dict[str, torch.Tensor]:
    state = load_file(run_folder / "checkpoints" / f"step-{step:010d}.safetensors")
    prefix = "method.network.encoder."
    return {name.removeprefix(prefix): value for name, value in state.items() if name.startswith(prefix)}


def assert_equal(encoder, state) -> None:
    found = encoder.state_dict()
    assert found.keys() == state.keys()
    for name, value in found.items():
        assert torch.equal(value, state[name]), name


def test_a_finished_run_gives_its_best_encoder_which_training_leaves_bit_by_bit(source, tmp_path):
    best = json.loads((source / "result.json").read_text())["best_step"]
    assert_equal(built(tmp_path, source).network.encoder, encoder_in(source, best))
    run(sxbm(tmp_path, f"encoder.weights={source}"), tmp_path / "run")
    trained = load(tmp_path / "run")
    assert_equal(trained.network.encoder, encoder_in(source, best))
    assert all(parameter.grad is None for parameter in trained.network.encoder.parameters())


def test_another_best_step_gives_another_encoder(source, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    result = json.loads((copy / "result.json").read_text())
    other = min(checkpoints.checkpoint_steps(copy / "checkpoints"))
    (copy / "result.json").write_text(json.dumps({**result, "best_step": other}))
    assert_equal(built(tmp_path, copy).network.encoder, encoder_in(source, other))


def test_an_unfinished_run_gives_its_newest_encoder(tmp_path):
    asked = iter(range(1, 100))
    with pytest.raises(Interrupted):
        run(tiny(tmp_path), tmp_path / "run", stop=lambda: next(asked) >= 3)
    assert_equal(built(tmp_path, tmp_path / "run").network.encoder, encoder_in(tmp_path / "run", 3))


def test_loading_a_run_does_not_need_the_run_it_started_from(source, tmp_path):
    shutil.copytree(source, tmp_path / "gone")
    asked = iter(range(1, 100))
    recipe = sxbm(tmp_path, f"encoder.weights={tmp_path / 'gone'}")
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "run", stop=lambda: next(asked) >= 3)
    shutil.rmtree(tmp_path / "gone")
    embedder = load(tmp_path / "run")
    best = json.loads((source / "result.json").read_text())["best_step"]
    assert_equal(embedder.network.encoder, encoder_in(source, best))


def test_a_missing_run_is_named_with_the_command_that_makes_it(tmp_path):
    with pytest.raises(StorageError) as caught:
        built(tmp_path, Path("runs/simclr"))
    assert caught.value.message == 'encoder.weights = "runs/simclr": there is no run in this folder'
    assert caught.value.help == (
        "run first what it is to start from: metriclab run RECIPE --out runs/simclr; or name a file that ends in "
        ".safetensors, .pth, .pt, .pth.tar, .ckpt, .bin"
    )
    (tmp_path / "empty").mkdir()
    with pytest.raises(StorageError, match="there is no run in this folder"):
        built(tmp_path, tmp_path / "empty")


def test_a_run_without_a_checkpoint_is_named_with_the_command_that_continues_it(source, tmp_path):
    early = tmp_path / "early"
    early.mkdir()
    shutil.copy(source / "recipe.toml", early)
    with pytest.raises(StorageError) as caught:
        built(tmp_path, early)
    assert caught.value.message == f"{early} has no checkpoint yet"
    command = f"metriclab run {early}/recipe.toml --out {early} --resume"
    assert caught.value.help == f"let the run reach its first one; continue it with: {command}"


def test_a_run_of_no_steps_has_no_weights_to_give(tmp_path):
    run(tiny(tmp_path, "train.steps=0"), tmp_path / "run")
    with pytest.raises(StorageError, match="that run trained nothing and saved no weights"):
        built(tmp_path, tmp_path / "run")


def test_a_damaged_checkpoint_is_refused(source, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(source, copy)
    best = json.loads((copy / "result.json").read_text())["best_step"]
    file = copy / "checkpoints" / f"step-{best:010d}.safetensors"
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)
    with pytest.raises(StorageError, match="is damaged: its hash does not match"):
        built(tmp_path, copy)


def test_a_run_of_another_encoder_is_refused_with_what_to_set(source, tmp_path):
    with pytest.raises(RecipeError) as caught:
        built(tmp_path, source, "encoder.model=test_vit", "encoder.image_size=8")
    assert f'encoder.weights = "{source}": the encoder of that run is another one than' in caught.value.message
    assert "these are not the weights of this model" in caught.value.message
    assert caught.value.help == (
        f'set encoder.model = "test_resnet" and leave out encoder.image_size, as in {source}/recipe.toml'
    )


def test_files_are_still_files(source, tmp_path):
    best = json.loads((source / "result.json").read_text())["best_step"]
    file = source / "checkpoints" / f"step-{best:010d}.safetensors"
    assert_equal(built(tmp_path, file).network.encoder, encoder_in(source, best))


def test_a_run_says_what_it_took_of_a_checkpoint(tmp_path):
    state = timm.create_model("test_resnet").state_dict()
    networks = {f"module.encoder.{name}": tensor for name, tensor in state.items()}
    torch.save({"epoch": 99, "state_dict": networks}, tmp_path / "simsiam.pth.tar")
    recipe = tiny(
        tmp_path, "train.steps=1", f"encoder.weights={tmp_path / 'simsiam.pth.tar'}", "encoder.freeze_batch_norm=false"
    )
    messages = [status.message for status in run(recipe, tmp_path / "run")]
    expected = f"encoder.weights: took the {len(state) - 2} tensors of {tmp_path}/simsiam.pth.tar below "
    assert f"{expected}'state_dict.module.encoder.', without its fc" in messages
