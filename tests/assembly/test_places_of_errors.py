"""Errors that only the built model shows: they are told where the key stands, and before a run folder exists."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
import timm

from metriclab.assembly.rehearsal import rehearse
from metriclab.core.network import Network
from metriclab.core.protocols import Loss
from metriclab.errors import StorageError
from metriclab.methods.simclr import SimCLR
from metriclab.recipe import Recipe, RecipeProblems, read_recipe
from metriclab.registry import TableOf, register
from metriclab.runs.folder import RunFolder
from metriclab.trackers import JsonLines
from metriclab.training.experiment import experiment
from tests.support.tiny import TINY, run, tiny

ENCODER = '[encoder]\nname = "timm"\n'
PML = 'name = "pml"\nloss = "TripletMarginLoss"\nparams = { nothing = 1 }\n'
TEACHER = '[method]\nname = "asks"\n\n[method.teacher]\nname = "timm"\nmodel = "test_resnet"\ntrainable = "last:99"\n'
LAYER_DECAY = '[optimizer]\nname = "sgd"\nlayer_decay = 0.5\n'


def changed(folder: Path, old: str, new: str, *overrides: str) -> Recipe:
    path = folder / "tiny.toml"
    path.write_text(TINY.replace(old, new))
    return read_recipe(path, overrides)


@pytest.mark.parametrize(
    ("old", "new", "overrides", "place", "text"),
    [
        (ENCODER, ENCODER + 'trainable = "last:99"\n', (), "{file}:16:13", 'encoder.trainable = "last:99": '),
        (ENCODER, ENCODER, ("encoder.trainable=last:99",), "--set encoder.trainable=last:99", "has 5 blocks"),
        ('[optimizer]\nname = "sgd"\n', LAYER_DECAY, ("encoder.trainable=none",), "{file}:31:15", "layer_decay = 0.5"),
        (ENCODER, ENCODER + "unfreeze_at = 3\n", (), "{file}:16:15", "encoder.unfreeze_at = 3 has nothing to"),
        ('name = "nt-xent"\n', PML, (), "{file}:26:22", "TripletMarginLoss has no parameter 'nothing'"),
        ("[optimizer]", '[memory]\nname = "proxies"\n\n[optimizer]', (), "{file}:27:8", "holds classes"),
    ],
)
def test_what_only_the_model_shows_is_told_at_its_place(tmp_path, old, new, overrides, place, text):
    recipe = changed(tmp_path, old, new, *overrides)
    with pytest.raises(RecipeProblems) as caught:
        list(experiment(recipe, RunFolder(tmp_path / "run")))
    (found,) = [str(error) for error in rehearse(recipe).problems]
    assert found == str(caught.value)
    assert found.startswith(place.format(file=tmp_path / "tiny.toml"))
    assert text in found
    assert not (tmp_path / "run").exists()


def refuse(*_: object) -> None:
    raise StorageError("no account", help="log in")


@pytest.mark.parametrize("component", ["tracker", "teacher"])
def test_what_can_be_built_only_for_this_run_leaves_no_folder_either(tmp_path, monkeypatch, component):
    recipe = tiny(tmp_path)
    if component == "tracker":  # a run folder has to be there for it
        monkeypatch.setattr(JsonLines, "_append", refuse)
    else:  # what a method asks for before the first step
        monkeypatch.setattr(SimCLR, "prepare", refuse, raising=False)
    with pytest.raises(StorageError, match="no account"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


@register("method", "asks")
class Asks(SimCLR):
    """SimCLR that has an encoder besides."""

    def __init__(
        self, network: Network, /, *, loss: Loss, teacher: Annotated[dict[str, object], TableOf("encoder")]
    ) -> None:
        super().__init__(network, loss=loss)


def test_an_encoder_within_a_component_is_told_where_its_own_table_stands(tmp_path):
    path = tmp_path / "tiny.toml"
    student = TINY.replace(ENCODER, ENCODER + 'trainable = "all"\n')
    path.write_text(student.replace('[method]\nname = "simclr"\n', TEACHER))
    recipe = read_recipe(path)
    with pytest.raises(RecipeProblems) as caught, recipe.telling_places():
        recipe.components["method"].inner("encoder", recipe.components["method"].params["teacher"]).build()
    assert str(caught.value).startswith(f"{path}:33:13: encoder.trainable = \"last:99\": 'test_resnet' has 5 blocks")


def test_nothing_is_fetched_for_a_check_also_for_tables_within(tmp_path, monkeypatch):
    path = tmp_path / "tiny.toml"
    transfer = (
        '\n[[evaluate]]\nname = "transfer"\ndata = { name = "torchvision", dataset = "MNIST", download = true }\n'
    )
    teacher = TEACHER.replace('trainable = "last:99"', "pretrained = true")
    path.write_text(TINY.replace('[method]\nname = "simclr"\n', teacher) + transfer)
    fetched: list[bool] = []
    create = timm.create_model
    monkeypatch.setattr(
        timm, "create_model", lambda *a, pretrained, **b: (fetched.append(pretrained), create(*a, **b))[1]
    )
    monkeypatch.setattr("urllib.request.urlopen", refuse)
    problems, notes = rehearse(read_recipe(path))
    assert problems == []
    assert fetched == [False, False]
    assert len(notes) == 1
    assert notes[0].startswith("the data are not here, and what depends on them is not checked: ")
    path.write_text(TINY.replace('[method]\nname = "simclr"\n', TEACHER))
    (problem,) = rehearse(read_recipe(path)).problems
    assert str(problem).startswith(f"{path}:32:13: encoder.trainable")
