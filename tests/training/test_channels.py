"""Runs on images of other channels and bits than photographs have: what views and encoders make of them."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from metriclab.assembly.embedder import load
from metriclab.assembly.rehearsal import rehearse
from metriclab.errors import DataError, RecipeError
from metriclab.recipe import read_recipe
from metriclab.runs.folder import RunFolder
from tests.support.tiny import TINY, run, tiny

GREY = ["views.colour=[0.4,0.4,0,0]", "views.grayscale=0"]


@pytest.fixture
def folder(tmp_path, cache):
    """Arrays of 4 channels of 16 bits, of which 12 are used, of two sizes; two classes a split."""
    draws = np.random.default_rng(0)
    for split in ("train", "val", "test"):
        for number in range(12):
            name = tmp_path / "arrays" / split / "ab"[number % 2] / f"{number}.npy"
            name.parent.mkdir(parents=True, exist_ok=True)
            height = 12 + number % 3
            values = draws.integers(0, 1024, (height, 16, 4)) + np.array([0, 512, 1024, 3000])
            np.save(name, values.astype(np.uint16))
    return tmp_path / "arrays"


def recipe_of(tmp_path, folder, *more):
    data = [
        *("data.name=folder", f"data.root={folder}", "data.size=12", "data.pixels=stored"),
        *("train.steps=2", "train.evaluate_every=1", "sampler.batch_size=8", "train.checkpoint_every=1"),
    ]
    return tiny(tmp_path, *data, *more)


def test_a_run_normalises_by_its_training_images_and_whoever_takes_it_up_does_too(tmp_path, folder):
    recipe = recipe_of(tmp_path, folder, "encoder.in_chans=4", *GREY)
    out = tmp_path / "run"
    run(recipe, out)
    arrays = [np.load(path) / 65535 for path in sorted(folder.glob("train/*/*.npy"))]
    # Reduced to a short side of 12 they are other ones in the last digits.
    pixels = np.concatenate([array.reshape(-1, 4) for array in arrays])
    manifest = json.loads((out / "manifest.json").read_text())["statistics"]
    assert np.allclose(manifest["mean"], pixels.mean(0), atol=1e-3)
    assert np.allclose(manifest["std"], pixels.std(0), atol=1e-3)
    embedder = load(out)
    encoder = embedder.method.get_submodule("network.encoder")
    assert encoder.mean.flatten().tolist() == pytest.approx(manifest["mean"])
    assert encoder.std.flatten().tolist() == pytest.approx(manifest["std"])
    (embedded,) = embedder.files(sorted(folder.glob("test/*/*.npy")))
    assert embedded.shape[0] == 12
    np.save(tmp_path / "grey.npy", np.zeros((12, 16), np.uint16))
    with pytest.raises(DataError, match=r"0.npy has 4 channels of 16 bits, and .*grey.npy has 1 channel of 16 bits"):
        next(embedder.files([*folder.glob("test/a/0.npy"), tmp_path / "grey.npy"]))
    assert embedded.std(0).mean() > 1e-3
    assert set(RunFolder(out).result()["baselines"]) >= {"untrained", "raw_pixels"}


def test_a_run_of_no_steps_has_them_from_its_manifest(tmp_path, folder):
    text = TINY.replace('[loss]\nname = "nt-xent"\n', "").replace(
        '[method]\nname = "simclr"', '[method]\nname = "none"'
    )
    (tmp_path / "none.toml").write_text(text.replace("steps = 7", "steps = 0").replace("evaluate_every = 1\n", ""))
    data = ["data.name=folder", f"data.root={folder}", "data.size=12", "data.pixels=stored"]
    run(read_recipe(tmp_path / "none.toml", [*data, "encoder.in_chans=4", *GREY]), tmp_path / "run")
    encoder = load(tmp_path / "run").method.get_submodule("network.encoder")
    assert 0.004 < float(encoder.mean[0]) < 0.012


def test_views_that_need_colour_and_encoders_of_other_channels_say_so(tmp_path, folder):
    problems = {problem.message: problem.help for problem in rehearse(recipe_of(tmp_path, folder)).problems}
    assert problems == {
        "views 'simclr' need red, green and blue for views.colour and views.grayscale, and the images have "
        "4 channels": ("set views.colour = [0.8, 0.8, 0.0, 0.0] and views.grayscale = 0.0")
    }
    with pytest.raises(RecipeError) as caught:
        run(recipe_of(tmp_path, folder, *GREY), tmp_path / "run")
    assert caught.value.message == "the images have 4 channels and the encoder takes 3"
    assert caught.value.help == "set encoder.in_chans = 4"
    assert not (tmp_path / "run").exists()


def test_files_that_give_no_image_refuse_no_channels(tmp_path, folder):
    files = sorted(folder.glob("*/*/*.npy"))
    for bad in (files[:1], files):
        for path in bad:
            path.write_bytes(b"no image")
        assert rehearse(recipe_of(tmp_path, folder, "encoder.in_chans=4", "data.on_error=skip", *GREY)).problems == []


def test_photographs_are_normalised_as_ever(tmp_path):
    run(tiny(tmp_path, "train.steps=1"), tmp_path / "run")
    assert "statistics" not in json.loads((tmp_path / "run/manifest.json").read_text())
    encoder = load(tmp_path / "run").method.get_submodule("network.encoder")
    assert torch.equal(encoder.mean, torch.full((3, 1, 1), 0.5))
