"""A run that was stopped, killed or damaged and then resumed ends equal to one that never was."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from metriclab.errors import DataError, RecipeError, StorageError
from metriclab.images.datasets import ArrayDataset
from metriclab.runs import checkpoint as checkpoints
from metriclab.runs.folder import RunFolder
from metriclab.training.experiment import experiment
from metriclab.training.interruption import Interrupted
from tests.support.tiny import TINY, outcome, run, tiny


@pytest.fixture(scope="module")
def reference(tiny_run) -> tuple[Path, dict]:
    return tiny_run, outcome(tiny_run)


def stop_after(steps: int):
    """Answers True from the given number of questions on."""
    asked = iter(range(1, 10**9))
    return lambda: next(asked) >= steps


@pytest.mark.parametrize("step", [1, 2, 3, *(pytest.param(step, marks=pytest.mark.slow) for step in (4, 5, 6)), 7])
def test_stopping_at_any_step_and_resuming_ends_equal(step, reference, tmp_path):
    recipe = tiny(tmp_path)
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "run", stop=stop_after(step))
    assert not (tmp_path / "run" / "result.json").exists()
    run(recipe, tmp_path / "run", resume=True)
    ended, expected = outcome(tmp_path / "run"), reference[1]
    assert ended["metrics"] == expected["metrics"]
    assert ended["result"] == expected["result"]
    last = f"step-{7:010d}"
    assert ended["checkpoints"][last] == expected["checkpoints"][last]


def test_stopping_twice_ends_equal(reference, tmp_path):
    recipe = tiny(tmp_path)
    for resume, steps in ((False, 2), (True, 3)):
        with pytest.raises(Interrupted):
            run(recipe, tmp_path / "run", resume=resume, stop=stop_after(steps))
    run(recipe, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run")["metrics"] == reference[1]["metrics"]


def test_a_run_dropped_between_steps_loses_only_what_came_after_the_checkpoint(reference, tmp_path):
    recipe, folder = tiny(tmp_path), tmp_path / "run"
    for progress in experiment(recipe, RunFolder(folder)):
        if progress.done == 5:
            break  # as a crash would: nothing is saved for step 5, but its line is in metrics.jsonl
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"step": 6, "los')
    run(recipe, folder, resume=True)
    assert outcome(folder)["metrics"] == reference[1]["metrics"]
    assert outcome(folder)["result"] == reference[1]["result"]


@pytest.mark.parametrize("damage", ["flip a byte of the tensors", "cut the tensors short", "change the json"])
def test_a_damaged_checkpoint_is_found_and_the_one_before_is_used(damage, reference, tmp_path):
    recipe, folder = tiny(tmp_path), tmp_path / "run"
    with pytest.raises(Interrupted):
        run(recipe, folder, stop=stop_after(5))
    newest = folder / "checkpoints" / f"step-{5:010d}"
    tensors, numbers = newest.with_suffix(".safetensors"), newest.with_suffix(".json")
    content = bytearray(tensors.read_bytes())
    if damage == "flip a byte of the tensors":
        content[-7] ^= 1
        tensors.write_bytes(content)
    elif damage == "cut the tensors short":
        tensors.write_bytes(content[: len(content) // 2])
    else:
        numbers.write_text(numbers.read_text().replace('"step": 5', '"step": 6'))
    messages = [step.message for step in run(recipe, folder, resume=True) if step.message]
    assert f"checkpoint {newest} is damaged: its hash does not match; going on from an older one" in messages
    assert outcome(folder)["metrics"] == reference[1]["metrics"]


def test_a_checkpoint_written_after_going_back_displaces_the_damaged_ones(tmp_path):
    for step in (10, 20, 23, 12):  # 20 and 23 were found damaged, so the run went on from 10
        state = checkpoints.Checkpoint(step, {"method.weight": torch.ones(2)}, {"optimizer": {}})
        checkpoints.save_checkpoint(tmp_path, state, keep=[10])
    assert sorted(checkpoints.checkpoint_steps(tmp_path)) == [10, 12]


def test_a_damaged_best_checkpoint_is_said_and_the_last_step_is_measured(tmp_path):
    # A metric that is full from the first evaluation on: only a greater value is better, so the first one is the best.
    recipe, folder = tiny(tmp_path, "train.steps=17", "train.select=retrieval.r_at_10"), tmp_path / "run"
    for progress in experiment(recipe, RunFolder(folder)):
        if progress.stage == "evaluate":
            break
    best = checkpoints.read_checkpoint(folder / "checkpoints", 17).numbers["best_step"]
    assert best == 8
    (folder / "checkpoints" / f"step-{best:010d}.safetensors").write_bytes(b"")
    messages = [step.message for step in run(recipe, folder, resume=True) if step.message]
    assert any("is damaged: its hash does not match; measuring the last step instead" in text for text in messages)
    assert RunFolder(folder).result()["best_step"] == 17


def test_no_whole_checkpoint_is_an_error(tmp_path):
    recipe, folder = tiny(tmp_path), tmp_path / "run"
    with pytest.raises(Interrupted):
        run(recipe, folder, stop=stop_after(1))
    for path in (folder / "checkpoints").glob("*.safetensors"):
        path.write_bytes(b"")
    with pytest.raises(StorageError, match=r"no checkpoint is whole: .*its hash does not match"):
        run(recipe, folder, resume=True)


def test_an_existing_folder_is_refused(tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "notes.txt").write_text("mine")
    with pytest.raises(StorageError) as caught:
        run(tiny(tmp_path), folder)
    assert caught.value.message == f"run folder {folder} exists already"
    assert caught.value.help == "empty it, as it holds no run, or choose another folder with --out"
    assert [path.name for path in folder.iterdir()] == ["notes.txt"]
    RunFolder(tmp_path / "begun").create(tiny(tmp_path))
    with pytest.raises(StorageError) as caught:
        run(tiny(tmp_path), tmp_path / "begun")
    assert caught.value.help == "add --resume to continue that run, or choose another folder with --out"


def test_a_file_as_the_folder_is_refused_without_a_word_of_resuming(tmp_path):
    (tmp_path / "run").write_text("mine")
    with pytest.raises(StorageError) as caught:
        run(tiny(tmp_path), tmp_path / "run")
    assert caught.value.message == f"run folder {tmp_path / 'run'} exists already, and is no folder"
    assert caught.value.help == "choose another folder with --out"


def test_another_recipe_is_refused_by_its_keys(reference, tmp_path):
    other = tiny(tmp_path, "loss.temperature=0.3", "train.seed=1")
    with pytest.raises(RecipeError, match=r"was started with: loss\.temperature, train\.seed"):
        run(other, reference[0], resume=True)


def test_a_folder_without_a_run_cannot_be_resumed(tmp_path):
    with pytest.raises(StorageError, match="holds no run to resume"):
        run(tiny(tmp_path), tmp_path / "run", resume=True)


def test_changed_data_are_refused(tmp_path, monkeypatch):
    recipe, folder = tiny(tmp_path), tmp_path / "run"
    with pytest.raises(Interrupted):
        run(recipe, folder, stop=stop_after(1))
    monkeypatch.setattr(ArrayDataset, "fingerprint", "0" * 64)
    with pytest.raises(DataError, match="the data have changed since"):
        run(recipe, folder, resume=True)


def test_a_finished_run_is_left_alone(reference):
    before = (reference[0] / "result.json").read_bytes()
    steps = run(tiny(reference[0].parent), reference[0], resume=True)
    assert steps[-1].message == f"{reference[0]} is finished already; nothing was run"
    assert (reference[0] / "result.json").read_bytes() == before


def test_old_checkpoints_are_removed_but_the_best_stays(reference):
    folder, ended = reference
    kept = sorted(checkpoints.checkpoint_steps(folder / "checkpoints"))
    assert kept[-1] == 7
    assert ended["result"]["best_step"] in kept
    assert len(kept) <= 3
    assert not list((folder / "checkpoints").glob(".*.part"))


SERVER = """
import os, sys
import timm, sklearn, metriclab.api
from metriclab.cli import main
from metriclab.training.experiment import experiment
for line in sys.stdin:
    if not (child := os.fork()):
        main(["run", *line.split()])
    print(child, flush=True)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""
