"""What `metriclab check` finds by building what a run builds: everything that would stop the run before a step."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner, Result
from PIL import Image
from safetensors.torch import load_file

from metriclab.cli import main
from tests.support.tiny import TINY, run, tiny

PROXIES = ["method.name=supervised", "loss.name=proxy-anchor", "memory.name=proxies"]


def check(path: Path, *options: str) -> Result:
    words = [word for option in options for word in ("--set", option)]
    return CliRunner().invoke(main, ["check", str(path), *words])


@pytest.fixture
def recipe(tmp_path: Path) -> Path:
    path = tmp_path / "recipe.toml"
    path.write_text(TINY)
    return path


def test_a_recipe_that_runs_is_fine(recipe):
    for options in ([], PROXIES, ["train.steps=0"], ["optimizer.groups.head=0.1"]):
        done = check(recipe, *options)
        told = [line for line in done.stderr.splitlines() if not line.startswith("train: ")]  # the sizes of the splits
        assert (done.exit_code, told) == (0, []), done.output


@pytest.mark.parametrize("loss", ["proxy-anchor", "proxy-nca", "normalized-softmax"])
@pytest.mark.parametrize("method", ["supervised", "simclr"])
def test_a_loss_of_proxies_without_proxies(recipe, loss, method):
    done = check(recipe, f"method.name={method}", f"loss.name={loss}")
    assert done.exit_code == 2
    assert "holds images against learned rows of classes, and there is no memory" in done.stderr
    assert 'help: add [memory] with name = "proxies", and a method that takes one, such as supervised' in done.stderr


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([*PROXIES, "miner.name=batch-hard"], "the loss ProxyAnchor takes no miner"),
        (
            ["optimizer.groups.heed=2.0"],
            "optimizer.groups has no group 'heed'; the groups of this run are encoder",
        ),
        (["encoder.weights=gone.pth"], "gone.pth: no such file"),
        (["encoder.weights=gone"], 'encoder.weights = "gone": there is no run in this folder'),
        (["encoder.model=test_resnt"], "timm has no model 'test_resnt'"),
        (
            ["sampler.name=balanced", "sampler.classes_per_batch=2", "sampler.per_class=999"],
            "sampler.classes_per_batch = 2 is more than the 0 classes that can be drawn from (sampler.per_class = 999)",
        ),
        (["sampler.batch_size=9999"], "sampler.batch_size = 9999 is larger than the data set"),
        (["views.min_area=0.9", "views.max_area=0.5"], "min_area = 0.9 is above max_area = 0.5"),
        (["encoder.in_chans=1"], "the images have 3 channels and the encoder takes 1"),
        (["encoder.name=pixels", "encoder.size=9"], "encoder 'pixels' takes images of 9 x 9 pixels, not 8 x 8"),
        (["encoder.model=test_vit3"], "encoder 'test_vit3' is built for 160 x 160 pixels, not 8 x 8"),
        (["encoder.trainable=none", "head.name=none"], "there is nothing to train"),
        (["encoder.trainable=none", "encoder.unfreeze_at=2", "head.name=none"], "nothing trains in the first steps"),
        (["encoder.trainable=last:99"], "encoder.trainable = \"last:99\": 'test_resnet' has 5 blocks"),
        (["encoder.unfreeze_at=2"], "encoder.unfreeze_at = 2 has nothing to unfreeze"),
        (["encoder.name=pixels", "encoder.size=8", "optimizer.layer_decay=0.7"], "needs an encoder that trains and"),
        (
            ["train.select=retrieval.map_at_q"],
            "--set train.select=retrieval.map_at_q: train.select = 'retrieval.map_at_q' is no metric of this recipe",
        ),
    ],
)
def test_what_a_run_would_refuse_before_its_first_step(recipe, options, message):
    done = check(recipe, *options)
    assert done.exit_code in (2, 3, 5)
    assert message in done.stderr
    assert "help: " in done.stderr
    started = CliRunner().invoke(main, ["run", str(recipe), "-q", "--out", str(recipe.parent / "run")] + [
        word for option in options for word in ("--set", option)
    ])  # fmt: skip
    assert started.exit_code == done.exit_code
    assert message in started.stderr


def test_everything_is_told_at_once(recipe):
    done = check(recipe, "optimizer.groups.heed=2.0", "sampler.batch_size=9999")
    assert done.exit_code == 2
    assert done.stderr.startswith("2 things would stop the run before its first step:\n--set sampler.batch_size=9999: ")
    assert "optimizer.groups has no group 'heed'" in done.stderr


def folder_of_images(root: Path, each: int = 7) -> Path:
    for label in ("cat", "dog", "cow"):
        (root / label).mkdir(parents=True)
        for number in range(each):
            Image.new("RGB", (20, 20), (number, 0, 0)).save(root / label / f"{number}.png")
    return root


def test_images_are_listed_and_not_decoded(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("METRICLAB_CACHE", str(tmp_path / "cache"))
    root = folder_of_images(tmp_path / "images")
    options = [f"data.root={root}", "sampler.name=balanced", "sampler.classes_per_batch=2"]
    recipe.write_text(TINY.replace('name = "synthetic"\nsize = 12\n', 'name = "folder"\nroot = "x"\n'))
    assert check(recipe, *options, "sampler.per_class=2").exit_code == 0
    done = check(recipe, *options, "sampler.per_class=9")
    assert done.exit_code == 2
    assert "is more than the 0 classes that can be drawn from (sampler.per_class = 9)" in done.stderr
    assert not (tmp_path / "cache").exists()


def test_data_that_are_not_here_are_a_note(recipe):
    recipe.write_text(TINY.replace('name = "synthetic"\nsize = 12\n', 'name = "folder"\nroot = "nowhere"\n'))
    done = check(recipe)
    assert done.exit_code == 0
    assert done.stderr.startswith("note: the data are not here, and what depends on them is not checked: nowhere")
    assert check(recipe, "optimizer.groups.heed=2.0").exit_code == 2


def test_data_that_are_here_and_cannot_be_used_are_no_note(recipe, tmp_path):
    root = folder_of_images(tmp_path / "images", each=2)
    recipe.write_text(TINY.replace('name = "synthetic"\nsize = 12\n', f'name = "folder"\nroot = "{root}"\n'))
    done = check(recipe)
    assert done.exit_code == 3
    assert "no class has 6 images, 2 for each of train, val, test" in done.stderr


def test_what_was_taken_of_a_checkpoint_is_said(recipe, tmp_path):
    first = tiny(tmp_path, "train.steps=1")
    run(first, tmp_path / "run")
    best = json.loads((tmp_path / "run" / "result.json").read_text())["best_step"]
    file = tmp_path / "run" / "checkpoints" / f"step-{best:010d}.safetensors"
    assert check(recipe, f"encoder.weights={file}", "encoder.freeze_batch_norm=false").stderr == ""
    state = {f"module.{name}": tensor for name, tensor in load_file(file).items()}
    torch.save({"state_dict": state}, tmp_path / "other.ckpt")
    done = check(recipe, f"encoder.weights={tmp_path / 'other.ckpt'}")
    assert done.exit_code == 0
    assert "below 'state_dict.module.method.network.encoder.'" in done.stderr
