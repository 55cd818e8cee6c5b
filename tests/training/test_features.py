"""Features computed once: batches without images, the same training, resumed anywhere."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from metriclab.assembly.assemble import assemble
from metriclab.assembly.embedder import load
from metriclab.assembly.splits import load_splits
from metriclab.cli import main
from metriclab.core.rows import normalize
from metriclab.errors import RecipeError
from metriclab.recipe import Recipe, RecipeProblems, read_recipe
from metriclab.registry import build
from metriclab.testing import on_ranks
from metriclab.training.batches import batches
from metriclab.training.features import prepare as prepare_method
from metriclab.training.features import with_features
from metriclab.training.interruption import Interrupted
from tests.support.tiny import outcome, run, tiny

SXBM = """
[data]
name = "synthetic"
size = 12

[views]
name = "plain"
size = 8

[sampler]
name = "shuffled"
batch_size = 16

[encoder]
name = "timm"
model = "test_resnet"
trainable = "none"

[head]
name = "linear"
embedding_dim = 8

[memory]
name = "features"
size = 40

[method]
name = "sxbm"
k = 3

[train]
steps = 7
output = "z"
checkpoint_every = 2
log_every = 1

[[track]]
name = "jsonl"

[[evaluate]]
name = "retrieval"
"""


def sxbm(folder: Path, *overrides: str) -> Recipe:
    path = folder / "sxbm.toml"
    path.write_text(SXBM)
    return read_recipe(path, overrides)


class Unread:
    """A data set whose images nobody may read."""

    def __init__(self, data) -> None:
        self.labels, self.names, self.classes, self.fingerprint = data.labels, data.names, data.classes, ""

    def images(self, items):
        raise AssertionError("an image was read")


FROZEN = """
[data]
name = "synthetic"
size = 12

[views]
name = "plain"
size = 8

[sampler]
name = "balanced"
classes_per_batch = 4
per_class = 3

[encoder]
name = "timm"
model = "test_resnet"
trainable = "none"

[head]
name = "mlp"
hidden = 16
embedding_dim = 8

[loss]
name = "contrastive"

[method]
name = "supervised"

[train]
steps = 12
output = "z"
evaluate_every = 1
log_every = 1

[[track]]
name = "jsonl"

