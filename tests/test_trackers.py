import json
import math
import sys
from pathlib import Path

import pytest

from metriclab.errors import PluginError, StorageError
from metriclab.trackers import Console, JsonLines


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


def test_each_log_is_a_line_on_disk_at_once(tmp_path: Path):
    tracker = JsonLines(tmp_path)
    tracker.log(0, {"loss": 1.5, "rows": 8.0})
    assert (tmp_path / "metrics.jsonl").read_text() == '{"step": 0, "loss": 1.5, "rows": 8.0}\n'
    tracker.close()


def test_a_second_tracker_appends(tmp_path: Path):
    for step in range(2):
        tracker = JsonLines(tmp_path)
        tracker.log(step, {"loss": 0.1})
        tracker.close()
    lines = (tmp_path / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(line) for line in lines] == [{"step": 0, "loss": 0.1}, {"step": 1, "loss": 0.1}]


def test_lines_written_after_the_file_was_cut_follow_the_cut(tmp_path: Path):
    tracker = JsonLines(tmp_path)
    tracker.log(0, {"loss": 1.0})
    tracker.path.write_text("")
    tracker.log(0, {"loss": 2.0})
    tracker.close()
    assert tracker.path.read_text() == '{"step": 0, "loss": 2.0}\n'


def test_numbers_that_are_not_finite_stay_json(tmp_path: Path):
    tracker = JsonLines(tmp_path)
    values = {"a": math.nan, "b": math.inf, "c": -math.inf, "d": 1e-300}
    tracker.log(3, values)
    tracker.close()
    line = json.loads(tracker.path.read_text(), parse_constant=refuse)
    assert line == {"step": 3, "a": "NaN", "b": "Infinity", "c": "-Infinity", "d": 1e-300}
    assert math.isnan(float(line["a"]))
    assert (float(line["b"]), float(line["c"])) == (math.inf, -math.inf)


def test_a_metric_named_step_is_refused(tmp_path: Path):
    tracker = JsonLines(tmp_path)
    with pytest.raises(PluginError, match=r"a metric is named 'step'.*\n  help: rename the metric"):
        tracker.log(0, {"step": 1.0})
    tracker.close()


def test_a_file_that_cannot_be_written_is_named(tmp_path: Path):
    with pytest.raises(StorageError, match=r"metrics\.jsonl: cannot be written: No such file.*\n.*--out"):
        JsonLines(tmp_path / "gone")
    full = Path("/dev/full")
    (tmp_path / "metrics.jsonl").symlink_to(full)
    tracker = JsonLines(tmp_path)
    with pytest.raises(
        StorageError, match=r"metrics\.jsonl: cannot be written: No space left on device\n.*free some space, or"
    ):
        tracker.log(0, {"loss": 1.0})


def test_console_prints_every_nth_log_and_all_evaluations(tmp_path: Path, capsys: pytest.CaptureFixture[str]):
    console = Console(tmp_path, every=2)
    for step in range(4):
        console.log(step, {"loss": 1.23456 + step, "learning_rate": 0.05})
    console.log(3, {"retrieval/map@r": 0.5})
    console.log(4, {"loss": math.nan, "learning_rate": 1e-7})
    console.close()
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "step 0  loss 1.235  learning_rate 0.05",
        "step 2  loss 3.235  learning_rate 0.05",
        "step 3  retrieval/map@r 0.5",
        "step 4  loss nan  learning_rate 1e-07",
    ]


def test_console_prints_of_an_evaluation_what_chooses_and_what_was_asked_for(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
):
    logged = {f"val.retrieval.{name}": 0.5 for name in ("map_at_r", "r_at_1", "p_at_1", "r_at_5", "mrr")}
    Console(tmp_path).log(10, logged)
    Console(tmp_path, show=("retrieval.mrr", "retrieval.r_at_1", "knn.accuracy")).log(10, logged)
    assert capsys.readouterr().err.splitlines() == [
        "step 10  val.retrieval.map_at_r 0.5",
        "step 10  val.retrieval.map_at_r 0.5  val.retrieval.r_at_1 0.5  val.retrieval.mrr 0.5",
    ]


def test_console_leaves_a_terminal_to_the_progress_bar(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    Console(tmp_path, every=1).log(0, {"loss": 1.0})
    assert capsys.readouterr() == ("", "")


def test_trackers_load_no_torch(tmp_path: Path):
    import subprocess

    code = "import sys, metriclab.trackers, metriclab.samplers, metriclab.schedules; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
