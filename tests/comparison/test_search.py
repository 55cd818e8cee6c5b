"""Equal tuning: what may be searched, which runs follow, what is chosen, and that no kill changes any of it."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.comparison import launch as launching
from metriclab.comparison.launch import Event
from metriclab.comparison.proposals import propose
from metriclab.comparison.search import searches_of, tune, tuned
from metriclab.comparison.space import Dimension, Search
from metriclab.comparison.suite import Suite, read_suite
from metriclab.comparison.trials import Trial, read_trials
from metriclab.errors import StorageError
from metriclab.recipe import RecipeProblems
from metriclab.runs.files import write_json
from metriclab.runs.folder import RunFolder
from tests.comparison.test_suite import UNTRAINED
from tests.support.tiny import TINY

SUITE = """
[suite]
base = "tiny.toml"
seeds = [0, 3]
set.train.steps = 20
set.data.classes = 8

[suite.search]
trials = 6
folds = 2
rungs = [0.5]
space.optimizer.learning_rate = { low = 0.001, high = 0.1, log = true }

[[entry]]
name = "nt-xent"
search.loss.temperature = { low = 0.05, high = 1, log = true }

[[entry]]
name = "triplet"
set.loss.name = "triplet"
set.optimizer.learning_rate = 0.03
search.loss.margin = { low = 0, high = 1 }
search.head.hidden = { low = 8, high = 12 }
search.loss.negatives = { choices = ["all", "semihard"] }

[[entry]]
name = "untrained"
base = "untrained.toml"
set.data.classes = 8
"""


def write(folder: Path, text: str = SUITE) -> Path:
    base = TINY.replace("evaluate_every = 1\ncheckpoint_every = 2\n", "")
    (folder / "tiny.toml").write_text(base)
    (folder / "untrained.toml").write_text(UNTRAINED)
    (folder / "epochs.toml").write_text(base.replace("steps = 7", "epochs = 2"))
    path = folder / "suite.toml"
    path.write_text(text)
    return path


def suite(folder: Path, text: str = SUITE) -> Suite:
    return read_suite(write(folder, text))


class Faked:
    """A run whose value is a function of its settings, written when it is first looked at."""

    def __init__(self, run, broken=()):
        self.run, self.broken = run, broken

    def poll(self):
        recipe = self.run.entry.with_seed(self.run.seed)
        told = recipe.as_dict()
        fold = told["data"].get("fold", 0)
        value = 0.5 + 0.1 * np.sin(7 * told["optimizer"]["learning_rate"] * 100 + fold)
        value += 0.1 * np.cos(
            told["loss"].get("temperature", 5 * told["loss"].get("margin", 0)) * told["train"]["steps"]
        )
        folder = RunFolder(self.run.folder)
        if any(word in str(self.run) for word in self.broken):
            self.run.log.parent.mkdir(parents=True, exist_ok=True)
            self.run.log.write_text("the loss is NaN at step 3\n")
            return 4
        if not folder.recipe_file.exists():
            folder.create(recipe)
        write_json(
            folder.result_file,
            {
                "metrics": {"retrieval": {"map_at_r": float(value)}},
                "definitions": {},
                "protocol": "",
                "fingerprint": {"evaluate": {}},
                "steps": told["train"]["steps"],
                "images_seen": 1,
                "output": "h",
                "cost": {},
            },
        )
        return 0

    def terminate(self):
        pass

    kill = terminate

    def wait(self):
        return 0


def fake(*broken):
    return lambda run, plugins, threads, device: Faked(run, broken)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(launching, "POLL", 0.0)


def search(of: Suite, out: Path, *, jobs: int = 1, broken: tuple[str, ...] = ()) -> list[Event]:
    return list(tune(searches_of(of, out), jobs=jobs, start=fake(*broken)))


def files(out: Path) -> dict[str, str]:
    return {path.parent.parent.name: path.read_text() for path in sorted(out.rglob("trials.json"))}


def problems(folder: Path, text: str) -> str:
    with pytest.raises(RecipeProblems) as error:
        suite(folder, text)
    return str(error.value).replace(str(folder), "")


def test_all_mistakes_of_a_search_are_told_at_once_with_their_places(tmp_path):
    text = """[suite]