[[evaluate]]
name = "retrieval"
"""


def frozen(folder: Path, *overrides: str) -> Recipe:
    path = folder / "frozen.toml"
    path.write_text(FROZEN)
    return read_recipe(path, overrides)


XBM = ("method.name=xbm", "method.start_step=3", "memory.name=ring", "memory.size=24")
PROXIES = ("loss.name=proxy-anchor", "memory.name=proxies")
WAYS = {
    "supervised": (),
    "proxies": PROXIES,
    "xbm": XBM,
    "chunks": (*XBM, "train.chunk=5", "head.batch_norm=false"),
    "pixels": ("encoder.name=pixels", "encoder.size=8"),
    "bfloat16": ("train.precision=bfloat16", "head.batch_norm=false"),
}


OFTEN = ("supervised", "chunks")


@pytest.mark.parametrize("way", [pytest.param(way, marks=() if way in OFTEN else pytest.mark.slow) for way in WAYS])
def test_cached_and_online_end_with_the_same_bits_where_views_are_plain(tmp_path, way):
    ends = []
    for features in ("online", "cached"):
        run(frozen(tmp_path, *WAYS[way], f"method.features={features}"), tmp_path / features)
        ends.append(outcome(tmp_path / features))
    online, cached = ends
    assert cached["metrics"] == online["metrics"]
    assert cached["checkpoints"] == online["checkpoints"]
    for key in ("metrics", "scores", "baselines"):
        assert cached["result"].get(key) == online["result"].get(key)


def test_no_image_is_read_in_training_for_supervised_either(tmp_path):
    recipe = frozen(tmp_path, "method.features=cached")
    training = with_features(assemble(recipe, load_splits(recipe).train))
    first = next(iter(batches(replace(training, data=Unread(training.data)), 0))).part(0, 12)
    assert first.views == ()
    assert training.method(first).z.shape == (12, 8)


@pytest.mark.parametrize(
    ("overrides", "text"),
    [
        (
            ["encoder.trainable=all"],
            'method.features = "cached" computes the features of an image once, and this encoder trains\n'
            '  help: set encoder.trainable = "none", or leave features out',
        ),
        (
            ["encoder.frozen_mode=train"],
            'method.features = "cached" computes the features of an image once, and this encoder has BatchNorm or '
            "dropout in training mode, which give it others in each step\n"
            '  help: set encoder.frozen_mode = "eval", or leave features out',
        ),
    ],
)
@pytest.mark.parametrize("method", [(), XBM], ids=["supervised", "xbm"])
def test_an_encoder_that_gives_others_in_each_step_is_refused(tmp_path, overrides, text, method):
    recipe = frozen(tmp_path, *method, "method.features=cached", *overrides)
    with pytest.raises(RecipeError) as caught:
        assemble(recipe, load_splits(recipe).train)
    assert f"{caught.value.message}\n  help: {caught.value.help}" == text


@pytest.mark.parametrize(
    ("overrides", "texts"),
    [
        (
            ["views.name=simclr"],
            "features are computed once (cached), and views 'simclr' draw each image anew in each step\n"
            '       | ^ help: set views.name = "plain", or leave features out',
        ),
        (["views.count=2"], "features are computed once (cached), of one view of an image\n"),
    ],
)
def test_views_that_are_others_in_each_step_are_refused_before_anything_is_built(tmp_path, overrides, texts):
    with pytest.raises(RecipeProblems) as caught:
        frozen(tmp_path, "method.features=cached", *overrides)
    for text in texts.splitlines():
        assert text.strip(" |^") in str(caught.value)


def test_batches_have_the_features_of_their_items_and_no_image_is_read(tmp_path):
    recipe = sxbm(tmp_path)
    data = load_splits(recipe).train
    training = with_features(assemble(recipe, data))
    assert training.features.shape == (len(data.labels), training.method.network.encoder.out_features)
    assert training.method.training
    assert not training.features.is_inference()
    images = {loaded.batch.step: loaded.part(0, 16) for loaded in batches(replace(training, features=None), 2)}
    for loaded in batches(replace(training, data=Unread(data)), 2):
        batch = loaded.part(0, len(loaded))
        seen = images.pop(batch.step)
        assert batch.views == ()
        assert len(batch) == 16
        assert torch.equal(batch.features, training.features[batch.items])
        for name in ("labels", "items", "positions"):
            assert torch.equal(getattr(batch, name), getattr(seen, name))
        assert torch.equal(batch.slice(3, 5).features, batch.features[3:5])
        online, cached = training.method(seen), training.method(batch)
        torch.testing.assert_close(online.features.z, cached.features.z, atol=1e-5, rtol=0)
    assert images == {}


def test_the_features_are_the_same_bits_each_time(tmp_path):
    recipe = sxbm(tmp_path)
    data = load_splits(recipe).train
    one, other = (with_features(assemble(recipe, data)).features for _ in range(2))
    assert torch.equal(one, other)


def features_of(share, folder: Path):
    recipe = sxbm(folder)
    features = with_features(assemble(recipe, load_splits(recipe).train)).features
    return features.clone()


def test_every_rank_holds_the_features_of_all_items(tmp_path):
    (alone,) = on_ranks(features_of, 1, tmp_path)
    for found in on_ranks(features_of, 2, tmp_path):
        torch.testing.assert_close(found, alone, atol=1e-6, rtol=0)


def test_other_methods_train_on_images(tmp_path):
    recipe = tiny(tmp_path)
    training = assemble(recipe, load_splits(recipe).train)
    assert with_features(training) is training


def test_cached_and_online_train_alike(tmp_path):
    ends = []
    for way in ("cached", "online"):
        run(sxbm(tmp_path, f"method.features={way}"), tmp_path / way)
        ends.append(load(tmp_path / way).network.head.layer.weight)
    torch.testing.assert_close(*ends, atol=1e-4, rtol=0)
    lines = [outcome(tmp_path / way)["metrics"] for way in ("cached", "online")]
    for cached, online in zip(*lines, strict=True):
        assert cached == pytest.approx(online, abs=1e-4)
    assert [line["neighbours"] for line in lines[0] if "loss" in line] == [0.0, *[3.0] * 6]


@pytest.mark.parametrize("step", [1, 3, 5])
def test_a_run_stopped_before_and_after_the_memory_wraps_ends_equal(step, tmp_path):
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    recipe, asked = sxbm(tmp_path), iter(range(1, 100))
    run(recipe, whole)
    with pytest.raises(Interrupted):
        run(recipe, stopped, stop=lambda: next(asked) >= step)
    run(recipe, stopped, resume=True)
    expected, ended = outcome(whole), outcome(stopped)
    assert ended["metrics"] == expected["metrics"]
    assert ended["result"] == expected["result"]
    last = f"step-{7:010d}"
    assert ended["checkpoints"][last] == expected["checkpoints"][last]


def test_no_alarm_is_raised_about_labels_that_have_no_say(tmp_path):
    said = [step.message for step in run(sxbm(tmp_path), tmp_path / "run") if step.message]
    assert said == []
    ended = outcome(tmp_path / "run")
    assert ended["result"]["warnings"] == []
    assert {line["anchors_without_positives"] for line in ended["metrics"] if "loss" in line} == {0.0}


def test_the_command_shows_the_embedding_beside_its_baselines_and_the_features(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "120")
    sxbm(tmp_path)
    done = CliRunner().invoke(main, ["run", str(tmp_path / "sxbm.toml"), "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    (header,) = (line for line in done.output.splitlines() if "raw pixels" in line)
    assert all(column in header for column in ("untrained", "trained", "trained, without head"))
    assert "retrieval-h" not in done.output


def test_a_method_that_prepares_is_given_the_features_of_another_encoder(tmp_path):
    recipe = tiny(tmp_path)
    training = assemble(recipe, load_splits(recipe).train)
    given = []

    def prepare(names, features):
        given.extend([names, features({"name": "timm", "model": "test_efficientnet"})])
        with pytest.raises(RecipeError, match=r"timm has no model 'none'"):
            features({"name": "timm", "model": "none"})
        with pytest.raises(
            RecipeError, match=r"(?s)encoder 'timm' has no parameter 'modle'.*help: did you mean 'model'"
        ):
            features({"name": "timm", "modle": "test_vit"})

    training.method.prepare = prepare
    prepare_method(recipe, training)
    assert with_features(training) is training
    names, z = given
    torch.manual_seed(recipe.train.seed)
    encoder = build("encoder", "timm", model="test_efficientnet").eval()
    with torch.no_grad():
        expected = encoder(training.views.test(training.data.images(np.arange(len(names)))))
    assert names == training.data.names
    torch.testing.assert_close(z, normalize(expected), atol=1e-6, rtol=0)
    assert not z.requires_grad
