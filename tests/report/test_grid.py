"""The heat map of a suite whose entries have a column and a row."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metriclab.comparison.launch import plan
from metriclab.comparison.suite import read_suite
from metriclab.errors import RecipeError
from metriclab.recipe import RecipeProblems
from metriclab.report.charts import draw_grid
from metriclab.report.page import write_report
from tests.support.tiny import TINY, run

SUITE = """
[suite]
base = "tiny.toml"
seeds = [0]
metric = "retrieval.r_at_1"
reference = "crop + colour"
set.train.steps = 1

[[entry]]
name = "crop"
at = ["crop", "crop"]
set.views.colour = 0.0

[[entry]]
name = "crop + colour"
at = ["crop", "colour"]

[[entry]]
name = "neither"
set.views.colour = 0.0
set.views.min_area = 1.0
"""


@pytest.fixture
def suite(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tiny.toml").write_text(TINY)
    (tmp_path / "pairs.toml").write_text(SUITE)
    return tmp_path / "pairs.toml"


def test_a_suites_report_has_its_names_and_its_grid(suite, tmp_path):
    means = {}
    for one in plan(read_suite(suite), Path("runs/suites/pairs")):
        run(one.entry.with_seed(one.seed), one.folder)
        result = (one.folder / "result.json").read_text()
        means[one.entry.name] = float(re.findall(r'"r_at_1": ([\d.]+)', result.partition('"metrics"')[2])[0])
    write_report([suite], tmp_path / "page.html", images=False)
    page = (tmp_path / "page.html").read_text()
    grid = page[page.index('<section id="grid"') :].partition("</section>")[0]
    assert f"crop, crop: {means['crop']:.4f}; crop, colour: {means['crop + colour']:.4f}." in grid
    assert "neither" not in grid
    assert "neither" in page
    assert "R@1, averaged over seeds" in grid


def test_the_larger_the_darker_and_what_nobody_ran_is_left_blank():
    drawn = draw_grid("R@1", {("a", "a"): 0.1, ("a", "b"): 0.3, ("b", "b"): 0.2})
    assert re.findall(r'fill-opacity="([\d.]+)"', drawn) == ["0.06", "0.56", "0.31"]
    assert re.findall(r">(0\.\d{4})<", drawn) == ["0.1000", "0.3000", "0.2000"]
    assert draw_grid("R@1", {("<a>", "b"): 0.1}).count("&lt;a&gt;") == 2


def test_a_place_is_two_texts_and_of_one_entry(suite):
    text = suite.read_text()
    suite.write_text(text.replace('["crop", "crop"]', '["crop"]'))
    with pytest.raises(RecipeProblems, match="at must be its column and its row in the report's grid"):
        read_suite(suite)
    suite.write_text(text.replace('["crop", "crop"]', '["crop", "colour"]'))
    with pytest.raises(RecipeProblems, match=r"'crop \+ colour' and 'crop' would share a place of the grid"):
        read_suite(suite)


def test_a_suite_is_reported_on_its_own(suite, tmp_path):
    with pytest.raises(RecipeError, match="a suite is reported on its own"):
        write_report([suite, tmp_path], tmp_path / "page.html")