base = "tiny.toml"
seeds = [0]

[suite.search]
folds = 1
rungs = [0.5, 0.01]
space.data.classes = { low = 2, high = 4 }
space.optimizer.learning_rate = { low = 0.1, high = 0.001 }

[[entry]]
name = "one"
set.loss.temperature = 0.1
search.loss.temperature = { low = -1.0, high = 0.5 }
search.train.steps = { low = 5, high = 7 }
search.loss.hardness = { low = 0.1, high = 0.2 }
search.head.hidden = { choices = [8, 0, -4] }
search.optimizer.momentum = 0.9
search.optimizer.weight_decay = { low = 0.0, high = 0.1, log = true }

[entry.search.sampler.batch_size]
low = 8
hihg = 16
"""
    assert (
        problems(tmp_path, text)
        == """/suite.toml:5:8: [suite.search] has no trials
     5 | [suite.search]
       |        ^ help: add a number of at least 1: trials = 20
/suite.toml:6:9: folds must be a number of at least 2
     6 | folds = 1
       |         ^ help: write a number of at least 2: folds = 4
/suite.toml:7:9: rungs must be a rising list of fractions of the steps between 0 and 1
     7 | rungs = [0.5, 0.01]
       |         ^ help: write a rising list of fractions of the steps between 0 and 1: rungs = [0.25]
/suite.toml:8:12: 'data.classes' cannot be searched: all trials are measured alike
     8 | space.data.classes = { low = 2, high = 4 }
       |            ^ help: search what is trained with
/suite.toml:9:33: low of 'optimizer.learning_rate' is 0.1, which is not below its high, 0.001
     9 | space.optimizer.learning_rate = { low = 0.1, high = 0.001 }
       |                                 ^ help: exchange them, or set it
/suite.toml:14:13: 'loss.temperature' is set and searched
    14 | search.loss.temperature = { low = -1.0, high = 0.5 }
       |             ^ help: keep one of them
/suite.toml:14:27: temperature of loss 'nt-xent' must be float > 0, not -1.0
    14 | search.loss.temperature = { low = -1.0, high = 0.5 }
       |                           ^ help: leave it out for its default, 0.1
/suite.toml:15:14: 'train.steps' cannot be searched: all trials are trained and chosen alike
    15 | search.train.steps = { low = 5, high = 7 }
       |              ^ help: set it for all entries
/suite.toml:16:13: loss 'nt-xent' has no parameter 'hardness'
    16 | search.loss.hardness = { low = 0.1, high = 0.2 }
       |             ^ help: it has temperature, learnable_temperature
/suite.toml:17:22: hidden of head 'mlp' must be int >= 1, not 0
    17 | search.head.hidden = { choices = [8, 0, -4] }
       |                      ^ help: leave it out for its default, 512
/suite.toml:17:22: hidden of head 'mlp' must be int >= 1, not -4
    17 | search.head.hidden = { choices = [8, 0, -4] }
       |                      ^ help: leave it out for its default, 512
/suite.toml:18:29: 'optimizer.momentum' is searched, and 0.9 is no range
    18 | search.optimizer.momentum = 0.9
       |                             ^ help: write { low = 0.02, high = 0.5, log = true } or { choices = [16, 32] }
/suite.toml:19:33: 'optimizer.weight_decay' cannot be searched by orders of magnitude from 0.0 on
    19 | search.optimizer.weight_decay = { low = 0.0, high = 0.1, log = true }
       |                                 ^ help: raise low above 0
