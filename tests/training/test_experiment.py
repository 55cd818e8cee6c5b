"""A run from recipe to result."""

from __future__ import annotations

import json
import math

import numpy as np
import pytest
import torch
from PIL import Image

from metriclab.assembly.assemble import assemble
from metriclab.assembly.embedder import load
from metriclab.assembly.splits import load_splits
from metriclab.core.network import Network
from metriclab.core.protocols import Loss
from metriclab.errors import RecipeError
from metriclab.methods.simclr import SimCLR
from metriclab.recipe import read_recipe
from metriclab.registry import build, register
from metriclab.runs.files import digest_of
from metriclab.runs.folder import RunFolder
from tests.support.tiny import outcome, run, tiny


def test_the_result_holds_what_others_rely_on(tiny_run):
    result = json.loads((tiny_run / "result.json").read_text())
    assert set(result["metrics"]) == {"retrieval", "retrieval-z"}
    assert set(result["baselines"]) == {"raw_pixels", "pca", "untrained"}
    assert 0 <= result["metrics"]["retrieval"]["map_at_r"] <= 1
    gpu = result["cost"].pop("peak_gpu_memory_mb")
    assert gpu is None or gpu > 0
    assert set(result["cost"]) == {
        "train_seconds",
        "images_per_second",
        "peak_memory_mb",
        "parameters",
        "flops_per_image",
        "embedded_per_second",
    }
    assert all(value > 0 for value in result["cost"].values())
    assert result["steps"] == 7
    assert result["images_seen"] == 7 * 16
    assert result["fingerprint"]["digest"] == digest_of(
        {k: v for k, v in result["fingerprint"].items() if k != "digest"}
    )
    assert "leave" in result["definitions"]["retrieval"]["map_at_r"] or result["definitions"]["retrieval"]["map_at_r"]


def test_a_run_can_be_measured_by_what_its_head_makes(tiny_run, tmp_path):
    run(tiny(tmp_path, "train.output=z"), tmp_path / "run")
    by_z, by_h = outcome(tmp_path / "run")["result"], outcome(tiny_run)["result"]
    assert by_z["output"] == "z"
    assert by_z["best_step"] == by_h["best_step"] == 7
    assert by_z["metrics"]["retrieval"] == by_h["metrics"]["retrieval-z"]
    assert by_z["metrics"]["retrieval-h"] == by_h["metrics"]["retrieval"]
    assert by_z["baselines"]["raw_pixels"] == by_h["baselines"]["raw_pixels"]
    assert load(tmp_path / "run").output == "z"


def test_losses_are_told_the_width_and_the_classes_of_training(tmp_path):
    @register("loss", "test-told")
    def told(width: int, classes: torch.Tensor, /) -> object:
        given.append((width, classes.tolist()))
        return build("loss", "contrastive")

    given: list[tuple[int, list[int]]] = []
    data = load_splits(recipe := tiny(tmp_path, "loss.name=test-told")).train
    assemble(recipe, data)
    assert given == [(8, sorted(set(data.labels.tolist())))]


