"""Suite files and their errors, and the running of what they are missing."""

from __future__ import annotations

import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.comparison import launch as launching
from metriclab.comparison.launch import launch, least_busy, plan
from metriclab.comparison.suite import is_suite, read_suite
from metriclab.errors import StorageError
from metriclab.recipe import RecipeProblems, read_recipe
from metriclab.runs.folder import RunFolder
from tests.comparison.test_compare import finished
from tests.support.tiny import TINY

SUITE = """
[suite]
base = "tiny.toml"
seeds = [0, 1]
set.train.steps = 2
set.loss.temperature = 0.3

[[entry]]
name = "as it is"

[[entry]]
name = "triplet"
set.loss = { name = "triplet", margin = 0.1 }

[[entry]]
name = "untrained"
base = "untrained.toml"
"""

UNTRAINED = TINY.replace('name = "simclr"\n\n[opt', 'name = "none"\n\n[opt').replace('[loss]\nname = "nt-xent"\n\n', "")
UNTRAINED = UNTRAINED.replace("steps = 7", "steps = 0")


def write(folder: Path, text: str = SUITE) -> Path:
    """The suite in a file, beside the recipes it names."""
    (folder / "tiny.toml").write_text(TINY)
    (folder / "untrained.toml").write_text(UNTRAINED)
    path = folder / "suite.toml"
    path.write_text(text)
    return path


def test_an_entry_changes_the_base_and_what_the_suite_sets(tmp_path):
    suite = read_suite(write(tmp_path))
    as_it_is, triplet, untrained = suite.entries
    assert as_it_is.recipe == read_recipe(tmp_path / "tiny.toml", ["train.steps=2", "loss.temperature=0.3"])
    # A new loss starts its table anew: the temperature was the other one's.
    base = tmp_path / "tiny.toml"
    assert triplet.recipe == read_recipe(base, ["train.steps=2", "loss.name=triplet", "loss.margin=0.1"])
    # What the suite sets is about its own base.
    assert untrained.recipe == read_recipe(tmp_path / "untrained.toml")
    assert as_it_is.with_seed(1) == read_recipe(tmp_path / "tiny.toml", [*as_it_is.options, "train.seed=1"])
    assert (suite.seeds, suite.metric, suite.reference) == ((0, 1), "retrieval.map_at_r", None)
    assert as_it_is.folder == "as-it-is"


def test_a_suite_is_told_from_a_recipe(tmp_path):
    assert is_suite(write(tmp_path))
    assert not is_suite(tmp_path / "tiny.toml")


def problems(folder: Path, text: str) -> str:
    with pytest.raises(RecipeProblems) as error:
        read_suite(write(folder, text))
    return str(error.value).replace(str(folder), "")


