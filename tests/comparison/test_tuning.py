"""What a comparison and a report tell of the searches behind their entries."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.comparison.finished import find_runs
from metriclab.comparison.statistics import search_spread
from metriclab.comparison.trials import Trial, TrialsFile, Tuning
from metriclab.comparison.tuning import tuning_of
from metriclab.errors import StorageError
from tests.comparison.test_compare import compared, finished

OF = {"metric": "retrieval.map_at_r"}


def entry(folder: Path, level: float, temperature: float, trials: int | None, failed: int = 0) -> list[Path]:
    """Two runs with a temperature, and beside them the search that chose it."""
    if trials:
        told = [Trial(at, {"loss.temperature": 0.9}, ((0.2, 0.3),)) for at in range(trials - 1 - failed)]
        told += [Trial(len(told) + at, {"loss.temperature": 0.8}, (), "fold 0: it diverged") for at in range(failed)]
        told.append(Trial(trials - 1, {"loss.temperature": temperature}, ((0.3, 0.5), (0.5, 0.75))))
        TrialsFile(OF, told, [10, 40], 2, {"loss.temperature": 1.0}, True).write(folder / "search")
    return [finished(folder / f"seed-{seed}", seed, level, f"loss.temperature={temperature}") for seed in (0, 1)]


def test_equal_tuning_is_noted_and_gives_no_warning(tmp_path):
    comparison = compared([*entry(tmp_path / "a", 0.5, 0.1, 5), *entry(tmp_path / "b", 0.6, 0.2, 5)])
    assert comparison.warnings == ()
    assert comparison.notes[0] == (
        "settings are the best of 5 trials by retrieval.map_at_r of held-out training classes, never by the test; what "
        "a difference needs allows for another search choosing others"
    )
    values = np.array([[0.2, 0.3]] * 4 + [[0.3, 0.5]])
    tuning = Tuning(
        5, 0, 2 * (5 * 10 + 40), {"loss.temperature": 0.2}, 0.625, "retrieval.map_at_r", search_spread(values)
    )
    assert comparison.entries[0].tuning == tuning
    for name in "ab":
        (tmp_path / name / "search" / "trials.json").unlink()
    untuned = compared([path for name in "ab" for path in sorted((tmp_path / name).glob("seed-*"))])
    assert untuned.differences[0].least < comparison.differences[0].least
    assert comparison.to_dict()["entries"][0]["tuning"]["trials"] == 5


def test_by_another_metric_the_luck_of_a_search_is_left_out_and_that_is_told(tmp_path):
    runs = [*entry(tmp_path / "a", 0.5, 0.1, 5), *entry(tmp_path / "b", 0.6, 0.2, 5)]
    for path in sorted(tmp_path.rglob("trials.json")):
        path.write_text(path.read_text().replace("retrieval.map_at_r", "knn.accuracy"))
    comparison = compared(runs)
    assert comparison.warnings == (
        "settings were chosen by knn.accuracy, not by retrieval.map_at_r: another search may choose others, and what a "
        "difference needs does not allow for that",
    )
    assert comparison.notes[0] == (
        "settings are the best of 5 trials by knn.accuracy of held-out training classes, never by the test"
    )
    for path in tmp_path.rglob("trials.json"):
        path.unlink()
    assert compared(runs).differences[0].least == comparison.differences[0].least


def test_a_key_of_one_loss_of_several_was_tuned(tmp_path):
    ((run,), _) = find_runs([finished(tmp_path / "a" / "seed-0", 0, 0.5)])
    run = replace(
        run, settings={"loss": [{"name": "nt-xent", "temperature": 0.1}, {"name": "nt-xent"}], "views.k": [1, 5]}
    )
    for temperature, k, tuned in ((0.1, [1, 5], True), (0.2, [1, 5], False), (0.1, [1], False)):
        params = {"loss.0.temperature": temperature, "loss.1": {"name": "nt-xent"}, "views.k": k}
        trial = Trial(0, params, ((0.2, 0.3),))
        TrialsFile(OF, [trial], [10], 2, {}, True).write(tmp_path / "a" / "search")
        assert (tuning_of([run]) is not None) == tuned


@pytest.mark.parametrize(
    ("trials", "failed", "warnings"),
    [
        (None, 0, ("tuned unequally, in trials: b 0, a 5; what was tuned more may be ahead by that alone",)),
        (4, 0, ("tuned unequally, in trials: b 4, a 5; what was tuned more may be ahead by that alone",)),
        (5, 2, ("b: 2 of its 5 trials failed",)),
    ],
)
def test_unequal_tuning_gives_a_warning(trials, failed, warnings, tmp_path):
    runs = [*entry(tmp_path / "a", 0.5, 0.1, 5), *entry(tmp_path / "b", 0.6, 0.2, trials, failed)]
    assert compared(runs).warnings == warnings


def test_as_many_trials_of_unequal_length_give_a_warning_too(tmp_path):
    runs = [*entry(tmp_path / "a", 0.5, 0.1, 5), *entry(tmp_path / "b", 0.6, 0.2, 5)]
    stored = TrialsFile(OF, [Trial(0, {"loss.temperature": 0.2}, ((0.1, 0.2),))] * 5, [80], 2, {}, True)
    stored.write(tmp_path / "b" / "search")
    (warning,) = compared(runs).warnings
    assert warning.startswith("tuned unequally, in steps of trials: b 800, a 180;")


def test_runs_at_other_settings_than_the_search_beside_them_chose_were_not_tuned(tmp_path):
    runs = [*entry(tmp_path / "a", 0.5, 0.1, 5), *entry(tmp_path / "b", 0.6, 0.2, 5)]
    entry(tmp_path / "other", 0.5, 0.3, 5)
    trials = (tmp_path / "other" / "search" / "trials.json").read_text()
    (tmp_path / "b" / "search" / "trials.json").write_text(trials)
    assert {one.name: one.tuning is None for one in compared(runs).entries} == {"a": False, "b": True}


def test_a_damaged_file_of_trials_is_named(tmp_path):
    runs = entry(tmp_path / "a", 0.5, 0.1, 5)
    path = tmp_path / "a" / "search" / "trials.json"
    path.write_text(path.read_text().replace('"number": 0', '"number": "0"', 1))
    with pytest.raises(
        StorageError, match=r"search/trials.json does not hold what a run writes there: trials.0.number"
    ):
        compared(runs)


def test_a_report_shows_all_trials(tmp_path):
    runs = [*entry(tmp_path / "a", 0.5, 0.1, 5), *entry(tmp_path / "b", 0.6, 0.2, 5, failed=1)]
    page = tmp_path / "page.html"
    done = CliRunner().invoke(main, ["report", *map(str, runs), "--no-images", "-o", str(page)])
    assert done.exit_code == 0, done.output
    text = page.read_text()
    for told in ("Trials of a", "Trials of b", "fold 0: it diverged", "chosen", "Importance of keys for b", "0.6250"):
        assert told in text
    assert "by 2 folds of the training classes" in text
