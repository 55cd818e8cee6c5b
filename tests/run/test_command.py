"""`metriclab run` as a user meets it: output, exit codes, signals, several processes."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from run.tiny import TINY

ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def metriclab(*arguments: str, folder: Path, **options) -> subprocess.CompletedProcess:
    command = [sys.executable, "-m", "metriclab.cli", *arguments]
    return subprocess.run(command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, **options)


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "tiny.toml"
    path.write_text(TINY)
    return path


def test_a_run_prints_the_table_and_says_where_it_is(recipe, tmp_path):
    done = metriclab("run", "tiny.toml", "--set", "train.steps=2", folder=tmp_path)
    assert done.returncode == 0, done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("tiny-")
    for text in ("raw pixels", "untrained", "trained", "  map_at_r", f"run folder: runs/{folder.name}"):
        assert text in done.stdout
    as_json = metriclab("run", "tiny.toml", "--set", "train.steps=2", "--resume", "--json", "-q", folder=tmp_path)
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
def test_each_family_of_errors_has_its_exit_code_and_no_traceback(arguments, code, text, recipe, tmp_path):
    done = metriclab("run", "tiny.toml", *arguments, folder=tmp_path)
    assert done.returncode == code, done.stderr
    assert text in done.stderr
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
        "stopping at the next step; once more stops at once",
        "stopped and saved; continue with: metriclab run run/recipe.toml --out run --resume",
    ]
    assert list((tmp_path / "run" / "checkpoints").glob("step-*.json"))


@pytest.mark.slow
@pytest.mark.parametrize("ranks", [2, 3])
def test_under_torchrun_the_run_is_that_of_one_process(ranks, recipe, tmp_path):
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}", "-m"]
    for name, launcher in (("one", [sys.executable, "-m"]), ("several", torchrun)):
        command = [*launcher, "metriclab.cli", "run", "tiny.toml", "--out", name, "-q"]
        done = subprocess.run(command, cwd=tmp_path, env=ENVIRONMENT, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr
    one, several = (
        [json.loads(line) for line in (tmp_path / name / "metrics.jsonl").read_text().splitlines()]
        for name in ("one", "several")
    )
    assert len(one) == len(several)
    for expected, found in zip(one, several, strict=True):
        assert found["step"] == expected["step"]
        for key in {"loss", "gradient_norm", "spread"} & set(expected):
            assert found[key] == pytest.approx(expected[key], rel=2e-3), (key, expected["step"])
