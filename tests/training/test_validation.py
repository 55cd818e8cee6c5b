"""The loss on val: by the run's own loss, in evaluation mode, and the choice of the best step by it."""

from __future__ import annotations

import copy
from itertools import islice

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from metriclab.assembly.assemble import assemble
from metriclab.assembly.splits import load_splits
from metriclab.cli import main
from metriclab.core.rows import concatenate
from metriclab.errors import RecipeError
from metriclab.evaluation.efficiency import measured_beside
from metriclab.recipe import read_recipe
from metriclab.runs.folder import RunFolder
from metriclab.samplers import Shuffled
from metriclab.testing.ranks import on_ranks
from metriclab.training import validation
from metriclab.training.fit import fit
from metriclab.training.validation import _InOrder, val_loss
from tests.support.pictures import fill
from tests.support.tiny import run, tiny

PROXIES = ["method.name=supervised", "loss.name=proxy-anchor", "memory.name=proxies"]
SETTINGS = {
    "simclr": [],
    "supervised": ["method.name=supervised", "loss.name=triplet", "miner.name=batch-hard"],
    "xbm": ["method.name=xbm", "memory.name=ring", "memory.size=64", "method.start_step=1", "loss.name=contrastive"],
    "ring": ["memory.name=ring", "memory.size=32"],
    "pml": ["method.name=supervised", "loss.name=pml", "loss.loss=ContrastiveLoss"],
    "histogram": ["method.name=supervised", "loss.name=pml", "loss.loss=DynamicSoftMarginLoss"],
}


def logged(folder) -> dict[int, float]:
    return {line["step"]: line["val.loss"] for line in RunFolder(folder).logged() if "val.loss" in line}


def built(recipe):
    splits = load_splits(recipe)
    return assemble(recipe, splits.train), splits


def on_one_rank(share, path, overrides):
    training, splits = built(read_recipe(path, overrides))
    return val_loss(training, splits.val)


def by_hand(recipe) -> float:
    """NT-Xent of two views of all images of val in loops, in float64."""
    training, splits = built(recipe)
    training.method.eval()
    with torch.no_grad():
        rows = concatenate(
            [validation._outputs(training, batch) for batch in validation._batches(training, splits.val)]
        )
    logits = (rows.z.double() @ rows.z.double().T) / 0.1
    parts = []
    for a in range(len(rows)):
        positives = [p for p in range(len(rows)) if p != a and rows.labels[p] == rows.labels[a]]
        negatives = [n for n in range(len(rows)) if rows.labels[n] != rows.labels[a]]
        parts += [torch.logsumexp(logits[a, [p, *negatives]], 0) - logits[a, p] for p in positives]
    assert len(parts) == len(rows) == 2 * len(splits.val.labels)
    return float(torch.stack(parts).mean())


def test_it_is_the_loss_of_all_images_of_val(tmp_path):
    recipe = tiny(tmp_path, "data.per_class=4")
    training, splits = built(recipe)
    assert val_loss(training, splits.val) == pytest.approx(by_hand(recipe), rel=1e-5)


@pytest.mark.parametrize("setting", SETTINGS)
def test_it_changes_nothing_and_is_the_same_each_time_on_one_rank_and_two(setting, tmp_path):
    overrides = [*SETTINGS[setting], "data.per_class=4"]
    recipe = tiny(tmp_path, *overrides)
    training, splits = built(recipe)
    training.method.get_submodule("network.head").eval()  # one part alone, as frozen ones are
    before, random = copy.deepcopy(training.method.state_dict()), torch.get_rng_state()
    first, second = val_loss(training, splits.val), val_loss(training, splits.val)
    assert first == second > 0
    assert [training.method.get_submodule(f"network.{part}").training for part in ("encoder", "head")] == [True, False]
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in training.method.state_dict().items():
        assert torch.equal(value, before[name]), name
    assert on_ranks(on_one_rank, 2, tmp_path / "tiny.toml", overrides) == pytest.approx([first] * 2, rel=1e-4)


def after_two_steps(share, path, overrides):
    """The loss, and what each rank says of one that fails on the last rank alone."""
    training, splits = built(read_recipe(path, overrides))
    list(islice(fit(training), 2))
    value = val_loss(training, splits.val)
    if share.rank == share.ranks - 1:
        training.method.objective = fail_on_val
    missing: dict[str, str] = {}
    return value, measured_beside(missing, "val.loss", lambda: val_loss(training, splits.val)), missing