def test_all_mistakes_are_told_at_once_where_the_suite_has_them(tmp_path):
    text = """[suite]
base = "tiny.toml"
seeds = [0, 0]
metrics = "retrieval.map_at_r"

[[entry]]
name = "cool"
set.loss.temprature = 0.2

[[entry]]
set.loss.temperature = 0.2

[[entry]]
name = "hot"
set.loss.temperature = -1.0
set.train.seed = 3

[[entry]]
name = "colder"
set.loss.temperature = -2.0
"""
    assert (
        problems(tmp_path, text)
        == """/suite.toml:3:9: seeds must be a list of different numbers
     3 | seeds = [0, 0]
       |         ^ help: write a list of different numbers: seeds = [0, 1, 2]
/suite.toml:4:1: [suite] has no key 'metrics'
     4 | metrics = "retrieval.map_at_r"
       | ^ help: did you mean 'metric'?
/suite.toml:8:10: loss 'nt-xent' has no parameter 'temprature'
     8 | set.loss.temprature = 0.2
       |          ^ help: did you mean 'temperature'?
/suite.toml:10:3: [[entry]] has no name
    10 | [[entry]]
       |   ^ help: add name = "..."
/suite.toml:16:11: an entry has no seed of its own
    16 | set.train.seed = 3
       |           ^ help: use seeds
/suite.toml:20:24: temperature of loss 'nt-xent' must be float > 0, not -2.0
    20 | set.loss.temperature = -2.0
       |                        ^ help: leave it out for its default, 0.1"""
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('base = "tiny.toml"', 'base = "tny.toml"', "there is no recipe /tny.toml"),
        ("[suite]", "[suit]", "a suite has no 'suit'"),
        ("seeds = [0, 1]", "", "[suite] has no seeds"),
        ("seeds = [0, 1]", 'seeds = [0, 1]\nreference = "triplett"', "there is no entry 'triplett'"),
        ("seeds = [0, 1]", 'seeds = [0, 1]\nresample = "group"', "resample must be what queries are resampled by"),
        ("seeds = [0, 1]", 'seeds = [0, 1]\nmetric = "knn.accuracy"', "of an evaluator that the recipes lack"),
        ('name = "triplet"\n', 'name = "as-it is"\n', "'as-it is' and 'as it is' would share a folder"),
        ("set.loss = {", 'set.data.size = 10\nset.loss = {', "not measured alike: their [data] differs"),
        ("set.train.steps = 2", "train.steps = 2", "[suite] has no key 'train'"),
        ("set.train.steps = 2", "set.train.epochs = 2", "steps and epochs are both given"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_message(old, new, message, tmp_path):
    assert old in SUITE
    assert message in problems(tmp_path, SUITE.replace(old, new, 1))


def test_a_suite_needs_entries(tmp_path):
    assert "a suite has no entry" in problems(tmp_path, '[suite]\nbase = "tiny.toml"\nseeds = [0]\n')


# The children of these tests are a shell script in place of Python: what is tested is who is started, and when.

CHILD = """#!/bin/sh
while [ $# -gt 0 ]; do
    [ "$1" = --out ] && out=$2
    case "$1" in *margin*) broken=1;; esac
    shift
done
echo "$OMP_NUM_THREADS threads" > "$out.seen"
echo "${CUDA_VISIBLE_DEVICES-none}" > "$out.device"
[ -n "$broken" ] && { echo "the loss exploded"; exit 4; }
[ -e "$out.slow" ] && { trap 'exit 130' TERM; while true; do sleep 0.05; done; }
mkdir -p "$out" && echo "{}" > "$out/result.json"
"""


@pytest.fixture
def child(tmp_path, monkeypatch) -> None:
    script = tmp_path / "child"
    script.write_text(CHILD)
    script.chmod(0o755)
    monkeypatch.setattr(sys, "executable", str(script))
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: range(4))


def test_a_failure_harms_no_other_run(child, tmp_path):
    planned = plan(read_suite(write(tmp_path)), tmp_path / "out")
    assert [str(run) for run in planned[:4]] == [
        "as it is, seed 0",
        "triplet, seed 0",
        "untrained, seed 0",
        "as it is, seed 1",
    ]
    events = list(launch(planned, jobs=2))
    ended = {str(event.run): event for event in events if event.what != "started"}
    assert len(ended) == len(planned) == 6
    assert {name for name, event in ended.items() if event.what == "failed"} == {"triplet, seed 0", "triplet, seed 1"}
    assert "exit code 4" in ended["triplet, seed 0"].detail
    assert "the loss exploded" in ended["triplet, seed 0"].detail
    assert (tmp_path / "out" / "as-it-is" / "seed-1.seen").read_text() == "2 threads\n"


@pytest.mark.parametrize(
    ("count", "visible", "jobs", "seen"),
    [
        (2, None, 2, {"0", "1"}),
        (3, "5,GPU-7,2", 4, {"5", "GPU-7", "2"}),
        (2, None, 1, {"0"}),
        (0, None, 3, {"none"}),
        (0, "", 2, {""}),
    ],
)
def test_devices_are_handed_out(count, visible, jobs, seen, child, tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.device_count", lambda: count)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    if visible is not None:
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    list(launch(plan(read_suite(write(tmp_path)), tmp_path / "out"), jobs=jobs))
    assert {file.read_text().strip() for file in (tmp_path / "out").rglob("*.device")} == seen


def test_a_device_is_that_with_the_fewest_runs():
    assert least_busy(["0", "1", "2"], ["0", "2", "0"]) == "1"
    assert least_busy(["0", "1"], ["0", "1"]) == "0"
    assert least_busy([], [None]) is None


def test_what_is_told_to_stop_is_stopped_and_no_other_is_started(child, tmp_path):
    planned = plan(read_suite(write(tmp_path)), tmp_path / "out")
    (tmp_path / "out" / "as-it-is").mkdir(parents=True)
    (tmp_path / "out" / "as-it-is" / "seed-0.slow").touch()
    seen = tmp_path / "out" / "as-it-is" / "seed-0.seen"

    def stop() -> bool:
        time.sleep(0.2)  # for the trap to be set
        return seen.exists()

    events = [(str(event.run), event.what) for event in launch(planned, stop=stop)]
    assert events == [("as it is, seed 0", "started"), ("as it is, seed 0", "stopped")]


def test_a_run_that_another_process_is_at_is_left_alone(child, tmp_path):
    planned = plan(read_suite(write(tmp_path)), tmp_path / "out")[:1]
    planned[0].log.parent.mkdir(parents=True)
    with planned[0].log.open("ab") as log:
        fcntl.flock(log, fcntl.LOCK_EX)
        (event,) = launch(planned)
    assert event.what == "failed"
    assert event.detail == f"another process is at it: wait for its end, see {planned[0].log}"
    assert [event.what for event in launch(planned)] == ["started", "finished"]


def test_the_plan_knows_what_is_there_and_refuses_what_is_of_another_recipe(tmp_path):
    suite = read_suite(write(tmp_path))
    first, second = suite.entries[:2]
    RunFolder(tmp_path / "out" / first.folder / "seed-0").create(first.with_seed(0))
    finished = RunFolder(tmp_path / "out" / second.folder / "seed-1")
    finished.create(second.with_seed(1))
    finished.result_file.write_text("{}")
    states = {str(run): run.state for run in plan(suite, tmp_path / "out")}
    assert states["as it is, seed 0"] == "interrupted"
    assert states["triplet, seed 1"] == "finished"
    assert list(states.values()).count("missing") == 4
    changed = read_suite(write(tmp_path, SUITE.replace("margin = 0.1", "margin = 0.2")))
    with pytest.raises(
        StorageError, match=r"triplet/seed-1 holds a run of another recipe, which differs in loss.margin"
    ):
        plan(changed, tmp_path / "out")


def metriclab(*arguments: str, folder: Path) -> subprocess.Popen:
    command = [sys.executable, "-m", "metriclab.cli", *arguments]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        command, cwd=folder, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.slow
def test_a_suite_is_run_stopped_started_again_and_compared(tmp_path):
    write(tmp_path, SUITE.replace("set.train.steps = 2", "set.train.steps = 60"))
    first = metriclab("compare", "suite.toml", "--jobs", "2", folder=tmp_path)
    metrics = tmp_path / "runs" / "suites" / "suite" / "as-it-is" / "seed-0" / "metrics.jsonl"
    waited = time.monotonic()
    while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() - waited < 60:
        time.sleep(0.02)
    first.send_signal(signal.SIGINT)
    _, errors = first.communicate(timeout=120)
    assert first.returncode == 130, errors
    assert "the same command goes on from here" in errors
    again = metriclab("compare", "suite.toml", "--jobs", "2", "--format", "json", folder=tmp_path)
    told, errors = again.communicate(timeout=300)
    assert again.returncode == 0, errors
    comparison = json.loads(told)
    assert {entry["name"]: entry["seeds"] for entry in comparison["entries"]} == {
        name: [0, 1] for name in ("as it is", "triplet", "untrained")
    }
    assert json.loads((tmp_path / "runs" / "suites" / "suite" / "comparison.json").read_text()) == comparison
    third = CliRunner().invoke(main, ["compare", str(tmp_path / "runs" / "suites" / "suite"), "--format", "json"])
    of_folders = json.loads(third.stdout)
    assert [entry["metrics"] for entry in of_folders["entries"]] == [
        entry["metrics"] for entry in comparison["entries"]
    ]


@pytest.mark.parametrize(("line", "options"), [('reference = "triplet"\n', ()), ("", ("--reference", "triplet"))])
def test_a_reference_without_a_result_is_told_and_all_pairs_are_tested(line, options, tmp_path, monkeypatch):
    def start(run, plugins, threads, device):
        told = SimpleNamespace(poll=lambda: 4 if run.entry.name == "triplet" else 0)
        run.log.parent.mkdir(parents=True, exist_ok=True)
        run.log.write_text("it diverged\n")
        if told.poll() == 0:
            finished(run.folder, run.seed, 0.5, *(("train.steps=3",) if run.entry.name == "untrained" else ()))
        return told

    monkeypatch.setattr(launching, "start_process", start)
    monkeypatch.setattr(launching, "POLL", 0.0)
    path = write(tmp_path, SUITE.replace("seeds = [0, 1]\n", f"seeds = [0, 1]\n{line}"))
    done = CliRunner().invoke(
        main, ["compare", str(path), "--out", str(tmp_path / "out"), "--format", "json", *options]
    )
    assert done.exit_code == 1, done.output
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    assert "the reference triplet has no result: all pairs are tested" in comparison["notes"]
    assert comparison["reference"] is None
    assert len(comparison["differences"]) == 1


def test_a_reference_that_no_entry_is_is_refused_before_anything_runs(tmp_path):
    done = CliRunner().invoke(
        main, ["compare", str(write(tmp_path)), "--out", str(tmp_path / "out"), "--reference", "triple"]
    )
    assert done.exit_code == 2
    assert "there is no entry 'triple' to refer to\n  help: did you mean 'triplet'?" in done.output
    assert not (tmp_path / "out").exists()