/suite.toml:21:23: a range has no 'hihg'
    21 | [entry.search.sampler.batch_size]
       |                       ^ help: did you mean 'high'?"""
    )


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("trials = 6", "trials = true", "trials must be a number of at least 1"),
        ("trials = 6", "trails = 6", "[suite.search] has no key 'trails'"),
        ("rungs = [0.5]", 'sampler = "grid"', "sampler must be one of two texts"),
        ("rungs = [0.5]", "rungs = [0.01]", "0.01 of the training of 'nt-xent' is nothing"),
        ("rungs = [0.5]", "rungs = [0.05]", "schedule.warmup = 0.1 is less than one in a run of 1 steps"),
        ("base = \"untrained.toml\"", "base = \"untrained.toml\"\nsearch.head.hidden = { low = 2, high = 4 }",
         "'untrained' is searched, and it is not trained: its steps are 0"),
        ("base = \"untrained.toml\"", "base = \"epochs.toml\"\nsearch.head.hidden = { low = 2, high = 4 }",
         "'untrained' is searched, and trained by epochs, which are unequal steps in each fold"),
        ("seeds = [0, 3]", "seeds = [0, 2147483647]", "2147483647 is the seed of all trials"),
        ("high = 1, log", 'high = "1", log', "high of 'loss.temperature' must be a number, not \"1\""),
        ("search.loss.margin = { low = 0, high = 1 }", "search.loss.margin = { low = -1.0, high = 1 }",
         "margin of loss 'triplet' must be float >= 0, not -1.0"),
        ('choices = ["all", "semihard"]', 'choices = ["all", "semihrad"]', 'not "semihrad"'),
        ('choices = ["all", "semihard"]', 'choices = ["all"]', "must be a list of at least two different values"),
        ("search.loss.margin", "search.loss.temperature", "loss 'triplet' has no parameter 'temperature'"),
        ("search.head.hidden = { low = 8", "search.head.hidden = { low = 8.5", "hidden of head 'mlp' must be int"),
    ],
)  # fmt: skip
def test_each_mistake_has_its_message(old, new, message, tmp_path):
    assert old in SUITE
    assert message in problems(tmp_path, SUITE.replace(old, new, 1))


def test_a_search_needs_a_space_and_a_space_a_search(tmp_path):
    head, _, rest = SUITE.partition("[suite.search]")
    entries = rest[rest.index("[[entry]]") :]
    assert "an entry is searched, and the suite is not" in problems(tmp_path, head + entries)
    bare = "".join(line for line in SUITE.splitlines(True) if not line.startswith(("search.", "space.")))
    assert "[suite.search] has no space, and no entry has one" in problems(tmp_path, bare)


def test_an_entry_has_the_common_space_but_for_what_it_sets(tmp_path):
    nt_xent, triplet, untrained = suite(tmp_path).entries
    rate = Dimension("optimizer.learning_rate", 0.001, 0.1, log=True)
    # 1 is a whole number, and a temperature is none; so is the margin, and hidden is one.
    assert nt_xent.space == (rate, Dimension("loss.temperature", 0.05, 1, log=True))
    assert triplet.space == (
        Dimension("loss.margin", 0, 1),
        Dimension("loss.negatives", choices=("all", "semihard")),
        Dimension("head.hidden", 8, 12, whole=True),
    )
    assert untrained.space == ()


def test_every_entry_has_as_many_trials_and_steps(tmp_path):
    events = search(suite(tmp_path), tmp_path / "out")
    of = searches_of(suite(tmp_path), tmp_path / "out")
    assert [one.is_done for one in of] == [True, True]
    for one in of:
        # Six at half the steps, three of them at all: the rungs cost as much.
        assert one.search.survivors() == [6, 3]
        assert [len(trial.values) for trial in one.trials].count(2) == 3
        tuning = one.file().tuning()
        assert (tuning.trials, tuning.failed, tuning.steps) == (6, 0, 2 * (6 * 10 + 3 * 20))
        # Who goes on is better at the first rung than who does not; who is chosen is best at the last one.
        on = [trial for trial in one.trials if len(trial.values) == 2]
        off = [trial for trial in one.trials if len(trial.values) == 1]
        assert min(trial.value(0) for trial in on) >= max(trial.value(0) for trial in off)
        assert tuning.value == max(trial.value(1) for trial in on)
        for trial in one.trials:
            for key in one.entry.space:
                assert key.choices or key.low <= trial.params[key.key] <= key.high
                assert not key.whole or isinstance(trial.params[key.key], int)
    assert sum(event.what == "finished" for event in events) == 2 * 2 * 9


def test_a_trial_is_a_run_on_folds_of_the_training_classes(tmp_path):
    one, _ = searches_of(suite(tmp_path), tmp_path / "out")
    runs = one.wanted()
    assert [str(run) for run in runs] == [
        "nt-xent, trial 0 of 10 steps, fold 0, seed 2147483647",
        "nt-xent, trial 0 of 10 steps, fold 1, seed 2147483647",
    ]
    told = [run.entry.with_seed(run.seed).as_dict() for run in runs]
    assert told[1]["data"]["name"] == "class-folds"
    assert (told[1]["data"]["folds"], told[1]["data"]["fold"]) == (2, 1)
    assert told[1]["data"]["data"]["name"] == "synthetic"
    assert told[1]["data"]["data"]["classes"] == 8
    assert told[1]["train"]["steps"] == 10
    assert told[1]["train"]["baselines"] is False
    # No final run has the seed of the trials, one that is added later neither; another search has another one.
    assert {run["train"]["seed"] for run in told} == {2**31 - 1}
    assert Search(1, seed=7).train_seed == 2**31 - 8
    assert one.wanted() == []


def test_what_is_chosen_is_what_the_final_runs_have(tmp_path):
    out = tmp_path / "out"
    read = suite(tmp_path)
    with pytest.raises(StorageError, match=r"the search of 'nt-xent' in .* is not finished"):
        tuned(read, out)
    search(read, out)
    after, notes = tuned(read, out)
    assert notes == []
    of = {one.entry.name: one.file().tuning() for one in searches_of(read, out)}
    recipe = after.entries[1].recipe.as_dict()
    assert recipe["loss"]["margin"] == of["triplet"].chosen["loss.margin"]
    assert recipe["loss"]["negatives"] == of["triplet"].chosen["loss.negatives"]
    assert recipe["data"]["name"] == "synthetic"
    assert recipe["train"]["steps"] == 20
    assert after.entries[2] == read.entries[2]


def test_the_command_tells_what_it_would_search(tmp_path):
    path, out = write(tmp_path), tmp_path / "out"
    search(read_suite(path), out, broken=("trial 1 ",))
    (out / "triplet" / "search" / "trials.json").unlink()
    told = CliRunner().invoke(main, ["compare", str(path), "--dry-run", "--out", str(out)])
    assert told.output == (
        "search       nt-xent: 6 of 10 steps, 3 of 20 steps, each in 2 folds; 18 of 18 runs done\n"
        "search       triplet: 6 of 10 steps, 3 of 20 steps, each in 2 folds; 0 of 18 runs done\n"
    )


def test_neither_jobs_nor_other_entries_change_anything(tmp_path):
    whole = suite(tmp_path)
    search(whole, tmp_path / "one")
    search(whole, tmp_path / "four", jobs=4)
    assert files(tmp_path / "one") == files(tmp_path / "four")
    alone = suite(tmp_path, SUITE.replace('name = "nt-xent"', 'name = "another"'))
    search(alone, tmp_path / "alone")
    assert files(tmp_path / "alone")["triplet"] == files(tmp_path / "one")["triplet"]
    other = suite(tmp_path, SUITE.replace("trials = 6", "trials = 6\nseed = 1"))
    search(other, tmp_path / "other")
    assert files(tmp_path / "other")["triplet"] != files(tmp_path / "one")["triplet"]


def test_a_proposal_depends_on_what_it_is_given_alone():
    space = [Dimension("a", 0.001, 1.0, log=True), Dimension("b", 1, 9, whole=True), Dimension("c", choices=(1, "1"))]
    trials: list[Trial] = []
    for number in range(14):
        params = propose("entry", space, Search(20), trials)
        np.random.default_rng(number).random()  # whoever draws in between
        assert params == propose("entry", space, Search(20), list(trials))
        assert type(params["c"]) in (int, str)
        trials.append(Trial(number, params, ((params["a"], params["a"]),)))
    # TPE has seen by now that more is better; chance has not.
    assert propose("entry", space, Search(20), trials)["a"] > 0.2
    assert propose("entry", space, Search(20, sampler="random"), trials) == propose(
        "entry", space, Search(20, sampler="random"), [Trial(at, one.params) for at, one in enumerate(trials)]
    )


def test_a_trial_that_fails_is_one_with_its_reason(tmp_path):
    out = tmp_path / "out"
    events = search(suite(tmp_path), out, broken=("nt-xent, trial 2 of 10 steps, fold 1", "triplet"))
    assert sum(event.what == "failed" for event in events) == 1 + 6 * 2
    nt_xent, triplet = searches_of(suite(tmp_path), out)
    assert [trial.failed is not None for trial in nt_xent.trials] == [False, False, True, False, False, False]
    assert nt_xent.trials[2].failed == "fold 1: the loss is NaN at step 3"
    assert nt_xent.file().tuning().failed == 1
    assert triplet.is_done
    after, notes = tuned(suite(tmp_path), out)
    assert [entry.name for entry in after.entries] == ["nt-xent", "untrained"]
    assert notes == ["every trial of triplet failed, the first with: fold 0: the loss is NaN at step 3"]
    assert all(event.detail.startswith("exit code 4, see ") for event in events if event.what == "failed")


@pytest.mark.parametrize(
    ("log", "reason"),
    [
        (
            "train: 8 images\nthe loss of step 2 is not finite\n  help: {}/diverged.json\n",
            "the loss of step 2 is not finite",
        ),
        ("{}/seed-0/metrics.jsonl is full\nwarning: val.loss is not logged\n", "seed-0/metrics.jsonl is full"),
        (
            "Traceback\n  File \"a.py\"\nOSError: no such file: '/home/me/photos/b.png'\n\n",
            "OSError: no such file: 'b.png'",
        ),
        ("warning: slow, 3 images/s\n", None),
    ],
)
def test_the_reason_of_a_failure_is_a_line_without_paths_of_this_machine(log, reason, tmp_path):
    run = launching.SuiteRun(suite(tmp_path).entries[0], 0, Path("runs/a/seed-0"), "missing")
    assert launching.short_reason(log.format("runs/a").splitlines(), run) == reason


def test_what_a_signal_killed_says_by_which(tmp_path):
    def start(run, plugins, threads, device):
        run.log.parent.mkdir(parents=True, exist_ok=True)
        run.log.write_text("train: 8 images\n")
        process = Faked(run)
        process.poll = lambda: -9
        return process

    read = suite(tmp_path, SUITE.replace("trials = 6", "trials = 1"))
    list(tune(searches_of(read, tmp_path / "out"), start=start))
    told = [one.trials[0].failed for one in searches_of(read, tmp_path / "out")]
    assert told == ["fold 0: killed by signal 9"] * 2


def test_a_run_that_a_signal_kills_is_tried_again_and_one_that_another_is_at_is_waited_for(tmp_path):
    (tmp_path / "whole").mkdir()
    search(suite(tmp_path), tmp_path / "whole")
    tries: dict[str, int] = {}

    def start(run, plugins, threads, device):
        tries[str(run)] = tries.get(str(run), 0) + 1
        if "trial 1 of 10 steps, fold 0" in str(run) and tries[str(run)] == 1:
            return None
        process = Faked(run)
        if "trial 2 of 10 steps, fold 1" in str(run) and tries[str(run)] < 3:
            run.log.parent.mkdir(parents=True, exist_ok=True)
            run.log.touch()
            process.poll = lambda: -9
        return process

    list(tune(searches_of(suite(tmp_path), tmp_path / "out"), start=start))
    assert files(tmp_path / "out") == files(tmp_path / "whole")
    assert {count for name, count in tries.items() if "trial 2 of 10 steps, fold 1" in name} == {3}


def test_more_trials_go_on_and_another_search_is_refused(tmp_path):
    out = tmp_path / "out"
    search(suite(tmp_path, SUITE.replace("trials = 6", "trials = 4")), out)
    search(suite(tmp_path), out)
    search(suite(tmp_path), tmp_path / "at once")
    first = read_trials(out / "triplet" / "search")
    second = read_trials(tmp_path / "at once" / "triplet" / "search")
    assert [trial.params for trial in first.trials] == [trial.params for trial in second.trials]
    with pytest.raises(StorageError) as error:
        searches_of(suite(tmp_path, SUITE.replace("high = 0.1, log", "high = 0.2, log")), out)
    assert str(error.value) == (
        f"{out / 'nt-xent' / 'search'} holds the trials of another search, which differs in space\n"
        "  help: remove that folder, or choose another one with --out"
    )
    with pytest.raises(StorageError, match="which differs in settings"):
        searches_of(suite(tmp_path, SUITE.replace("set.train.steps = 20", "set.train.steps = 30")), out)


def test_what_would_be_searched_in_vain_is_refused_before_it_is_searched(tmp_path):
    out = tmp_path / "out"
    final = out / "nt-xent" / "seed-3"
    final.mkdir(parents=True)  # of the time when the suite had no search
    with pytest.raises(StorageError, match=r"^'nt-xent' has 0 of 6 trials, and final runs already"):
        searches_of(suite(tmp_path), out)
    final.rename(tmp_path / "away")
    search(suite(tmp_path), out)
    (tmp_path / "away").rename(final)
    assert all(one.is_done for one in searches_of(suite(tmp_path), out))
    with pytest.raises(StorageError) as error:
        searches_of(suite(tmp_path, SUITE.replace("trials = 6", "trials = 8")), out)
    assert str(error.value) == (
        "'nt-xent' has 6 of 8 trials, and final runs already, of settings chosen before\n"
        f"  help: move {final} away, and those of other searched entries; the trials are kept"
    )
    with pytest.raises(StorageError) as error:
        searches_of(suite(tmp_path, SUITE.replace("trials = 6", "trials = 4")), out)
    assert str(error.value) == (
        f"{out / 'nt-xent' / 'search'} holds 6 trials, and the suite asks for 4: only more can follow\n"
        "  help: write trials = 6, or choose another folder with --out"
    )


def test_killed_at_twenty_moments_it_ends_with_the_same_trials_and_choices(tmp_path):
    read = suite(tmp_path)
    search(read, tmp_path / "whole", jobs=2)
    generator = np.random.default_rng(0)
    out, killed = tmp_path / "out", 0
    for moment in generator.integers(1, 400, 20).tolist():
        killed += _killed_after(moment, read, out)
    assert killed == 20
    search(read, out, jobs=2)
    assert files(out) == files(tmp_path / "whole")
    assert tuned(read, out) == tuned(read, tmp_path / "whole")


def _killed_after(lines: int, read: Suite, out: Path) -> bool:
    """Searches in a process of its own that kills itself after so many lines of the search's own code."""
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == -signal.SIGKILL
    left = lines

    def traced(frame, event, argument):
        nonlocal left
        if not frame.f_code.co_filename.endswith(("search.py", "trials.py", "launch.py", "core/files.py")):
            return None
        left -= event == "line"
        if left < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return traced

    sys.settrace(traced)
    search(read, out, jobs=2)
    os._exit(0)


def test_without_optuna_it_is_told_what_to_install(tmp_path, monkeypatch):
    from metriclab.errors import PluginError

    monkeypatch.delitem(sys.modules, "metriclab.comparison.proposals", raising=False)
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(PluginError) as error:
        search(suite(tmp_path), tmp_path / "out")
    assert str(error.value) == (
        '[suite.search] needs optuna, which is not installed\n  help: pip install "metriclab-toolkit[search]"'
    )
