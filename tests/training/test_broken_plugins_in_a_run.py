"""A plugin that is not what its protocol asks for is told by name as the run builds it, before the first step."""

from __future__ import annotations

from pathlib import Path

import pytest

from metriclab.assembly.rehearsal import rehearse
from metriclab.errors import PluginError, RecipeError
from metriclab.recipe import read_recipe
from metriclab.registry import load_plugin_file, registry
from tests.support.tiny import run, tiny

PLUGIN = Path(__file__).parent / "broken_plugin.py"


@pytest.fixture(autouse=True)
def _plugin():
    before = {**registry.declared}, {**registry.definitions}
    load_plugin_file(PLUGIN)
    yield
    for memory, content in zip((registry.declared, registry.definitions), before, strict=True):
        memory.clear()
        memory.update(content)


CASES = {
    "data.name=int32": "the labels of Int32 (train) are int32 of shape (48,), expected a numpy array of int64 of one "
    "axis",
    "data.name=other-val": "the labels of Int32 (val) are int32 of shape (48,), expected a numpy array of int64 of one "
    "axis",
    "data.name=unnamed": "Unnamed (train) has 0 names for 48 items",
    "views.name=half": "Half: view 0 is torch.float16, expected float32",
    "views.name=miscounts": "Miscounts returns 1 views, and says count = 2",
    "sampler.name=floats": "the first batch of Floats.epoch(0) is float64 of shape (4,), expected int64 of one axis",
    "encoder.name=wide": "Wide gives shape (1, 3) for one image, expected (1, out_features = 4)",
    "head.name=function": "function is no nn.Module: it could be neither trained nor saved",
    "loss.name=number": "float has no function `__call__`, which a run calls",
    "method.name=forgets": "Forgets has no module `network`, from which a run takes encoder and head: keep what it is "
    "given",
    "optimizer.name=nameless": "a group of SGD has no 'name', from which the run sets lr = initial_lr x schedule",
    "schedule.name=negative": "the schedule gives -1.0 in step 0 of 7, expected a number, 0 or more",
    "evaluate.name=numbers": "'hit' of Numbers is a float, not a Score",
    "evaluate.name=asks-encoder": "'hit' of AsksEncoder is a float, not a Score",
    "track.name=endless": "Endless has no function `close`, which a run calls",
}
"""What the recipe names -> what is said of it."""


@pytest.mark.parametrize("override", CASES)
def test_it_is_told_by_name(override, tmp_path):
    table, name = override.split(".name=")
    if table in ("evaluate", "track"):
        tiny(tmp_path)
        with (tmp_path / "tiny.toml").open("a") as file:
            file.write(f'[[{table}]]\nname = "{name}"\n')
        recipe = read_recipe(tmp_path / "tiny.toml")
    else:
        recipe = tiny(tmp_path, override)
    with pytest.raises(PluginError) as caught:
        run(recipe, tmp_path / "run")
    kind = {"data": "dataset", "evaluate": "evaluator", "track": "tracker"}.get(table, table)
    assert caught.value.message == f"{kind} '{name}' of broken_plugin.py file: {CASES[override]}"
    assert caught.value.help == "its author must mend that; `metriclab check-plugin broken_plugin.py` tests all of it"


def test_an_evaluator_that_breaks_its_promise_on_many_rows_alone(tmp_path):
    tiny(tmp_path)
    with (tmp_path / "tiny.toml").open("a") as file:
        file.write('[[evaluate]]\nname = "late"\n')
    with pytest.raises(
        PluginError,
        match=r"^broken_plugin\.py file: 'hit' of evaluator 'late' has per_query of shape \(12,\) for \d+ queries",
    ):
        run(read_recipe(tmp_path / "tiny.toml", ["train.steps=1"]), tmp_path / "run")


def test_a_select_of_an_evaluator_that_cannot_be_tried_on_a_few_rows_is_left_to_the_run(tmp_path):
    tiny(tmp_path)
    with (tmp_path / "tiny.toml").open("a") as file:
        file.write('[[evaluate]]\nname = "needs-many"\n')
    for metric in ("one", "two"):
        recipe = read_recipe(tmp_path / "tiny.toml", [f"train.select=needs-many.{metric}", "train.steps=1"])
        assert rehearse(recipe).problems == []
    with pytest.raises(RecipeError, match=r"train\.select = 'needs-many\.two' is no metric of this recipe"):
        run(recipe, tmp_path / "run")


def test_a_memory_and_a_miner(tmp_path):
    recipe = tiny(tmp_path, "method.name=xbm", "memory.name=narrow")
    with pytest.raises(PluginError, match=r"memory 'narrow' of .*: Narrow holds rows of 3 dimensions, and was given 8"):
        run(recipe, tmp_path / "run")
    recipe = tiny(tmp_path, "method.name=supervised", "miner.name=grows")
    with pytest.raises(PluginError, match=r"miner 'grows' of .*: function adds negative pairs on a few pairs"):
        run(recipe, tmp_path / "run")


def test_a_loss_that_is_no_scalar_is_told_in_the_first_step(tmp_path):
    with pytest.raises(PluginError) as caught:
        run(tiny(tmp_path, "loss.name=each"), tmp_path / "run")
    assert caught.value.message == "Each returns shape (32,), expected a scalar"


def test_a_good_plugin_is_left_alone(tmp_path):
    run(tiny(tmp_path, "data.name=good", "train.steps=1"), tmp_path / "run")
