"""Run folders side by side: what is ranked, what is refused, and how it is told."""

from __future__ import annotations

import json
from dataclasses import astuple
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.comparison.compare import Comparison, compare, differing_keys
from metriclab.comparison.finished import find_runs, group
from metriclab.comparison.statistics import class_bootstrap
from metriclab.errors import MetriclabError, RecipeError, StorageError
from metriclab.runs.files import write_json
from metriclab.runs.folder import RunFolder
from tests.support.tiny import run, tiny

LABELS = torch.arange(40).repeat_interleave(6)
BENCHMARK = {"data": "glyphs", "test": "7e57", "gallery": "leave-one-out", "evaluate": {"retrieval": {"k": [1, 5]}}}


def finished(
    folder: Path,
    seed: int,
    level: float,
    *settings: str,
    columns: dict[str, torch.Tensor] | None = None,
    **changes: Any,
) -> Path:
    """A run folder as a run of the tiny recipe leaves it, with scores around a level."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    run_folder = RunFolder(folder)
    run_folder.create(tiny(folder.parent, f"train.seed={seed}", *settings))
    generator = np.random.default_rng([seed, int(level * 1e6)])
    shared = np.random.default_rng(0).normal(0.0, 0.1, 40)  # what is hard for one is hard for all
    scores = (
        level + (shared - shared.mean())[LABELS] + generator.normal(0, 0.02, len(LABELS)) + generator.normal(0, 0.001)
    )
    scores[3] = np.nan
    metrics = {"map_at_r": float(np.nanmean(scores)), "r_at_1": 0.5, "queries_without_matches": 1.0}
    result = {
        "metrics": {"retrieval": metrics},
        "definitions": {"retrieval": {"map_at_r": "MAP@R (retrieval/1).", "r_at_1": "R@1 (retrieval/1)."}},
        "protocol": "leave-one-out on the test split",
        "fingerprint": {**BENCHMARK, "digest": "d"},
        "steps": 7,
        "images_seen": 112,
        "output": "h",
        "cost": {"train_seconds": 60.0 + seed, "images_per_second": None, "peak_memory_mb": 900.0, "parameters": 1234},
        **changes,
    }
    stored = {"retrieval.map_at_r": torch.tensor(scores).float(), "labels": LABELS, "items": torch.arange(len(LABELS))}
    stored |= columns or {}
    write_json(run_folder.manifest_file, {"data": {"train": "7a11"}})
    run_folder.finish(result, stored)
    return folder


def compared(paths: list[Path], **options: Any) -> Comparison:
    runs, notes = find_runs(paths)
    return compare(group(runs), notes=notes, **options)


@pytest.fixture
def three(tmp_path) -> list[Path]:
    """Two entries far apart and one hardly worse than the best, three seeds each, in a folder."""
    return [
        finished(tmp_path / "runs" / f"{name}-{seed}", seed, level, f"loss.temperature={temperature}")
        for name, level, temperature in (("cool", 0.5, 0.1), ("warm", 0.5001, 0.2), ("hot", 0.4, 0.9))
        for seed in (0, 1, 2)
    ]


def test_entries_are_the_recipes_and_better_is_said_of_what_is_better(three):
    comparison = compared(three)
    assert {entry.name for entry in comparison.entries} == {"cool", "warm", "hot"}
    *best, worst = comparison.entries
    assert worst.name == "hot"
    assert worst.seeds == (0, 1, 2)
    assert worst.settings == {"loss.temperature": 0.9}
    assert worst.metrics["retrieval.map_at_r"].interval.holds(0.4)
    assert worst.cost == {"train_seconds": 61.0, "images_per_second": None, "peak_memory_mb": 900.0, "parameters": 1234}
    verdicts = {frozenset((one.first, one.second)): one for one in comparison.differences}
    assert len(verdicts) == 3
    assert verdicts[frozenset(("cool", "warm"))].verdict == "no evidence"
    for entry in best:
        difference = verdicts[frozenset((entry.name, "hot"))]
        assert (difference.verdict, difference.first, difference.seeds) == ("better", entry.name, (0, 1, 2))
        assert difference.by_class.holds(0.1)
        assert difference.over_seeds.holds(0.1)
        assert difference.sentence().startswith(f"{entry.name} is better than hot (+0.1")
    assert comparison.queries == len(LABELS) - 1
    assert comparison.classes == 40
    assert comparison.shown == ("retrieval.r_at_1",)
    assert compared(three[::-1]).to_dict() == comparison.to_dict()
    assert json.loads(json.dumps(comparison.to_dict()))["level"] == 0.95


def test_a_reference_is_held_against_every_other_entry_alone(three):
    comparison = compared(three, reference="cool")
    assert all("cool" in (one.first, one.second) for one in comparison.differences)
    assert len(comparison.differences) == 2
    with pytest.raises(RecipeError, match="there is no entry 'cold' to refer to"):
        compared(three, reference="cold")


def test_one_seed_speaks_of_these_models_alone(three):
    comparison = compared([three[0], three[6]])
    (difference,) = comparison.differences
    assert difference.verdict == "better model"
    assert difference.over_seeds is None
    assert difference.least is None
    assert "of other seeds it says nothing" in difference.sentence()
    assert comparison.entries[0].metrics["retrieval.map_at_r"].interval is None
    assert any("on those models alone" in note for note in comparison.notes)
    said = "no interval over seeds: cool, hot have one seed each; run it with other values of train.seed"
    assert said in comparison.notes
    assert compared(three).notes == ()


def test_a_difference_is_taken_over_the_seeds_that_both_have(three):
    comparison = compared([*three[:3], *three[7:]])
    assert {one.seeds for one in comparison.differences} == {(1, 2)}


def test_one_entry_alone_has_a_mean_and_no_verdict(three):
    comparison = compared(three[:3])
    assert comparison.differences == ()
    assert len(comparison.entries) == 1


def test_folders_of_runs_are_opened_and_the_unfinished_are_named(three, tmp_path):
    unfinished = RunFolder(tmp_path / "runs" / "cut-0")
    unfinished.create(tiny(tmp_path, "loss.temperature=0.7"))
    comparison = compared([tmp_path / "runs"])
    assert len(comparison.entries) == 3
    (note,) = (note for note in comparison.notes if "not finished" in note)
    assert note.endswith(f"metriclab run {unfinished.recipe_file} --out {unfinished.path} --resume")
    with pytest.raises(StorageError, match="no finished run among"):
        compared([unfinished.path])
    with pytest.raises(StorageError, match="is no run folder, and holds none"):
        compared([tmp_path / "runs" / "cool-0" / "checkpoints"])


def test_names_come_from_folders_and_are_never_shared(tmp_path):
    paths = [
        finished(tmp_path / "triplet" / "seed-0", 0, 0.5, "loss.temperature=0.1"),
        finished(tmp_path / "triplet" / "seed-1", 1, 0.5, "loss.temperature=0.1"),
        finished(tmp_path / "width-64", 0, 0.5, "head.embedding_dim=64"),
        finished(tmp_path / "width-128", 0, 0.5, "head.embedding_dim=128"),
    ]
    assert set(group(find_runs(paths)[0])) == {"triplet", "width-64", "width-128"}


def refused(paths: list[Path], **options: Any) -> str:
    with pytest.raises(MetriclabError) as error:
        compared(paths, **options)
    return str(error.value)


def test_runs_of_other_benchmarks_are_not_ranked(three, tmp_path):
    other = {**BENCHMARK, "evaluate": {"retrieval": {"k": [1, 10]}}, "digest": "e"}
    message = refused([three[0], finished(tmp_path / "other", 0, 0.5, "head.embedding_dim=16", fingerprint=other)])
    assert "evaluate.retrieval.k is [1, 5] in the first and [1, 10] in the second" in message
    definitions = {"retrieval": {"map_at_r": "MAP@R (retrieval/2)."}}
    message = refused(
        [three[0], finished(tmp_path / "newer", 0, 0.5, "head.embedding_dim=17", definitions=definitions)]
    )
    assert "the definition of retrieval.map_at_r is" in message


def test_a_parameter_that_an_older_version_did_not_know_parts_no_runs_that_leave_it_at_its_default(three, tmp_path):
    def with_key(name: str, value: object) -> Path:
        fingerprint = {**BENCHMARK, "evaluate": {"retrieval": {"k": [1, 5], "whole_ranking": value}}, "digest": "e"}
        return finished(tmp_path / name, 3, 0.5, fingerprint=fingerprint)

    newer, older = with_key("newer", True), [finished(tmp_path / f"older-{seed}", seed, 0.5) for seed in (0, 1)]
    for runs in ([*older, newer], [newer, *older]):
        assert [entry.seeds for entry in compared(runs).entries] == [(0, 1, 3)]
    assert "whole_ranking is not there in the first and false in the second" in refused(
        [three[0], with_key("b", False)]
    )
    lacks = finished(
        tmp_path / "lacks", 0, 0.5, "head.embedding_dim=16", fingerprint={**BENCHMARK, "evaluate": {"knn": {}}}
    )
    assert "evaluate.retrieval.k is [1, 5] in the first and not there in the second" in refused([three[0], lacks])


def test_runs_of_other_data_are_not_ranked(three, tmp_path):
    other = finished(tmp_path / "moved", 0, 0.5, "head.embedding_dim=16", fingerprint={**BENCHMARK, "test": "beef"})
    assert refused([three[0], other]) == (
        f"{three[0]} and {other} are measured by different benchmarks and cannot be ranked: test is "
        '"7e57" in the first and "beef" in the second\n'
        "  help: compare runs that are tested on the same data by the same [[evaluate]] tables"
    )


@pytest.mark.parametrize(
    ("lone", "reason"),
    [
        (240.0, "none of its 240 test queries of known class has another image of its class to find"),
        (0.0, "its test split has no image of known class"),
    ],
)
def test_a_metric_without_a_value_says_why(lone, reason, three, tmp_path):
    metrics = {"retrieval": {"map_at_r": None, "queries_without_matches": lone}}
    lost = finished(tmp_path / "lost", 0, 0.5, "head.embedding_dim=16", metrics=metrics, items={"test": 240})
    assert refused([three[0], lost]) == (
        f"{lost} has no value of retrieval.map_at_r: {reason} (of 240 images)\n  help: see `metriclab check "
        f"{lost}/recipe.toml --data`, and run it again"
    )


def test_bad_runs_have_their_messages(three, tmp_path):
    again = finished(tmp_path / "again", 0, 0.5, "loss.temperature=0.1")
    assert "are runs of one recipe" in refused([three[0], again])
    assert f"{three[0]} has no metric retrieval.map_at_q\n  help: did you mean" in refused(
        three, metric="retrieval.map_at_q"
    )
    assert "no run has a metric knn.accuracy" in refused(three, also=["knn.accuracy"])
    assert "is no mean over the queries" in refused(three, metric="retrieval.r_at_1")
    scores = three[0] / "scores.safetensors"
    scores.write_bytes(scores.read_bytes()[:-1] + b"\x01")
    assert "is damaged" in refused(three)
    scores.unlink()
    assert "scores.safetensors is not there" in refused(three)


def test_what_a_reader_has_to_know_is_said(three, tmp_path):
    longer = finished(tmp_path / "longer", 0, 0.6, "train.steps=9", steps=9, images_seen=144, output="z")
    notes = "\n".join(compared([*three, longer]).notes)
    assert "trained on unequal numbers of images: longer 144" in notes
    assert "unequal steps: longer 9" in notes
    assert "measured by different outputs" in notes


def test_few_classes_allow_no_verdict(three, monkeypatch):
    for path in three:
        folder = RunFolder(path)
        scores = {**folder.scores(), "labels": LABELS % 5}
        folder.finish(folder.result(), scores)
    comparison = compared(three)
    assert all(one.verdict == "no evidence" for one in comparison.differences)
    assert any("of 5 classes, too few for any verdict" in note for note in comparison.notes)


def test_differing_keys_are_those_that_are_missing_too():
    assert differing_keys([{"a": 1, "b": 2}, {"a": 1, "b": 3, "c": 0}]) == ["b", "c"]


def invoke(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["compare", *arguments], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.stdout


def test_every_format_tells_the_same(three):
    paths = [str(path) for path in three]
    for form in ("rich", "md"):
        told = invoke(*paths, "--format", form)
        for text in (
            "40 classes",
            "hot",
            "±",
            "is better than hot",
            "no evidence of a difference",
            "MAP@R (retrieval/1)",
        ):
            assert text in told, (form, text)
    assert "| hot | 3 | 0." in invoke(*paths, "--format", "md")
    assert json.loads(invoke(*paths, "--format", "json")) == json.loads(json.dumps(compared(three).to_dict()))


def test_names_and_numbers_are_whole_at_80_columns(tmp_path, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    metrics = {f"metric_number_{at}": 0.5 for at in range(7)}
    for name, temperature in (("multi-similarity-with-a-margin", 0.1), ("n" * 60, 0.2)):
        for seed in (0, 1):
            run = finished(tmp_path / "runs" / f"{name}-{seed}", seed, 0.5, f"loss.temperature={temperature}")
            result = json.loads((run / "result.json").read_text())
            result["metrics"]["knn"] = metrics
            (run / "result.json").write_text(json.dumps(result))
    also = [word for name in metrics for word in ("--also", f"knn.{name}")]
    told = invoke(str(tmp_path / "runs"), *also)
    assert "…" not in told
    assert "multi-similarity-with-a-margin" in told
    table = told.partition("Verdict")[0]
    assert all(len(line) <= 80 for line in table.splitlines()[1:])
    for text in (*metrics, "seeds", "images seen", "train s", "parameters", "0.5000 ± 0.0000"):
        assert text in table, text


def test_what_recipes_say_is_escaped(tmp_path):
    name = "<script>alert(1)</script>[red]|"
    paths = [
        finished(tmp_path / f"{text}", 0, 0.5 + at / 10, f"head.embedding_dim={8 + at}") for at, text in enumerate("ab")
    ]
    entries = {f"{name}{at}": find_runs([path])[0] for at, path in enumerate(paths)}
    comparison = compare(entries)
    from metriclab.cli.compare_formats import FORMATS

    assert name in FORMATS["rich"](comparison)
    assert "\\<script>alert(1)\\</script>\\[red]\\|0" in FORMATS["md"](comparison)


def test_options_of_suites_are_refused_for_runs(three):
    done = CliRunner().invoke(main, ["compare", str(three[0]), "--dry-run"])
    assert done.exit_code == 2
    assert "are for suites" in done.output


def test_a_run_leaves_the_scores_of_every_query(tmp_path):
    run(tiny(tmp_path, "train.steps=1"), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    scores, result = folder.scores(), folder.result()
    assert scores["labels"].dtype == scores["items"].dtype == torch.int64
    assert scores["items"].tolist() == list(range(result["items"]["test"]))
    for metric, value in result["metrics"]["retrieval"].items():
        values = scores[f"retrieval.{metric}"]
        assert values.dtype == torch.float32
        measured = values.nansum() if metric == "queries_without_matches" else values.nanmean()
        assert measured.item() == pytest.approx(value, abs=1e-5)
    assert compared([tmp_path / "run"]).entries[0].metrics["retrieval.map_at_r"].per_seed


def test_warnings_of_runs_come_along(tmp_path):
    """Collapse, and runs that end below the encoder they started from, by the metric of the comparison."""
    frozen = {"frozen": {"retrieval": {"map_at_r": 0.45, "r_at_1": 0.4}}}
    paths = [
        finished(tmp_path / f"{name}-{seed}", seed, level, f"loss.temperature={level}", baselines=frozen, warnings=told)
        for name, level, told in (("good", 0.5, []), ("bad", 0.4, ["below_frozen"]), ("flat", 0.44, ["collapse"]))
        for seed in (0, 1)
    ]
    comparison = compared(paths)
    good, flat, bad = comparison.entries
    assert good.warnings == {}
    assert bad.warnings == {"below_frozen": (0, 1)}
    assert flat.warnings == {"collapse": (0, 1), "below_frozen": (0, 1)}
    means = [entry.metrics["retrieval.map_at_r"].mean for entry in (flat, bad)]
    below = "ends below the encoder that it started from, retrieval.map_at_r {:.4f} where the frozen encoder has 0.4500"
    texts = (
        "flat: the embeddings had collapsed at some step (seeds 0, 1 of 2)",
        f"flat: {below.format(means[0])} (seeds 0, 1 of 2)",
        f"bad: {below.format(means[1])} (seeds 0, 1 of 2)",
    )
    assert comparison.warnings == texts
    for form in ("rich", "md", "json"):
        done = CliRunner().invoke(main, ["compare", str(tmp_path), "--format", form])
        assert done.exit_code == 0, done.output
        assert all(text in done.output for text in texts)


def test_groups_or_categories_are_resampled_in_place_of_classes(tmp_path):
    cameras = torch.arange(len(LABELS)) % 20 - 1  # some of them unknown
    columns = {"groups": cameras, "categories": LABELS // 10}
    paths = [
        finished(tmp_path / f"{name}-{seed}", seed, level, f"loss.temperature={temperature}", columns=columns)
        for name, level, temperature in (("one", 0.6, 0.1), ("two", 0.5, 0.2))
        for seed in (0, 1)
    ]
    by_class, by_group, by_category = (compared(paths, resample=by) for by in ("classes", "groups", "categories"))
    assert (by_class.classes, by_category.classes) == (40, 4)
    assert by_group.classes == 19 + int((cameras < 0).sum())  # a query of no known camera stands by itself
    assert by_group.differences[0].value == by_class.differences[0].value
    assert ", by group " in by_group.differences[0].sentence()
    assert any("the queries are of 4 categories, too few for any verdict" in note for note in by_category.notes)
    known, scores = cameras >= 0, [RunFolder(path).scores()["retrieval.map_at_r"].double() for path in paths]
    gap = ((scores[0] + scores[1]) - (scores[2] + scores[3])) / 2
    units = torch.where(known, cameras, 100 + torch.arange(len(cameras)))
    there = gap.isfinite()
    sums = np.array([[float(gap[there & (units == unit)].sum()) for unit in units[there].unique()]])
    counts = np.array([float((there & (units == unit)).sum()) for unit in units[there].unique()])
    (expected,) = class_bootstrap(sums, counts)
    assert astuple(by_group.differences[0].by_class) == pytest.approx(astuple(expected), abs=1e-12)
    done = CliRunner().invoke(main, ["compare", *map(str, paths), "--resample", "groups"])
    assert f"queries of {by_group.classes} groups" in done.output, done.output


def test_runs_that_do_not_tell_their_groups(tmp_path):
    paths = [finished(tmp_path / f"one-{seed}", seed, 0.5) for seed in (0, 1)]
    with pytest.raises(RecipeError) as caught:
        compared(paths, resample="groups")
    assert str(caught.value) == (
        f"{paths[0]} does not say of what groups its queries are, so these cannot be resampled\n  help: its data have "
        "no groups, or an older metriclab ran it: run it again, or resample classes"
    )