def test_a_recipe_that_cannot_run_leaves_no_folder_behind(tmp_path):
    with pytest.raises(RecipeError, match=r"sampler\.batch_size = 100000 is larger than the data set"):
        run(tiny(tmp_path, "sampler.batch_size=100000"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_folder_without_labels_trains_and_says_that_nothing_can_be_measured(tmp_path):
    noise = np.random.default_rng(0)
    (tmp_path / "flat").mkdir()
    for number in range(30):
        Image.fromarray(noise.integers(0, 256, (9, 12, 3), dtype=np.uint8)).save(tmp_path / "flat" / f"{number}.png")
    steps = run(
        tiny(tmp_path, "data.name=folder", f"data.root='{tmp_path / 'flat'}'", "train.steps=1"), tmp_path / "run"
    )
    assert any("the test split has no labels" in (step.message or "") for step in steps)
    result = RunFolder(tmp_path / "run").result()
    assert result["metrics"]["retrieval"]["map_at_r"] is None
    assert result["best_step"] == 1


def test_a_select_that_is_no_metric_is_refused(tmp_path):
    with pytest.raises(RecipeError, match=r"train\.select = 'retrieval\.map_at_q' is no metric") as caught:
        run(tiny(tmp_path, "train.select=retrieval.map_at_q"), tmp_path / "run")
    assert caught.value.help == "did you mean 'retrieval.map_at_r'?"


def test_images_too_small_for_the_encoder_are_found_before_anything_is_written(tmp_path):
    with pytest.raises(RecipeError, match=r"the encoder cannot take images of 2 x 2 pixels") as caught:
        run(tiny(tmp_path, "encoder.model=test_convnext", "views.size=2"), tmp_path / "run")
    assert caught.value.help == "set a larger size in [views]"
    assert not (tmp_path / "run").exists()


def test_small_crops_too_small_for_the_encoder_are_found_as_well(tmp_path):
    crops = ("views.name=multi-crop", "views.size=32", "views.small_size=16")
    with pytest.raises(RecipeError, match=r"the encoder cannot take images of 16 x 16 pixels"):
        run(tiny(tmp_path, "encoder.model=test_convnext", *crops), tmp_path / "run")


def test_views_of_several_sizes_train(tmp_path):
    steps = run(tiny(tmp_path, "views.name=multi-crop", "views.size=10", "views.small_size=6"), tmp_path / "run")
    assert steps[-1].done == 7


def test_a_device_that_is_not_there_is_refused(tmp_path):
    missing = "mps" if torch.cuda.is_available() else "cuda"
    with pytest.raises(RecipeError, match=f"train.device = '{missing}', but torch finds no such device here"):
        run(tiny(tmp_path, f"train.device={missing}"), tmp_path / "run")


def test_the_same_seed_gives_the_same_run_and_another_seed_does_not(tiny_run, tmp_path):
    run(tiny(tmp_path), tmp_path / "again")
    run(tiny(tmp_path, "train.seed=1"), tmp_path / "other")
    assert outcome(tmp_path / "again") == outcome(tiny_run)
    assert outcome(tmp_path / "other")["metrics"] != outcome(tiny_run)["metrics"]


def test_every_step_is_logged_with_its_health(tiny_run):
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    steps = [line for line in lines if "loss" in line]
    assert [line["step"] for line in steps] == list(range(1, 8))
    assert {
        "loss",
        "gradient_norm",
        "learning_rate",
        "spread",
        "anchors_without_positives",
        "zero_rows",
        "seconds",
    } <= set(steps[0])
    assert any("val.retrieval.map_at_r" in line for line in lines)


def test_the_run_folder_holds_the_complete_recipe(tiny_run, tmp_path):
    assert read_recipe(tiny_run / "recipe.toml").as_dict() == tiny(tmp_path).as_dict()
    manifest = RunFolder(tiny_run).manifest()
    assert manifest["plugins"] == {"metriclab-toolkit": "0.1.0"}
    assert torch.__version__.startswith(manifest["versions"]["torch"])
    assert set(manifest["data"]) == {"train", "val", "test"}


def test_the_best_checkpoint_is_chosen_on_val(tiny_run):
    lines = [json.loads(line) for line in (tiny_run / "metrics.jsonl").read_text().splitlines()]
    on_val = {line["step"]: line["val.retrieval.map_at_r"] for line in lines if "val.retrieval.map_at_r" in line}
    best = RunFolder(tiny_run).result()["best_step"]
    assert on_val[best] == max(on_val.values())


def test_a_baseline_is_measured_without_training(tmp_path):
    recipe = tmp_path / "pixels.toml"
    recipe.write_text(
        '[data]\nname = "synthetic"\n[views]\nname = "plain"\nsize = 8\n[encoder]\nname = "pixels"\nsize = 8\n'
        '[method]\nname = "none"\n[train]\nsteps = 0\n'
    )
    run(read_recipe(recipe), tmp_path / "run", quiet=True)
    result = RunFolder(tmp_path / "run").result()
    assert result["metrics"]["retrieval"] == result["baselines"]["raw_pixels"]["retrieval"]
    assert "untrained" not in result["baselines"]


def test_training_without_a_method_is_refused(tmp_path):
    recipe = tmp_path / "none.toml"
    recipe.write_text(
        '[data]\nname = "synthetic"\n[views]\nname = "plain"\nsize = 8\n[sampler]\nname = "shuffled"\nbatch_size = 8\n'
        '[encoder]\nname = "timm"\nmodel = "test_resnet"\n[method]\nname = "none"\n[train]\nsteps = 1\n'
    )
    with pytest.raises(RecipeError, match="method 'none' does not train"):
        run(read_recipe(recipe), tmp_path / "run", quiet=True)


@pytest.mark.slow
def test_bfloat16_trains_to_nearly_the_same_loss(tmp_path):
    # Not the tiny ResNet at 8 px: there a convolution's weight gradient in bfloat16 was NaN now and then (torch 2.14,
    # a CPU with AMX), with a finite gradient coming in. The cause is not found; the alarm stops such a run.
    for name in ("bfloat16", "float32"):
        larger = ('encoder.model="test_convnext"', "views.size=32", "train.steps=3")
        run(tiny(tmp_path, f'train.precision="{name}"', *larger), tmp_path / name)
    halves, wholes = (outcome(tmp_path / name)["metrics"] for name in ("bfloat16", "float32"))
    assert halves[0]["loss"] == pytest.approx(wholes[0]["loss"], rel=0.05)
    assert all(math.isfinite(line["loss"]) for line in halves if "loss" in line)


def test_clipping_bounds_the_step_and_logs_the_norm_before_it(tiny_run, tmp_path):
    run(tiny(tmp_path, "train.clip_gradient=1e-9", "optimizer.weight_decay=0.0"), tmp_path / "run")
    clipped, free = (outcome(folder)["metrics"] for folder in (tmp_path / "run", tiny_run))
    assert clipped[0]["gradient_norm"] == pytest.approx(free[0]["gradient_norm"])
    assert clipped[0]["gradient_norm"] > 1e-6


@pytest.mark.parametrize(("rule", "factor"), [("none", 1), ("linear", 16 / 256), ("sqrt", 4)])
def test_the_learning_rate_is_scaled_by_the_stated_rule(rule, factor, tmp_path):
    run(
        tiny(tmp_path, f'train.learning_rate_scaling="{rule}"', "schedule.name=constant", "train.steps=1"),
        tmp_path / "r",
    )
    assert outcome(tmp_path / "r")["metrics"][0]["learning_rate"] == pytest.approx(0.05 * factor)


@pytest.mark.parametrize("loss", ["contrastive", "triplet"])
def test_any_loss_over_rows_trains_simclr(loss, tmp_path):
    run(tiny(tmp_path, f"loss.name={loss}"), tmp_path / "run")
    assert math.isfinite(outcome(tmp_path / "run")["metrics"][0]["loss"])


def test_a_method_that_asks_is_told_how_long_the_run_is(tmp_path):
    @register("method", "asking-method")
    class Asking(SimCLR):
        """SimCLR that keeps the number of steps."""

        def __init__(self, network: Network, total_steps: int, /, *, loss: Loss) -> None:
            super().__init__(network, loss=loss)
            self.total_steps = total_steps

    recipe = tiny(tmp_path, "method.name=asking-method", "train.steps=5")
    assert assemble(recipe, load_splits(recipe).train).method.total_steps == 5


def test_the_encoder_is_compiled_where_the_recipe_wants_it(tmp_path, monkeypatch):
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda module: compiled.append(module))
    for wanted in ("false", "true"):
        recipe = tiny(tmp_path, f"train.compile={wanted}")
        training = assemble(recipe, load_splits(recipe).train)
    assert compiled == [training.method.network.encoder]
