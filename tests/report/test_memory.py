"""The two charts of XBM in a report, and the numbers that stand beside them."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.comparison.finished import group, read_run
from metriclab.report.curves import collect_numbers, memory_section, memory_size, read_curves
from metriclab.report.page import draw, write_report
from metriclab.runs.folder import RunFolder
from tests.support.tiny import run, tiny

XBM = ("loss.name=contrastive", "method.name=xbm", "method.start_step=2", "memory.name=ring", "memory.size=24")
FOLLOWED = ("train.steps=10", "train.drift_images=9", "train.drift_every=5")


@pytest.fixture(scope="module")
def real(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("real")
    run(tiny(folder, *XBM, *FOLLOWED), folder / "run")
    return folder / "run"


def change(path: Path, pattern: str, new: str) -> None:
    text, count = re.subn(pattern, new, path.read_text(), flags=re.MULTILINE)
    assert count == 1, (path.name, pattern, count)
    path.write_text(text)


def hold(folder: Path, metrics: dict[str, float]) -> None:
    """Gives every query the score that its metric is to have."""
    run_folder = RunFolder(folder)
    scores = run_folder.scores()
    scores |= {name: torch.full_like(scores[name], value) for name, value in metrics.items()}
    run_folder.finish(run_folder.result(), scores)


@pytest.fixture
def variant(real, tmp_path):
    """Makes a run folder like the real one, but of another seed, memory and outcome."""

    def make(name: str, *, seed: int = 0, size: int = 24, score: float = 0.5, drift: dict | None = None) -> Path:
        folder = tmp_path / name
        shutil.copytree(real, folder)
        change(folder / "recipe.toml", r"^\[train\]\nseed = 0$", f"[train]\nseed = {seed}")
        change(folder / "recipe.toml", r"^size = 24$", f"size = {size}")
        result = json.loads((folder / "result.json").read_text())
        result["metrics"]["retrieval"] |= {"r_at_1": score, "map_at_r": score / 2}
        result["items"]["train"] = 96
        (folder / "result.json").write_text(json.dumps(result))
        hold(folder, {"retrieval.r_at_1": score, "retrieval.map_at_r": score / 2})
        if drift is not None:
            lines = [{"step": step, "drift_10": value} for step, value in drift.items()]
            (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return folder

    return make


def gathered(*paths: Path) -> tuple:
    return group([read_run(path) for path in paths]), {path: read_curves(path) for path in paths}


def test_means_are_over_seeds_and_of_drift_at_the_steps_that_all_logged(variant):
    numbers = collect_numbers(
        *gathered(
            variant("small-0", drift={10: 0.1, 20: 0.3, 30: 9.0}),
            variant("small-1", seed=1, score=0.6, drift={10: 0.2, 20: 0.1}),
            variant("large", size=48, score=0.7, drift={10: 0.5, 20: 0.4}),
        )
    )
    small, large = numbers["memory_ratio"]
    assert (small["entry"], small["memory_ratio"], small["seeds"]) == ("small", 0.25, [0, 1])
    assert (large["entry"], large["memory_ratio"], large["seeds"]) == ("large", 0.5, [0])
    assert small["r_at_1"] == {"mean": pytest.approx(0.55), "by_seed": [0.5, 0.6]}
    assert small["map_at_r"] == {"mean": pytest.approx(0.275), "by_seed": [0.25, 0.3]}
    assert large["r_at_1"] == {"mean": 0.7, "by_seed": [0.7]}
    of_small, of_large = numbers["drift"]
    assert of_small["steps"] == of_large["steps"] == [10, 20]  # the other run of the small memory has no step 30
    assert of_small["mean"] == pytest.approx([0.15, 0.2])
    assert of_small["by_seed"] == [[0.1, 0.3], [0.2, 0.1]]


def test_what_is_drawn_is_what_was_averaged(variant):
    section = memory_section(
        *gathered(
            variant("small-0", drift={10: 0.1, 20: 0.3}),
            variant("small-1", seed=1, score=0.6, drift={10: 0.2, 20: 0.1}),
            variant("large", size=48, score=0.7, drift={10: 0.3}),
        )
    )
    drift, r_at_1, map_at_r = section.blocks[1].drawn
    assert 'aria-label="drift D(t, dt), dt = 10 over step t. small: 0.15 to 0.2; large: 0.3 to 0.3."' in drift
    assert drift.count("faint") == 2, "a line for each seed"
    assert "small: R@1 0.55 at 0.25; large: R@1 0.7 at 0.5." in r_at_1
    assert "small: MAP@R 0.275 at 0.25; large: MAP@R 0.35 at 0.5." in map_at_r
    assert r_at_1.count('class="seed"') == 2
    assert "trend" in r_at_1


def test_memories_of_very_different_size_are_told_apart(variant):
    charts = memory_section(*gathered(variant("none", size=1), variant("small"), variant("huge", size=9600))).blocks[1]
    assert [text for text in ("0.0104", "0.25", "100") if f">{text}</text>" in charts.drawn[-1]] == [
        "0.0104",
        "0.25",
        "100",
    ]


def test_a_single_run_has_its_charts_and_its_numbers_as_data(variant, tmp_path):
    one = variant("one")
    write_report([one], tmp_path / "page.html", images=False)
    page = (tmp_path / "page.html").read_text()
    assert "drift D(t, dt), dt = " in page
    data = re.search(r'<script type="application/json" id="memory-data">(.*?)</script>', page, re.DOTALL)[1]
    numbers = json.loads(data)
    assert numbers["runs"] == [
        {"entry": "one", "run": str(one), "seed": 0, "memory_size": 24, "r_at_1": 0.5, "map_at_r": 0.25}
    ]
    assert numbers["drift"][0]["lag"] == 10
    assert set(numbers["definitions"]) == {"r_at_1", "map_at_r", "drift"}
    training = page[page.index('id="training"') : page.index('id="memory"')]
    assert "drift" not in training


def test_runs_without_drift_and_with_one_size_have_no_such_section(variant):
    assert memory_section(*gathered(variant("a", drift={}), variant("b", seed=1, drift={}))) is None
    assert memory_section(*gathered(variant("c", drift={}), variant("d", size=48, drift={}))) is not None


@pytest.mark.parametrize("way", ["no memory at all", "a weight of zero"])
def test_a_run_that_does_without_the_memory_has_size_0(way, variant):
    baseline = variant("baseline")
    if way == "no memory at all":
        change(baseline / "recipe.toml", r'^\[memory\]\nname = "ring"\nsize = 24\ndtype = "float32"\n', "")
        change(baseline / "recipe.toml", r'^name = "xbm"$', 'name = "supervised"')
    else:
        change(baseline / "recipe.toml", r"^weight = 1.0$", "weight = 0.0")
    assert memory_size(read_run(baseline)) == 0


def test_a_memory_without_a_size_has_no_place_among_the_sizes(variant):
    proxies = variant("proxies")
    change(proxies / "recipe.toml", r"^size = 24$", "")
    change(proxies / "recipe.toml", r'^name = "ring"$', 'name = "proxies"')
    section = memory_section(*gathered(proxies))
    assert all("drift" in chart for chart in section.blocks[0].drawn)
    assert draw(section.blocks[0])


def test_the_command_that_drew_them_is_no_more():
    done = CliRunner().invoke(main, ["figures", "xbm"])
    assert done.exit_code == 2
    assert "No such command 'figures'" in done.output
