"""A search of real runs, killed in the middle of steps: it ends with the same trials, choices and table."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.support.tiny import TINY

SUITE = """
[suite]
base = "tiny.toml"
seeds = [0]
set.train.steps = 4
set.train.checkpoint_every = 1
set.train.baselines = false
set.data.per_class = 6

[suite.search]
trials = 2
folds = 2
space.optimizer.learning_rate = { low = 0.001, high = 0.1, log = true }

[[entry]]
name = "nt-xent"
search.loss.temperature = { low = 0.05, high = 1.0, log = true }

[[entry]]
name = "triplet"
set.loss.name = "triplet"
search.loss.margin = { low = 0.0, high = 1.0 }
"""

# Runs everything in this process, and kills it after so many steps.
PROGRAM = """
import json, os, signal, sys
from pathlib import Path
from metriclab.comparison import launch as launching
from metriclab.comparison.compare import compare
from metriclab.comparison.search import searches_of, tune, tuned
from metriclab.comparison.suite import read_suite
from metriclab.runs.folder import RunFolder
from metriclab.training.experiment import experiment

out, left = Path(sys.argv[2]), int(sys.argv[3])
launching.POLL = 0.0

class Done:
    def poll(self):
        return 0

def start(run, plugins, threads, device):
    global left
    folder = RunFolder(run.folder)
    resume = launching.state_of(folder) != "missing"
    for _ in experiment(run.entry.with_seed(run.seed), folder, resume=resume, quiet=True):
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
    return Done()

suite = read_suite(Path(sys.argv[1]))
list(tune(searches_of(suite, out), start=start))
suite, _ = tuned(suite, out)
list(launching.launch(launching.plan(suite, out), start=start))
groups, _ = launching.finished(suite, launching.plan(suite, out))
told = compare(groups, metric=suite.metric).to_dict()
for entry in told["entries"]:
    del entry["cost"], entry["paths"]
print(json.dumps(told))
"""


@pytest.mark.slow
def test_killed_between_steps_it_ends_with_the_same_trials_choices_and_table(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY.replace("evaluate_every = 1\ncheckpoint_every = 2\n", ""))
    (tmp_path / "suite.toml").write_text(SUITE)

    def searched(out: str, moment: int) -> subprocess.CompletedProcess:
        command = [sys.executable, "-c", PROGRAM, str(tmp_path / "suite.toml"), str(tmp_path / out), str(moment)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)

    whole = searched("whole", -1)
    assert whole.returncode == 0, whole.stderr
    for moment in np.random.default_rng(0).integers(2, 25, 3).tolist():
        assert searched("killed", moment).returncode == -signal.SIGKILL
    after = searched("killed", -1)
    assert after.returncode == 0, after.stderr
    assert after.stdout == whole.stdout
    trials = [sorted((tmp_path / out).rglob("trials.json")) for out in ("whole", "killed")]
    assert [path.read_text() for path in trials[0]] == [path.read_text() for path in trials[1]]
    assert len(trials[0]) == 2
