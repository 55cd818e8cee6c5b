"""`metriclab run` as a user meets it: output, exit codes, signals, several processes."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import NamedTuple

import pytest
import torch
from click.testing import CliRunner
from safetensors.torch import load_file

from metriclab.cli import main
from tests.support.tiny import TINY

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def metriclab(*arguments: str, folder: Path, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "metriclab.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_a_run_prints_the_table_and_says_where_it_is(recipe, tmp_path, monkeypatch):
    done = metriclab("run", "tiny.toml", "--set", "train.steps=2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("tiny-")
    for text in ("raw pixels", "untrained", "trained", "  map_at_r", f"run folder: runs/{folder.name}"):
        assert text in done.stdout
    monkeypatch.chdir(tmp_path)
    as_json = CliRunner().invoke(main, ["run", "tiny.toml", "--set", "train.steps=2", "--resume", "--json", "-q"])
    assert json.loads(as_json.stdout) == json.loads((folder / "result.json").read_text())


@pytest.mark.parametrize(
    ("arguments", "code", "text"),
    [
        (["--set", "loss.temprature=0.2"], 2, "did you mean 'temperature'?"),
        (["--set", "sampler.batch_size=100000"], 2, "100000"),
        (["--set", "data.name=folder", "--set", "data.root=nowhere"], 3, "nowhere"),
        (["--set", "optimizer.learning_rate=1e30"], 4, "is not finite"),
        (["--out", "tiny.toml"], 5, "run folder tiny.toml exists already"),
    ],
)
def test_each_family_of_errors_has_its_exit_code(arguments, code, text, recipe, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(main, ["run", "tiny.toml", *arguments])
    assert (done.exit_code, type(done.exception)) == (code, SystemExit), done.output
    assert text in done.stderr


def test_the_exit_code_is_that_of_the_process_and_there_is_no_traceback(recipe, tmp_path):
    done = metriclab("run", "tiny.toml", "--out", "tiny.toml", folder=tmp_path)
    assert done.returncode == 5, done.stderr
    assert "run folder tiny.toml exists already" in done.stderr
    assert "Traceback" not in done.stderr


def test_control_c_saves_and_says_how_to_go_on(recipe, tmp_path):
    recipe.write_text(
        TINY.replace("steps = 7", "steps = 100000").replace("evaluate_every = 1", "evaluate_every = 1000")
    )
    command = [sys.executable, "-m", "metriclab.cli", "run", "tiny.toml", "--out", "run", "-q"]
    process = subprocess.Popen(command, cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True)
    metrics = tmp_path / "run" / "metrics.jsonl"
    waited = time.monotonic()
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() - waited < 60:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130
    assert errors.splitlines() == [
        "stopping after this step, or this part of the evaluation; once more stops at once",
        "stopped and saved; continue with: metriclab run run/recipe.toml --out run --resume",
    ]
    assert list((tmp_path / "run" / "checkpoints").glob("step-*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_under_torchrun_the_run_is_that_of_one_process(ranks, recipe, tmp_path):
    _run_on(1, "one", recipe)
    _run_on(ranks, "several", recipe)
    one, several = (_finished(tmp_path / name) for name in ("one", "several"))
    assert len(one.metrics) == len(several.metrics)
    for expected, found in zip(one.metrics, several.metrics, strict=True):
        assert found["step"] == expected["step"]
        for key in {"loss", "gradient_norm", "spread"} & set(expected):
            assert found[key] == pytest.approx(expected[key], rel=2e-3), (key, expected["step"])
    # The first rank alone writes, and it writes all that one process does.
    assert several.files == one.files
    _compare_weights(several.weights, one.weights, 2e-3)
    assert several.result["best_step"] == one.result["best_step"]


RECIPE_OF_RANKS = """
[data]
name = "synthetic"
size = 24

[views]
name = "simclr"
size = 32

[sampler]
name = "shuffled"
batch_size = 16

[encoder]
name = "timm"
model = "test_convnext"

[head]
name = "mlp"
hidden = 16
embedding_dim = 8

