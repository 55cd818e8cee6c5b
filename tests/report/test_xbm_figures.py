"""The two figures of XBM, from run folders."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from PIL import Image

from metriclab.cli import main
from metriclab.errors import RecipeError, StorageError
from metriclab.report.xbm_figures import draw_drift, draw_memory_ratio, markdown, summary
from metriclab.report.xbm_runs import differing_settings, read_runs
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
        if drift is not None:
            lines = [{"step": step, "drift_10": value} for step, value in drift.items()]
            (folder / "metrics.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines))
        return folder

    return make


def figures(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, ["figures", "xbm", *map(str, arguments)], catch_exceptions=False)


def test_a_run_is_read_as_it_was(real):
    (found,) = read_runs([real])
    result = json.loads((real / "result.json").read_text())
    assert (found.seed, found.size, found.ratio) == (0, 24, 24 / result["items"]["train"])
    assert found.scores == {name: result["metrics"]["retrieval"][name] for name in ("r_at_1", "map_at_r")}
    lines = [json.loads(line) for line in (real / "metrics.jsonl").read_text().splitlines()]
    assert found.drift == {10: {line["step"]: line["drift_10"] for line in lines if "drift_10" in line}}
    assert found.drift[10].keys() == {10}


def test_scores_and_drift_are_averaged_over_the_seeds_of_a_memory_size(variant):
    runs = [
        variant("c", seed=0, size=48, score=0.7, drift={10: 0.3, 20: 0.2}),
        variant("a", seed=0, score=0.5, drift={10: 0.1, 20: 0.3, 30: 9.0}),
        variant("b", seed=1, score=0.6, drift={10: 0.2, 20: 0.1}),
    ]
    numbers = summary(read_runs(runs))
    assert [(group["memory_ratio"], group["seeds"]) for group in numbers["memory_ratio"]] == [
        (0.25, [0, 1]),
        (0.5, [0]),
    ]
    small, large = numbers["memory_ratio"]
    assert small["r_at_1"] == {"mean": pytest.approx(0.55), "by_seed": [0.5, 0.6]}
    assert small["map_at_r"] == {"mean": pytest.approx(0.275), "by_seed": [0.25, 0.3]}
    assert large["r_at_1"] == {"mean": 0.7, "by_seed": [0.7]}
    of_small, of_large = numbers["drift"]
    assert of_small["steps"] == of_large["steps"] == [10, 20]  # the other run of the small memory has no step 30
    assert of_small["mean"] == pytest.approx([0.15, 0.2])
    assert of_small["by_seed"] == [[0.1, 0.3], [0.2, 0.1]]
    assert numbers["also_differ"] == []


def test_what_is_drawn_is_what_was_averaged(variant):
    runs = [variant("a", drift={10: 0.1, 20: 0.3}), variant("b", seed=1, score=0.6, drift={10: 0.2, 20: 0.1})]
    numbers = summary(read_runs([*runs, variant("c", size=48, score=0.7, drift={10: 0.3})]))
    (panel,) = draw_drift(numbers).axes
    means = [line for line in panel.lines if not line.get_label().startswith("_")]
    assert [line.get_label() for line in means] == ["0.25", "0.5"]
    assert means[0].get_xydata().tolist() == [[10, pytest.approx(0.15)], [20, pytest.approx(0.2)]]
    recall, _ = draw_memory_ratio(numbers).axes
    assert recall.lines[0].get_xydata().tolist() == [[0.25, pytest.approx(0.55)], [0.5, 0.7]]
    assert recall.collections[0].get_offsets().tolist() == [[0.25, 0.5], [0.25, 0.6], [0.5, 0.7]]


def test_the_command_draws_and_writes_the_numbers_beside(variant, tmp_path):
    out = tmp_path / "some" / "figures"
    runs = [variant("a"), variant("b", seed=1, score=0.6), variant("c", size=9600)]
    done = figures(*runs, "-o", out)
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == {"drift.png", "memory_ratio.png", "xbm.json", "xbm.md"}
    for name in ("drift.png", "memory_ratio.png"):
        with Image.open(out / name) as image:
            assert len(image.convert("L").getcolors()) > 10
    assert done.stdout == (out / "xbm.md").read_text()
    assert "| 0.25 | 24 | 0, 1 | 0.5500 (0.5000, 0.6000) | 0.2750 (0.2500, 0.3000) |" in done.stdout
    assert "| 100 | 9,600 | 0 | 0.5000 (0.5000) | 0.2500 (0.2500) |" in done.stdout
    assert re.search(r"^\| 0\.25 \| 10 \| \S+ at t = 10 \| \S+ at t = 10 \|$", done.stdout, re.MULTILINE)
    again = figures(*runs, "-o", out, "--json")
    assert json.loads(again.stdout) == json.loads((out / "xbm.json").read_text())


@pytest.mark.parametrize("way", ["no memory at all", "a weight of zero"])
def test_a_run_that_does_without_the_memory_has_ratio_0(way, variant):
    baseline = variant("baseline")
    if way == "no memory at all":
        change(baseline / "recipe.toml", r'^\[memory\]\nname = "ring"\nsize = 24\ndtype = "float32"\n', "")
        change(baseline / "recipe.toml", r'^name = "xbm"$', 'name = "supervised"')
    else:
        change(baseline / "recipe.toml", r"^weight = 1.0$", "weight = 0.0")
    runs = read_runs([variant("with"), baseline])
    assert [run.ratio for run in runs] == [0, 0.25]
    assert differing_settings(runs) == []


def test_recipes_that_differ_in_more_are_named(variant):
    longer = variant("longer", size=48)
    change(longer / "recipe.toml", r"^steps = 10$", "steps = 20")
    change(longer / "recipe.toml", r"^margin = ", "margin = 1")
    numbers = summary(read_runs([variant("a"), longer]))
    assert numbers["also_differ"] == ["loss.margin", "train.steps"]
    assert "- The recipes differ in more than memory and seed: loss.margin, train.steps." in markdown(numbers)


def test_runs_of_different_benchmarks_are_refused_by_their_keys(variant):
    one, other = variant("one"), variant("other", seed=1)
    result = json.loads((other / "result.json").read_text())
    result["fingerprint"] |= {"test": "another", "digest": "another"}
    result["output"] = "z"
    (other / "result.json").write_text(json.dumps(result))
    with pytest.raises(RecipeError) as caught:
        read_runs([one, other])
    assert caught.value.message == f"{one} and {other} cannot be compared: they differ in test, train.output"
    assert caught.value.help == "give runs of one benchmark: the same data, evaluators and train.output"


def test_a_run_given_twice_is_refused(variant):
    one = variant("one")
    with pytest.raises(RecipeError, match=r"one and .*one both have seed 0 and a memory of 24 rows") as caught:
        read_runs([one, one])
    assert caught.value.help == "give one run for each seed and size of the memory"


def test_a_run_without_drift_is_refused(variant):
    never = variant("never", drift={})
    for keys in ("drift_images = 9", "drift_every = 5"):
        change(never / "recipe.toml", f"^{keys}$\n", "")
    with pytest.raises(RecipeError, match=r"never has no drift in its metrics\.jsonl") as caught:
        read_runs([never])
    assert caught.value.help == "run its recipe again with --set train.drift_images=256"
    with pytest.raises(RecipeError) as caught:
        read_runs([variant("short", drift={})])
    assert caught.value.help == "its 10 steps are too few for train.drift_every = 5"


def test_drift_at_no_common_step_is_refused(variant):
    runs = read_runs([variant("a", drift={10: 0.1}), variant("b", seed=1, drift={20: 0.1})])
    with pytest.raises(RecipeError, match="logged their drift at no step in common"):
        summary(runs)


@pytest.mark.parametrize(
    ("file", "content", "told", "help"),
    [
        ("recipe.toml", None, "{run} is no run folder: it has no recipe.toml", None),
        (
            "result.json",
            None,
            "{run} has no result yet",
            "let the run finish: metriclab run {run}/recipe.toml --out {run} --resume",
        ),
        ("metrics.jsonl", None, "{run}/metrics.jsonl is not there", 'runs write it with [[track]] name = "jsonl"'),
        ("metrics.jsonl", '{"step": 1}\n{"st', "{run}/metrics.jsonl:2: this is no line of JSON", "is the file whole?"),
    ],
)
def test_what_is_no_finished_run_is_an_error_with_its_repair(file, content, told, help, variant):
    broken = variant("broken")
    (broken / file).unlink()
    if content is not None:
        (broken / file).write_text(content)
    with pytest.raises(StorageError) as caught:
        read_runs([broken])
    assert caught.value.message == told.format(run=broken)
    assert caught.value.help == (help and help.format(run=broken))


def test_a_run_without_retrieval_is_refused(variant):
    silent = variant("silent")
    result = json.loads((silent / "result.json").read_text())
    result["metrics"]["retrieval"]["r_at_1"] = None
    (silent / "result.json").write_text(json.dumps(result))
    with pytest.raises(RecipeError, match=r"silent has no retrieval\.r_at_1 in its result"):
        read_runs([silent])


def test_a_memory_without_a_size_is_refused(variant):
    proxies = variant("proxies")
    change(proxies / "recipe.toml", r"^size = 24$", "")
    change(proxies / "recipe.toml", r'^name = "ring"$', 'name = "proxies"')
    with pytest.raises(RecipeError, match=r"the memory 'proxies' of .*proxies has no size") as caught:
        read_runs([proxies])
    assert caught.value.help == "give runs with a ring, or without a memory"


def test_the_commands_errors_have_their_exit_codes(variant, tmp_path):
    assert figures("nowhere", "-o", tmp_path / "out").exit_code == 5
    assert figures("-o", tmp_path / "out").exit_code == 2
    one = variant("one")
    assert figures(one, one, "-o", tmp_path / "out").exit_code == 2
    (tmp_path / "file").write_text("")
    taken = figures(one, "-o", tmp_path / "file")
    assert taken.exit_code == 5
    assert f"cannot make the folder {tmp_path / 'file'}" in taken.output