def fail_on_val(*_):
    raise ValueError("not on this rank")


def test_unequal_ranks_meet_equally_often_and_none_waits_for_one_that_has_failed(tmp_path):
    frozen = ["encoder.trainable=none", "method.name=sxbm", "method.k=3", "memory.name=features", "memory.size=40"]
    of_val = ["data.classes=3", "data.per_class=3", "train.evaluation_batch_size=4"]  # 5 and 4 images of val
    overrides = [*frozen, *of_val, "sampler.batch_size=9"]
    tiny(tmp_path, *overrides)
    (first, measured, missing), second = on_ranks(after_two_steps, 2, tmp_path / "tiny.toml", overrides)
    assert (first, measured, missing) == second
    assert first > 0
    assert (measured, missing) == (None, {"val.loss": "ValueError: not on this rank"})
    ((alone, _, _),) = on_ranks(after_two_steps, 1, tmp_path / "tiny.toml", overrides)
    assert first == pytest.approx(alone, rel=1e-3)


def test_a_run_logs_it_and_chooses_the_lowest(tmp_path):
    recipe = tiny(
        tmp_path, "train.select=loss", "optimizer.learning_rate=0.3", "train.evaluate_every=1", "train.steps=24"
    )
    run(recipe, tmp_path / "run")
    losses = logged(tmp_path / "run")
    assert set(losses) == {8, 16, 24}
    assert RunFolder(tmp_path / "run").result()["best_step"] == min(losses, key=losses.get)
    first = next(line for line in RunFolder(tmp_path / "run").logged() if "val.loss" in line)
    assert list(first)[1] == "val.loss"  # what chooses comes first
    assert "val.retrieval.map_at_r" in first


def test_it_needs_no_labels(tmp_path, cache):
    fill(tmp_path / "flat", 30)
    given = ["data.name=folder", f"data.root='{tmp_path / 'flat'}'", "train.steps=2", "sampler.batch_size=8"]
    run(tiny(tmp_path, *given, "train.select=loss", "train.checkpoint_every=1"), tmp_path / "run")
    assert set(logged(tmp_path / "run")) == {2}
    assert RunFolder(tmp_path / "run").result()["best_step"] == 2


def test_losses_of_class_centres_have_it_where_val_shows_their_classes(tmp_path):
    recipe = tiny(tmp_path, *PROXIES, "train.steps=1", "data.disjoint=true")
    steps = run(recipe, tmp_path / "unseen")
    reason = "it holds images against the classes of train, and 8 of the 8 classes of val are not there"
    assert f"val.loss is not logged: {reason}" in [step.message for step in steps]
    assert logged(tmp_path / "unseen") == {}
    refused = tiny(tmp_path, *PROXIES, "train.select=loss", "data.disjoint=true")
    with pytest.raises(RecipeError, match=f"train.select = 'loss' cannot be had: {reason}"):
        run(refused, tmp_path / "refused")
    assert not (tmp_path / "refused").exists()
    options = [word for option in [*PROXIES, "train.select=loss", "data.disjoint=true"] for word in ("--set", option)]
    done = CliRunner().invoke(main, ["check", str(tmp_path / "tiny.toml"), *options])
    assert (done.exit_code, reason in done.stderr) == (2, True)
    run(tiny(tmp_path, *PROXIES, "train.steps=1", "train.select=loss"), tmp_path / "seen")
    assert set(logged(tmp_path / "seen")) == {1}


def test_what_fails_on_val_is_told_once_and_costs_no_run(tmp_path, monkeypatch, caplog):
    def fail(*_):
        raise ValueError("not in evaluation")

    monkeypatch.setattr("metriclab.training.validation.val_loss", fail)
    run(tiny(tmp_path, "train.select=loss", "train.steps=16", "train.evaluate_every=1"), tmp_path / "run")
    told = [text for text in caplog.messages if "val.loss" in text]
    assert told == ["val.loss cannot be had: ValueError: not in evaluation"]
    assert RunFolder(tmp_path / "run").result()["best_step"] == 16


def test_batches_of_val_hold_several_images_of_as_many_classes_as_fit():
    labels = np.repeat(np.arange(20), 60)
    order = _InOrder(labels, Shuffled(labels, batch_size=64), 0).epoch(0)
    assert sorted(np.concatenate(order)) == list(range(1200))
    assert all(np.unique(labels[items], return_counts=True)[1].min() >= 2 for items in order)
    assert min(len(np.unique(labels[items])) for items in order) >= 18
