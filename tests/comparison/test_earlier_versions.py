"""Run folders that the version before wrote: two real ones, shortened, under tests/support/old_runs."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from metriclab.comparison.compare import compare
from metriclab.comparison.finished import find_runs, group
from metriclab.errors import RecipeError
from metriclab.recipe import read_recipe
from metriclab.report.page import write_report
from metriclab.runs.files import write_json
from metriclab.runs.folder import RunFolder

OLD = Path(__file__).parents[1] / "support" / "old_runs"
ROOT = Path(__file__).parents[2]
LABELS = torch.arange(30).repeat_interleave(4)


def give_scores(folder: RunFolder, lone: str) -> None:
    """Scores of queries whose mean is the result's; the real ones are a megabyte."""
    result = json.loads(folder.result_file.read_text())
    score = result["metrics"]["retrieval"]["map_at_r"]
    noise = np.random.default_rng(int(score * 1e6)).normal(0, 0.05, len(LABELS))
    scores = {
        "retrieval.map_at_r": torch.tensor(score + noise - noise.mean()).float(),
        f"retrieval.{lone}": torch.zeros(len(LABELS)),
        "labels": LABELS,
        "items": torch.arange(len(LABELS)),
    }
    write_json(folder.result_file, {**result, "scores_sha256": folder.write_scores(scores)})


@pytest.fixture
def old(tmp_path) -> list[Path]:
    paths = []
    for name in ("simclr", "xbm"):
        paths.append(tmp_path / name)
        shutil.copytree(OLD / name, paths[-1])
        give_scores(RunFolder(paths[-1]), "lone_queries")
    return paths


def rewritten(old: Path, path: Path, seed: int) -> Path:
    """The run as this version would have left it: the recipe of the repository, and today's names."""
    folder = RunFolder(path)
    recipe = {"simclr": "simclr-glyphs.toml", "xbm": "xbm.toml"}[old.name]
    folder.create(read_recipe(ROOT / "recipes" / recipe, [f"train.seed={seed}"]))
    for name in ("result.json", "manifest.json", "metrics.jsonl"):
        text = (old / name).read_text().replace("lone_queries", "queries_without_matches")
        (path / name).write_text(text.replace("lone_anchors", "anchors_without_positives"))
    give_scores(folder, "queries_without_matches")
    return path


def test_results_scores_and_logged_lines_have_todays_names(old):
    for path in old:
        folder = RunFolder(path)
        assert "lone_" in folder.result_file.read_text()
        assert "lone_" not in json.dumps([folder.result(), *folder.scores(), *folder.logged()])
        assert folder.result()["metrics"]["retrieval"]["queries_without_matches"] == 0.0
        assert "retrieval.queries_without_matches" in folder.scores()
        assert next(folder.logged())["anchors_without_positives"] == 0.0


@pytest.mark.parametrize("which", [0, 1], ids=["simclr", "xbm"])
def test_an_old_and_a_new_run_of_one_recipe_are_one_entry(which, old, tmp_path):
    new = rewritten(old[which], tmp_path / "new" / f"{old[which].name}-1", seed=1)
    runs, notes = find_runs([old[which], new])
    groups = group(runs)
    settings = [run.settings for run in runs]
    assert settings[0] == settings[1]
    assert [len(entry) for entry in groups.values()] == [2]
    comparison = compare(groups, notes=notes)
    assert comparison.entries[0].seeds == (0, 1)


def test_old_runs_are_compared_and_reported(old, tmp_path):
    runs, _ = find_runs(old)
    comparison = compare(group(runs))
    assert [entry.name for entry in comparison.entries] == ["xbm", "simclr"]
    write_report(old, tmp_path / "page.html", images=False)
    page = (tmp_path / "page.html").read_text()
    assert "Drift and memory" in page
    write_report(old[:1], tmp_path / "one.html", images=False)
    shown = re.sub(r"<pre.*?</pre>", "", (tmp_path / "one.html").read_text(), flags=re.DOTALL)
    assert "lone anchors" not in shown
    assert "lone queries" not in shown


def with_transfer(path: Path, told: dict[str, object]) -> Path:
    """The run as if it had measured a transfer by the same definition too."""
    folder = RunFolder(path)
    result = json.loads(folder.result_file.read_text())
    entry = {**told, "evaluator": "retrieval", "parameters": {}, "fingerprint": {"test": "a" * 64, "train": "b" * 64}}
    result["fingerprint"]["evaluate"]["transfer"] = entry
    write_json(folder.result_file, result)
    return path


def test_where_the_data_of_a_transfer_lay_is_no_part_of_the_benchmark(old, tmp_path):
    """An earlier version told the folder, which parted runs of two machines."""
    new = rewritten(old[0], tmp_path / "new" / "simclr-1", seed=1)
    with_transfer(old[0], {"data": {"name": "folder", "root": "/home/somebody/cars", "size": 64}})
    for told, fits in (({"name": "folder"}, True), ({"name": "folder", "root": "x"}, True), ({"name": "cub"}, False)):
        runs, notes = find_runs([old[0], with_transfer(new, {"data": told})])
        if fits:
            assert len(compare(group(runs), notes=notes).entries) == 1
        else:
            with pytest.raises(RecipeError, match=r'evaluate\.transfer\.data\.name is "folder" in the first and "cub"'):
                compare(group(runs), notes=notes)
