"""Metrics held against the scores of their queries, by one check for `compare` and `report`."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from metriclab.cli import main
from tests.comparison.test_compare import finished


def edited(folder: Path, metric: str, value: float) -> Path:
    path = folder / "result.json"
    result = json.loads(path.read_text())
    result["metrics"]["retrieval"][metric] = value
    path.write_text(json.dumps(result))
    return folder


@pytest.mark.parametrize("command", ["compare", "report"])
def test_a_metric_that_was_edited_is_refused_with_both_numbers(command, tmp_path):
    run = finished(tmp_path / "run", 0, 0.5)
    value = json.loads((run / "result.json").read_text())["metrics"]["retrieval"]["map_at_r"]
    edited(run, "map_at_r", 0.99)
    more = ["--no-images", "-o", str(tmp_path / "page.html")] if command == "report" else []
    done = CliRunner().invoke(main, [command, str(run), *more])
    assert done.exit_code == 5, done.output
    assert done.stderr == (
        f"{run}: retrieval.map_at_r is 0.9900 in result.json, and {value:.4f} by the scores of its queries\n"
        "  help: put back what the run wrote, or run it again; where a metric is no mean, choose another one\n"
    )
    assert not (tmp_path / "page.html").exists()


def test_another_metric_that_was_edited_is_told(tmp_path):
    run = finished(tmp_path / "run", 0, 0.5)
    told = "retrieval.queries_without_matches is 7.0000 in result.json, and 1.0000 by the scores of its queries"
    import torch

    from metriclab.runs.folder import RunFolder

    folder = RunFolder(run)
    scores = folder.scores()
    lone = torch.zeros(len(scores["labels"]))
    lone[3] = 1.0
    scores["retrieval.queries_without_matches"] = lone
    folder.finish(folder.result(), scores)
    page = tmp_path / "page.html"
    report = ["report", str(run), "--no-images", "-o", str(page)]
    assert CliRunner().invoke(main, report).exit_code == 0
    assert told not in page.read_text()
    edited(run, "queries_without_matches", 7.0)
    assert CliRunner().invoke(main, report).exit_code == 0
    assert told in page.read_text()
    also = ["--also", "retrieval.queries_without_matches"]
    assert told in CliRunner().invoke(main, ["compare", str(run), *also]).stdout


def test_scores_that_are_not_there_are_told(tmp_path):
    run = finished(tmp_path / "run", 0, 0.5)
    (run / "scores.safetensors").unlink()
    page = tmp_path / "page.html"
    done = CliRunner().invoke(main, ["report", str(run), "--no-images", "-o", str(page)])
    assert done.exit_code == 0, done.output
    assert f"scores.safetensors is not there, so no metric of {run} could be checked by it" in page.read_text()