"""Makes a run of each line, in a process that has imported everything before it was forked: that is most of a start."""


SEVERAL = """
[[loss]]
name = "contrastive"

[[loss]]
name = "nt-xent"
labels = "item"
weight = 0.5

[memory]
name = "ring"
size = 48
"""
"""By class and by image, with a memory."""

XBM = '"xbm"\nstart_step = 5\n\n[optimizer]'


@pytest.mark.slow
@pytest.mark.parametrize(("losses", "steps", "kills"), [(None, 160, 20), (SEVERAL, 60, 8)], ids=["one", "several"])
def test_killed_at_any_moment_and_resumed_ends_equal(losses, steps, kills, tmp_path):
    recipe, log = tmp_path / "tiny.toml", tmp_path / "errors.txt"
    longer = TINY.replace("steps = 7", f"steps = {steps}\nema = 0.9\ndrift_images = 9\ndrift_every = 6")
    longer = longer.replace('"test_resnet"', f'"test_resnet"\ntrainable = "last:2"\nunfreeze_at = {steps // 2}')
    if losses:
        longer = longer.replace('[loss]\nname = "nt-xent"\n', losses).replace('"simclr"\n\n[optimizer]', XBM)
    recipe.write_text(longer.replace("checkpoint_every = 2", "checkpoint_every = 1"))
    with (
        log.open("w") as errors,
        subprocess.Popen(
            [sys.executable, "-c", SERVER],
            env={**os.environ, "OMP_NUM_THREADS": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
        ) as server,
    ):

        def start(folder: Path) -> int:
            resume = ["--resume"] if (folder / "recipe.toml").exists() else []
            print(recipe, "--out", folder, "-q", *resume, file=server.stdin, flush=True)
            return int(server.stdout.readline())

        def ended() -> int:
            return int(server.stdout.readline())

        began = time.monotonic()
        start(tmp_path / "whole")
        assert ended() == 0, log.read_text()
        took = time.monotonic() - began
        moments, folder = random.Random(7), tmp_path / "killed"
        for killed in range(kills):
            process = start(folder)
            # One of four is killed while it starts. The others' moments are counted from the first step that is made,
            # so that they fall into steps, evaluations and, as a checkpoint follows each step, into writes.
            if killed % 4:
                before = _size(folder / "metrics.jsonl")
                while _size(folder / "metrics.jsonl") <= before and not (folder / "result.json").exists():
                    time.sleep(0.001)
            time.sleep(moments.uniform(0, took / (3 * kills)))
            os.kill(process, signal.SIGKILL)
            assert ended() == -signal.SIGKILL, log.read_text()
            assert not (folder / "result.json").exists(), f"it ended before it was killed {kills} times: make it longer"
        start(folder)
        assert ended() == 0, log.read_text()
        server.stdin.close()
    assert outcome(folder) == outcome(tmp_path / "whole")


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0
