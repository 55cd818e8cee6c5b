"""The result of a run: built once, stopped between its parts, whole without what is measured beside it."""

from __future__ import annotations

import json
import os
import signal

import pytest
import torch
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.datasets import Synthetic
from metriclab.errors import DataError
from metriclab.evaluation import baselines, efficiency, result
from metriclab.recipe import read_recipe
from metriclab.registry import register
from metriclab.report.summary import costs_section
from metriclab.runs.folder import RunFolder
from metriclab.training.interruption import Interrupted
from metriclab.views import PlainViews
from tests.support.tiny import TINY, outcome, run, tiny

ATTENTION_POOLING = ("encoder.model=test_vit", "encoder.global_pool=map", "encoder.image_size=32", "views.size=32")


@pytest.mark.parametrize("steps", [0, 1])
def test_attention_pooling_is_counted_as_well(steps, tmp_path):
    overrides = ["views.name=plain"] if steps == 0 else []
    recipe = tiny(tmp_path, *ATTENTION_POOLING, f"train.steps={steps}", *overrides)
    run(recipe, tmp_path / "run")
    found = RunFolder(tmp_path / "run").result()
    assert found["missing"] == {}
    assert found["cost"]["flops_per_image"] > 1_000_000


def refuse(*_: object, **__: object) -> None:
    raise RuntimeError("no such\ncounter")


def unreachable(*_: object) -> None:
    raise DataError("the weights cannot be fetched", help="go online")


def test_what_is_measured_beside_a_run_may_fail_and_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(efficiency, "FlopCounterMode", refuse)
    monkeypatch.setattr(result, "Peaks", refuse)
    monkeypatch.setattr(baselines, "untrained", unreachable)
    monkeypatch.setattr(baselines, "eigh", refuse)
    statuses = run(tiny(tmp_path, "train.steps=2"), tmp_path / "run")
    found = RunFolder(tmp_path / "run").result()
    reasons = {
        "cost.peak_memory_mb": "RuntimeError: no such counter",
        "cost.flops_per_image": "RuntimeError: no such counter",
        "baselines.pca": "RuntimeError: no such counter",
        "baselines.untrained": "the weights cannot be fetched",
    }
    assert found["missing"] == reasons
    told = [status.message for status in statuses if status.stage == "evaluate" and status.message]
    assert told == [f"{name} is missing from the result: {reason}" for name, reason in reasons.items()]
    assert list(found["baselines"]) == ["raw_pixels"]
    assert [found["cost"][name] for name in ("peak_memory_mb", "peak_gpu_memory_mb", "flops_per_image")] == [None] * 3
    assert 0 <= found["metrics"]["retrieval"]["map_at_r"] <= 1
    shown = dict(costs_section(found).blocks[0].rows)
    assert shown["operations per image"] == "not measured: RuntimeError: no such counter"
    assert shown["PCA of pixels"] == "not measured: RuntimeError: no such counter"


