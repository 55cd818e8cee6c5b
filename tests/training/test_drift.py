"""Drift: how far the embeddings of fixed images move in 10, 100 and 1000 steps."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path

import numpy as np
import pytest
import torch

from metriclab.assembly.assemble import assemble
from metriclab.assembly.splits import load_splits
from metriclab.core.network import embedding_function
from metriclab.core.rows import normalize
from metriclab.errors import RecipeError
from metriclab.recipe import read_recipe
from metriclab.runs import checkpoint as checkpoints
from metriclab.runs.folder import RunFolder
from metriclab.testing import Share, on_ranks
from metriclab.training.drift import Drift, drift_of, embed_followed
from metriclab.training.experiment import experiment
from metriclab.training.interruption import Interrupted
from tests.support.tiny import outcome, run, tiny

FOLLOWED = ("train.keep_checkpoints=true", "train.steps=14", "train.drift_images=9", "train.drift_every=2")


def embeddings(step: int) -> torch.Tensor:
    """Where three images are after so many steps."""
    return normalize(torch.randn(3, 2, generator=torch.Generator().manual_seed(step)))


def follow(drift: Drift, first: int, last: int) -> dict[int, dict[str, float]]:
    measured = {step: drift.follow(step, embeddings(step)) for step in range(first, last + 1) if drift.is_due(step)}
    return {step: values for step, values in measured.items() if values}


@pytest.mark.parametrize("every", [3, 7, 10, 100, 130, 1100])
def test_drift_is_the_mean_squared_distance_to_the_snapshot_so_many_steps_before(every):
    steps = 1230
    found = follow(Drift(np.arange(3), 2, every=every, steps=steps), 0, steps)
    expected = {}
    for step in range(every, steps + 1, every):
        for lag in (10, 100, 1000):
            if step < lag:
                continue
            now, before = embeddings(step).double().tolist(), embeddings(step - lag).double().tolist()
            distances = [
                sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in zip(now, before, strict=True)
            ]
            expected.setdefault(step, {})[f"drift_{lag}"] = pytest.approx(sum(distances) / 3, abs=1e-12)
    assert found == expected


def test_its_cost_is_as_stated():
    drift = Drift(np.arange(3), 2, every=100, steps=100_000)
    due = [step for step in range(401) if drift.is_due(step)]
    assert due == [0, 90, 100, 190, 200, 290, 300, 390, 400]
    assert sum(len(snapshots) for snapshots in drift.buffers()) == 12


def test_nothing_is_kept_for_what_is_after_the_end():
    drift = Drift(np.arange(3), 2, every=100, steps=250)
    assert [step for step in range(251) if drift.is_due(step)] == [0, 90, 100, 190, 200]
    assert {name: len(snapshots) for name, snapshots in drift.named_buffers()} == {
        "before_10": 1,
        "before_100": 1,
        "before_1000": 0,
    }


def test_a_copy_of_its_state_goes_on_as_it_does():
    for seed in range(5):
        cut = random.Random(seed).randrange(1200)
        one, other = (Drift(np.arange(3), 2, every=30, steps=1230) for _ in range(2))
        follow(one, 0, cut)
        other.load_state_dict(one.state_dict())
        assert follow(other, cut + 1, 1230) == follow(one, cut + 1, 1230)


@pytest.fixture(scope="module")
def followed(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("followed")
    run(tiny(folder, *FOLLOWED), folder / "run")
    return folder / "run"


def test_the_logged_drift_is_that_of_the_networks_of_both_steps(tmp_path):
    recipe = tiny(tmp_path, "train.steps=10", "train.drift_images=9", "train.drift_every=5", "train.checkpoint_every=5")
    for progress in experiment(recipe, RunFolder(tmp_path / "run")):
        if progress.stage == "evaluate":
            break  # before the best network takes the place of the last
    splits = load_splits(recipe)
    training = assemble(recipe, splits.train)  # as before the first step
    images = training.views.test(splits.val.images(np.array([at * len(splits.val.labels) // 9 for at in range(9)])))
    before = unit_embeddings(training.method, images)
    checkpoints.restore_method(checkpoints.read_checkpoint(tmp_path / "run" / "checkpoints", 10), training.method)
    after = unit_embeddings(training.method, images)
    expected = (
        sum(sum((a - b) ** 2 for a, b in zip(*pair, strict=True)) for pair in zip(after, before, strict=True)) / 9
    )
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line for line in lines if "drift_10" in line] == [{"step": 10, "drift_10": pytest.approx(expected)}]


@torch.no_grad()
def unit_embeddings(method: torch.nn.Module, images: torch.Tensor) -> list[list[float]]:
    z = embedding_function(method.eval())(images).z.double()
    return [[x / math.hypot(*row) for x in row] for row in z.tolist()]


def test_following_the_drift_leaves_the_training_as_it_is(followed, tmp_path):
    run(tiny(tmp_path, "train.steps=14", "train.keep_checkpoints=true"), tmp_path / "run")
    with_drift, without = outcome(followed), outcome(tmp_path / "run")
    drifts = [line for line in with_drift["metrics"] if "drift_10" in line]
    assert [line["step"] for line in drifts] == [10, 12, 14]
    assert [line for line in with_drift["metrics"] if line not in drifts] == without["metrics"]
    assert with_drift["result"] == without["result"]
    one, other = (
        checkpoints.read_checkpoint(folder / "checkpoints", 14).tensors for folder in (followed, tmp_path / "run")
    )
    assert set(one) - set(other) == {f"drift.before_{lag}" for lag in (10, 100, 1000)}
    assert all(torch.equal(one[name], tensor) for name, tensor in other.items())


@pytest.mark.parametrize("step", [1, 5, 12])
def test_a_run_that_was_stopped_goes_on_with_its_snapshots(step, followed, tmp_path):
    recipe, asked = tiny(tmp_path, *FOLLOWED), iter(range(1, 100))
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "run", stop=lambda: next(asked) >= step)
    run(recipe, tmp_path / "run", resume=True)
    ended, expected = outcome(tmp_path / "run"), outcome(followed)
    assert ended["metrics"] == expected["metrics"]
    assert ended["result"] == expected["result"]
    last = f"step-{14:010d}"
    assert ended["checkpoints"][last] == expected["checkpoints"][last]


def test_the_images_are_spread_over_val(tmp_path):
    for wanted, expected in ((1, [0]), (3, [0, 1 / 3, 2 / 3])):
        recipe = tiny(tmp_path, f"train.drift_images={wanted}")
        splits = load_splits(recipe)
        drift = drift_of(assemble(recipe, splits.train), splits.val)
        assert drift.items.tolist() == [int(share * len(splits.val.labels)) for share in expected]
    recipe = tiny(tmp_path, "train.drift_images=100000")
    drift = drift_of(assemble(recipe, splits.train), splits.val)
    assert drift.items.tolist() == list(range(len(splits.val.labels)))


def probed(share: Share, folder: Path, images: int) -> torch.Tensor | str:
    small = ("encoder.name=pixels", "encoder.size=8", f"train.drift_images={images}", "train.evaluation_batch_size=2")
    recipe = read_recipe(folder / "tiny.toml", small)
    splits = load_splits(recipe)
    training = assemble(recipe, splits.train)
    try:
        drift = drift_of(training, splits.val)
    except RecipeError as error:
        return str(error)
    assert drift is not None
    return embed_followed(drift, training, splits.val)


def test_every_rank_sees_the_embeddings_that_one_process_sees(tmp_path):
    tiny(tmp_path)
    (expected,) = on_ranks(probed, 1, tmp_path, 7)
    one, other = on_ranks(probed, 2, tmp_path, 7)
    assert torch.equal(one, other)
    torch.testing.assert_close(one, expected)


def test_fewer_images_than_processes_are_refused(tmp_path):
    length = len(load_splits(tiny(tmp_path)).val.labels)
    told = (
        f"train.drift_images = 1 gives 1 of the {length} images of val, too few to share among 2 processes\n"
        "  help: set a larger train.drift_images, or leave it out where val is too small"
    )
    assert on_ranks(probed, 2, tmp_path, 1) == [told, told]