[loss]
name = "contrastive"

[memory]
name = "ring"
size = 40

[method]
name = "xbm"
start_step = 2

[optimizer]
name = "sgd"
learning_rate = 0.01

[train]
steps = 6
checkpoint_every = 2
keep_checkpoints = true
log_every = 1

[[track]]
name = "jsonl"

[[evaluate]]
name = "retrieval"
"""


@pytest.mark.slow
def test_weights_memory_and_result_on_ranks_are_those_of_one_process_also_when_their_number_changes(tmp_path):
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE_OF_RANKS)
    for ranks in (1, 2, 3):
        _run_on(ranks, f"ranks-{ranks}", recipe)
    # What a killed run leaves behind: no result, and the newest checkpoint is not the last step's.
    cut = tmp_path / "ranks-2"
    shutil.copytree(cut, tmp_path / "changed")
    newest = sorted((tmp_path / "changed" / "checkpoints").iterdir())[-2:]
    assert {path.suffix for path in newest} == {".json", ".safetensors"}
    for path in (tmp_path / "changed" / "result.json", tmp_path / "changed" / "scores.safetensors", *newest):
        path.unlink()
    told = _run_on(3, "changed", recipe, "--resume")
    assert "ranks changed since the run began (2 to 3)" in told
    one = _finished(tmp_path / "ranks-1")
    assert int((_memory_labels(one.weights) >= 0).sum()) == 40
    for name in ("ranks-2", "ranks-3", "changed"):
        found = _finished(tmp_path / name)
        assert found.files == one.files
        _compare_weights(found.weights, one.weights, 1e-5)
        for expected, line in zip(one.metrics, found.metrics, strict=True):
            for key in {"loss", "gradient_norm"} & set(expected):
                assert line[key] == pytest.approx(expected[key], rel=1e-4), (name, key, expected["step"])
        for metric, value in one.result["metrics"]["retrieval"].items():
            assert found.result["metrics"]["retrieval"][metric] == pytest.approx(value, abs=1e-3), (name, metric)


def _run_on(ranks: int, out: str, recipe: Path, *options: str) -> str:
    """What is said on the way, in a folder beside the recipe; one rank is this process."""
    arguments = ["run", str(recipe), "--out", str(recipe.parent / out), "-q", *options]
    if ranks == 1:
        here = CliRunner().invoke(main, arguments)
        assert here.exit_code == 0, here.output
        return here.stderr
    torchrun = ["torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    command = [sys.executable, "-m", *torchrun, "metriclab.cli", *arguments]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    return done.stderr


class _Finished(NamedTuple):
    metrics: list[dict]
    result: dict
    weights: dict[str, torch.Tensor]
    files: list[str]


def _finished(folder: Path) -> _Finished:
    """Logged lines, result and last weights of a finished run, and the names of its files."""
    metrics = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    newest = max((folder / "checkpoints").glob("*.safetensors"), key=lambda path: int(path.stem.partition("-")[2]))
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))
    return _Finished(metrics, json.loads((folder / "result.json").read_text()), load_file(newest), files)


def _memory_labels(weights: dict[str, torch.Tensor]) -> torch.Tensor:
    (name,) = (name for name in weights if "memory" in name and name.endswith("labels"))
    return weights[name]


def _compare_weights(found: dict[str, torch.Tensor], expected: dict[str, torch.Tensor], tolerance: float) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(
            found[name], tensor, rtol=tolerance, atol=tolerance, msg=lambda m, n=name: f"{n}: {m}"
        )


def test_the_table_says_what_baselines_are_and_cuts_nothing_at_80_columns(recipe, tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    done = CliRunner().invoke(main, ["run", str(recipe), "--set", "train.steps=0", "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    assert "…" not in done.stdout
    assert all(text in done.stdout for text in ("raw pixels", "PCA of", "not trained"))
    assert (
        "Baselines: the pixels of the test view, averaged down to 32 x 32 where it is larger; as many principal "
        "components of these pixels as the embedding has numbers.\n"
    ) in done.stdout