def test_the_table_is_shown_without_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setattr(result, "Peaks", refuse)
    monkeypatch.setattr(baselines, "raw_pixels", refuse)
    (tmp_path / "tiny.toml").write_text(TINY)
    arguments = ["run", str(tmp_path / "tiny.toml"), "--set", "train.steps=1", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    assert "baselines.raw_pixels is missing from the result: RuntimeError: no such counter" in done.stderr
    assert "cost.peak_memory_mb is missing from the result: RuntimeError: no such counter" in done.stderr
    assert "peak memory not measured" in done.stdout
    assert "raw pixels" not in done.stdout


def test_a_network_that_no_step_trained_is_not_headed_trained(tmp_path):
    (tmp_path / "tiny.toml").write_text(TINY)
    for steps, there in ((0, True), (1, False)):
        arguments = ["run", str(tmp_path / "tiny.toml"), "--set", f"train.steps={steps}", "--out"]
        done = CliRunner().invoke(main, [*arguments, str(tmp_path / f"run-{steps}")], env={"COLUMNS": "120"})
        assert done.exit_code == 0, done.output
        assert ("not trained" in done.stdout) is there


@pytest.mark.parametrize("part", ["embedding", "scores", "baselines"])
def test_a_signal_in_the_last_evaluation_stops_it(part, tiny_run, tmp_path, monkeypatch):
    """After the part that is under way; nothing is lost."""
    reference = tiny(tmp_path)
    asked: list[bool] = []

    def asking(function):
        def call(*arguments, **options):
            asked.append(True)
            return function(*arguments, **options)

        return call

    with monkeypatch.context() as patched:
        if part == "embedding":
            patched.setattr(result, "flops_per_image", asking(result.flops_per_image))
        elif part == "scores":
            patched.setattr(result.TestProtocol, "scores", asking(result.TestProtocol.scores))
        else:
            patched.setattr(baselines, "eigh", asking(baselines.eigh))
        with pytest.raises(Interrupted):
            run(reference, tmp_path / "run", stop=lambda: bool(asked))
    assert not RunFolder(tmp_path / "run").result_file.exists()
    run(reference, tmp_path / "run", resume=True)
    assert outcome(tmp_path / "run")["result"] == outcome(tiny_run)["result"]


def test_the_command_stops_in_the_last_evaluation_and_says_how_to_go_on(tmp_path, monkeypatch):
    def interrupted(*arguments):
        os.kill(os.getpid(), signal.SIGTERM)
        return embed_flops(*arguments)

    embed_flops = result.flops_per_image
    monkeypatch.setattr(result, "flops_per_image", interrupted)
    (tmp_path / "tiny.toml").write_text(TINY)
    arguments = ["run", str(tmp_path / "tiny.toml"), "--set", "train.steps=1", "--out", str(tmp_path / "run")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 130, done.output
    assert "stopped and saved; continue with: metriclab run" in done.stderr
    monkeypatch.undo()
    done = CliRunner().invoke(main, [*arguments[:2], "--out", str(tmp_path / "run"), "--resume", *arguments[2:4]])
    assert done.exit_code == 0, done.output


def test_a_run_builds_each_evaluator_once_and_opens_the_data_of_transfer_once(tmp_path):
    opened: list[str] = []

    @register("dataset", "test-counted")
    class Counted:
        def __init__(self, split: str, /) -> None:
            opened.append(split)
            self._choose(split)

        def _choose(self, split: str) -> None:
            data = Synthetic(split, size=12, classes=3, per_class=4, disjoint=True)
            self.labels, self.classes, self.names = data.labels, data.classes, data.names
            self.fingerprint, self.images = data.fingerprint, data.images

        def with_split(self, split: str, /) -> Counted:
            other = object.__new__(Counted)
            other._choose(split)
            return other

    path = tmp_path / "transfer.toml"
    path.write_text(TINY + '\n[[evaluate]]\nname = "transfer"\ndata = { name = "test-counted" }\n')
    run(read_recipe(path, ["train.steps=1"]), tmp_path / "run")
    assert opened == ["test"]
    found = RunFolder(tmp_path / "run").result()
    assert found["fingerprint"] == RunFolder(tmp_path / "run").manifest()["benchmark"]
    assert set(found["fingerprint"]["evaluate"]["transfer"]["fingerprint"]) == {"test", "train"}


def test_views_are_made_in_float32_whatever_the_precision(tmp_path):
    """In training, in chunks of it, on val and on test, and for an evaluator's changes."""
    seen: list[bool] = []

    @register("views", "test-mixing")
    class Mixing:
        count = 2

        def __init__(self, *, size: int) -> None:
            self.plain = PlainViews(size=size)

        def test(self, images, /):
            seen.append(torch.is_autocast_enabled("cpu"))
            view = self.plain.test(images)
            mixed = torch.eye(view.shape[2]) @ view  # a matrix product, which autocast would make in bfloat16
            assert mixed.dtype == torch.float32
            assert torch.equal(mixed, view)
            return mixed

        def __call__(self, images, random_keys, /):
            view = self.test(images)
            return view, 1 - view

    path = tmp_path / "mixing.toml"
    more = '\n[[evaluate]]\nname = "robustness"\ncorruptions = ["noise"]\nseverities = [1]\n'
    path.write_text(
        TINY.replace('[views]\nname = "simclr"\nsize = 8', '[views]\nname = "test-mixing"\nsize = 32') + more
    )
    for number, more in enumerate((["train.chunk=5"], [])):
        recipe = read_recipe(path, ["train.precision=bfloat16", "train.steps=1", *more])
        run(recipe, tmp_path / f"run-{number}")
    assert seen
    assert not any(seen)


def test_the_missing_parts_stand_in_the_file(tmp_path):
    run(tiny(tmp_path, "train.steps=1"), tmp_path / "run")
    assert json.loads(RunFolder(tmp_path / "run").result_file.read_text())["missing"] == {}
