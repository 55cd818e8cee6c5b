"""The moving average of weights: its formula, and that it is what is measured, saved, continued and used."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from timm.utils.model_ema import ModelEmaV3
from torch import Tensor, nn

from metriclab.assembly.assemble import Training, assemble
from metriclab.assembly.embedder import load
from metriclab.assembly.splits import load_splits
from metriclab.encoders.timm import TimmEncoder
from metriclab.recipe import Recipe
from metriclab.runs import checkpoint as checkpoints
from metriclab.runs.folder import RunFolder
from metriclab.testing import Share, two_ranks
from metriclab.training.averaging import WeightAverage
from metriclab.training.experiment import experiment
from metriclab.training.fit import fit
from metriclab.training.interruption import Interrupted
from tests.support.tiny import outcome, run, tiny

EMA = ("train.ema=0.6", "train.steps=5")
UNFROZEN_LATER = (*EMA, "encoder.trainable=last:1", "encoder.unfreeze_at=3")


def weights(training: Training) -> dict[str, Tensor]:
    return {name: one.clone() for name, one in training.method.get_submodule("network").state_dict().items()}


def by_formula(recipe: Recipe) -> Iterator[dict[str, Tensor]]:
    """The average after each step, in float64 and a loop over tensors."""
    training = assemble(recipe, load_splits(recipe).train)
    average: dict[str, Tensor] = {}
    for step in fit(training):
        keep = min(recipe.train.ema, 1 - step.done ** (-2 / 3))
        for name, own in weights(training).items():
            if own.is_floating_point():
                own = own.double()
                average[name] = keep * average.get(name, own) + (1 - keep) * own
            else:
                average[name] = own
        yield dict(average)


def same(found: dict[str, Tensor], expected: dict[str, Tensor]) -> None:
    assert found.keys() == expected.keys()
    for name, tensor in found.items():
        torch.testing.assert_close(tensor.to(expected[name].dtype), expected[name], atol=1e-6, rtol=1e-6)


def test_it_is_the_formula_for_weights_and_running_statistics(tmp_path: Path):
    recipe = tiny(tmp_path, *EMA)
    training = assemble(recipe, load_splits(recipe).train)
    average = WeightAverage(training)
    for step, expected in zip(fit(training), by_formula(recipe), strict=True):
        average.update(step.done)
        before = weights(training)
        with average.swapped():
            same(weights(training), expected)
        assert all(torch.equal(tensor, before[name]) for name, tensor in weights(training).items())
    moved = [
        name for name, tensor in before.items() if not torch.equal(tensor.to(expected[name].dtype), expected[name])
    ]
    assert "encoder.model.bn1.running_var" in moved
    assert not any("num_batches_tracked" in name for name in moved)


def test_it_is_what_is_measured_saved_and_used(tmp_path: Path):
    recipe = tiny(tmp_path, *EMA, "train.keep_checkpoints=true")
    run(recipe, tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    after = list(by_formula(recipe))
    best = folder.result()["best_step"]
    same(load(folder.path).network.state_dict(), after[best - 1])
    same(load(folder.path, step=5).network.state_dict(), after[4])
    # An encoder that starts from the run starts from what was measured of it.
    file = checkpoints.tensors_file(folder.checkpoints, 5)
    encoder = TimmEncoder(model="test_resnet", weights=str(file))
    same(encoder.state_dict(), {name[8:]: one for name, one in after[4].items() if name.startswith("encoder.")})
    # val was measured by the average of its step, and the result is that of the best.
    metrics = [line for line in folder.logged() if "val.retrieval.map_at_r" in line]
    without = tmp_path / "without"
    run(tiny(tmp_path, "train.steps=5"), without)
    others = [line for line in RunFolder(without).logged() if "val.retrieval.map_at_r" in line]
    assert [line["step"] for line in metrics] == [line["step"] for line in others]
    assert metrics != others
    assert [line["loss"] for line in folder.logged() if "loss" in line] == [
        line["loss"] for line in RunFolder(without).logged() if "loss" in line
    ]  # the average has no part in training


def test_a_run_that_goes_on_has_the_weights_that_train(tmp_path: Path):
    recipe = tiny(tmp_path, *EMA)
    for progress in experiment(recipe, RunFolder(tmp_path / "run")):
        if progress.done == 5:
            break
    saved = checkpoints.read_checkpoint(tmp_path / "run" / "checkpoints", 4)
    training = assemble(recipe, load_splits(recipe).train)
    for _, _expected in zip(range(4), fit(training), strict=False):
        pass
    for name, tensor in weights(training).items():
        assert torch.equal(saved.tensors[f"trained.{name}"], tensor), name


@pytest.mark.slow
@pytest.mark.parametrize("stop", [1, 2, 3, 4])
@pytest.mark.parametrize("options", [EMA, UNFROZEN_LATER], ids=["ema", "unfreeze_at"])
def test_a_run_that_was_stopped_ends_with_the_same_bytes(options: tuple[str, ...], stop: int, tmp_path: Path):
    recipe = tiny(tmp_path, *options, "train.keep_checkpoints=true")
    run(recipe, tmp_path / "whole")
    asked = iter(range(1, 100))
    with pytest.raises(Interrupted):
        run(recipe, tmp_path / "run", stop=lambda: next(asked) >= stop)
    run(recipe, tmp_path / "run", resume=True)
    ended, whole = outcome(tmp_path / "run"), outcome(tmp_path / "whole")
    assert ended["result"] == whole["result"]
    assert ended["metrics"] == whole["metrics"]
    last = f"step-{5:010d}"
    assert ended["checkpoints"][last] == whole["checkpoints"][last]


def averaged(share: Share, folder: Path, *options: str) -> dict[str, Tensor]:
    recipe = tiny(folder / str(share.rank), *options)
    training = assemble(recipe, load_splits(recipe).train)
    training.method.double()
    average = WeightAverage(training)
    for step in fit(training):
        average.update(step.done)
    average.swap()
    return {name: tensor for name, tensor in weights(training).items() if tensor.is_floating_point()}


@pytest.mark.slow
def test_every_rank_has_the_average_of_one_process(tmp_path: Path):
    for rank in range(3):
        (tmp_path / str(rank)).mkdir()
    two_ranks(averaged, tmp_path, *UNFROZEN_LATER)


@pytest.mark.parametrize(
    "options", [["train.steps=0"], ["train.steps=1", "encoder.name=pixels", "encoder.size=8", "head.name=none"]]
)
def test_nothing_to_average_is_no_fault(options: list[str], tmp_path: Path):
    recipe = tiny(tmp_path, "train.ema=0.9", "loss.learnable_temperature=true", *options)
    assert run(recipe, tmp_path / "run")[-1].stage == "finished"


def test_a_layer_under_two_names_is_averaged_and_swapped_once():
    layer = nn.Linear(2, 2)
    average = WeightAverage.__new__(WeightAverage)
    average.network = nn.Sequential(layer, layer)
    average.average = ModelEmaV3(average.network, decay=0.999, use_warmup=True)
    before = layer.weight.detach().clone()
    with torch.no_grad():
        layer.weight += 1
    average.update(8)  # 1 - 8^(-2/3) is 3/4
    with average.swapped():
        torch.testing.assert_close(layer.weight.detach(), before + 0.25)
    torch.testing.assert_close(layer.weight.detach(), before + 1)
