"""A sampler that goes by embeddings: looked at when it asks, resumed as it was, started from a run or a file."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from metriclab.assembly.assemble import assemble
from metriclab.assembly.splits import load_splits
from metriclab.errors import DataError, StorageError
from metriclab.recipe import Recipe
from metriclab.runs.checkpoint import read_checkpoint
from metriclab.samplers import HardNegatives
from metriclab.testing import Share, on_ranks
from metriclab.training.batches import batches
from metriclab.training.fit import fit
from metriclab.training.interruption import Interrupted
from metriclab.training.sampler_embeddings import use_source
from metriclab.vectors.aligned import unit_rows_for
from tests.support.tiny import outcome, run, tiny

HARD = ("data.classes=16", "data.per_class=4", "sampler.classes_per_batch=8", "sampler.per_class=4")
"""Epochs of two steps."""


def hard(folder, *overrides) -> Recipe:
    folder.mkdir(exist_ok=True)
    return tiny(folder, "sampler={name='hard-negatives', classes_per_batch=8, per_class=4}", *HARD[:2], *overrides)


def found_by(recipe: Recipe, z: torch.Tensor) -> torch.Tensor:
    sampler = recipe.components["sampler"].build(load_splits(recipe).train.labels)
    sampler.use_embeddings(z)
    return sampler.neighbours


@pytest.mark.parametrize(
    "stopped_after", [pytest.param(3, marks=pytest.mark.slow), 4]
)  # within an epoch, and where one ends
def test_a_resumed_run_goes_on_with_what_was_near(tmp_path, stopped_after):
    recipe = hard(tmp_path, "sampler.every=1", "train.keep_checkpoints=true")
    run(recipe, tmp_path / "whole")
    asked = 0

    def stop():
        nonlocal asked
        asked += 1
        return asked == stopped_after

    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "stopped", stop=stop)
    run(recipe, tmp_path / "stopped", resume=True)
    assert outcome(tmp_path / "whole") == outcome(tmp_path / "stopped")  # checkpoints too, with what was near
    near = read_checkpoint(tmp_path / "whole" / "checkpoints", 7).tensors["sampler.neighbours"]
    assert not torch.equal(near, recipe.components["sampler"].build(load_splits(recipe).train.labels).neighbours)


def test_embeddings_are_taken_where_an_epoch_that_needs_them_begins(tmp_path, monkeypatch):
    training = assemble(recipe := hard(tmp_path, "sampler.every=2", "train.steps=9"), load_splits(recipe).train)
    at, taken = [], list[int]()
    monkeypatch.setattr(HardNegatives, "use_embeddings", lambda self, z: at.append(len(taken)))
    for batch in batches(training, 0):
        taken.append(batch.batch.step)
    assert taken == list(range(9))
    assert at == [0, 4, 8]


def near_on_rank(share: Share, folder: Path) -> list[list[int]]:
    """What is near after an epoch and a half of this rank's training."""
    recipe = hard(folder / str(share.rank), "sampler.every=1")
    training = assemble(recipe, load_splits(recipe).train)
    for _ in islice(fit(training), 3):
        pass
    return training.sampler.neighbours.tolist()


def test_the_same_is_near_on_every_rank(tmp_path):
    one, other = on_ranks(near_on_rank, 2, tmp_path)
    assert one == other
    recipe = hard(tmp_path, "sampler.every=1")
    assert one != recipe.components["sampler"].build(load_splits(recipe).train.labels).neighbours.tolist()


def test_a_file_says_what_is_near_at_the_start(tmp_path):
    recipe = hard(tmp_path)
    count = len(load_splits(recipe).train.labels)
    z = np.random.default_rng(0).normal(size=(count, 5)).astype(np.float32)
    np.save(tmp_path / "z.npy", z)
    recipe = hard(tmp_path, f"sampler.source={tmp_path / 'z.npy'}")
    training = assemble(recipe, load_splits(recipe).train)
    before = training.sampler.neighbours.clone()
    use_source(recipe, training)
    assert torch.equal(training.sampler.neighbours, found_by(recipe, unit_rows_for(tmp_path / "z.npy", ["a"] * count)))
    assert not torch.equal(training.sampler.neighbours, before)
    np.save(tmp_path / "z.npy", z[1:])
    with pytest.raises(DataError, match=r"z.npy has 63 embeddings for 64 training images\n.*one for each, in their or"):
        use_source(recipe, training)


def test_an_earlier_run_says_what_is_near_at_the_start(tmp_path):
    first = tiny(tmp_path, *HARD[:2], "train.steps=2")
    run(first, tmp_path / "first")
    recipe = hard(tmp_path, f"sampler.source={tmp_path / 'first'}", "train.steps=3", "train.keep_checkpoints=true")
    run(recipe, tmp_path / "second")
    near = read_checkpoint(tmp_path / "second" / "checkpoints", 2).tensors["sampler.neighbours"]
    assert near.shape == (16, 7)
    elsewhere = hard(tmp_path, f"sampler.source={tmp_path / 'nowhere'}")
    with pytest.raises(StorageError, match="nowhere"):
        run(elsewhere, tmp_path / "third")
    assert not (tmp_path / "third").exists()


def test_rows_of_a_file_are_found_by_its_paths(tmp_path):
    np.save(tmp_path / "z.npy", np.eye(3, dtype=np.float32))
    (tmp_path / "z.paths.txt").write_text("a/1.png\nb/2.png\n./a/3.png\n")
    assert unit_rows_for(tmp_path / "z.npy", ["a/3.png", "a/1.png"]).tolist() == [[0, 0, 1], [1, 0, 0]]
    message = r"z.npy has no row for 2 of 3 training images, the first is c/4.png\n.*embed the folder"
    with pytest.raises(DataError, match=message):
        unit_rows_for(tmp_path / "z.npy", ["a/1.png", "c/4.png", "c/5.png"])
