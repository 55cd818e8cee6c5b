"""The classes of pytorch-metric-learning in recipes: their parameters, mistakes in them, and what becomes of each.

`UPDATE_GOLDEN=1 pytest tests/losses/test_pml_classes.py` writes the tables of docs/pytorch-metric-learning.md anew.
"""

from __future__ import annotations

import os
import re
from importlib.metadata import version
from pathlib import Path

import pytest
import torch

from metriclab.assembly.assemble import build_method
from metriclab.assembly.learning_rates import optimized_modules
from metriclab.errors import RecipeError
from metriclab.losses import pml_classes
from metriclab.losses.pml_classes import names, parameters
from metriclab.recipe import RecipeProblems, read_recipe
from metriclab.registry import build
from metriclab.testing.cases import edges, evaluate
from tests.losses.test_pml import pml
from tests.support.tiny import TINY, run

PAGE = Path(__file__).parents[2] / "docs" / "pytorch-metric-learning.md"
EXAMPLES = {"RankedListLoss": {"margin": 0.4, "Tn": 1}}
"""Parameters of losses that need some."""

pytestmark = [
    pytest.mark.filterwarnings("ignore:Using a non-tuple sequence:UserWarning"),  # of HistogramLoss
    pytest.mark.filterwarnings("ignore:__array_wrap__ must accept:DeprecationWarning"),  # of LargeMarginSoftmaxLoss
]


def mistake(loss: str, params: dict[str, object] | None = None, **more: object) -> str:
    with pytest.raises(RecipeError) as caught:
        pml(loss, params, **more)
    return str(caught.value)


def test_mistakes_are_told_by_their_place():
    common = "embedding_regularizer, embedding_reg_weight, reducer, distance"
    assert mistake("NTXentLoss", {"temprature": 0.1}) == (
        "loss.params.temprature: NTXentLoss has no parameter 'temprature'\n"
        f"  help: did you mean 'temperature'? NTXentLoss takes temperature, {common}"
    )
    assert mistake("CircleLoss", {"m": "0.4", "temperature": 1}) == (
        'loss.params.m of CircleLoss is "0.4", where its default is 0.4\n'
        "loss.params.temperature: CircleLoss has no parameter 'temperature'\n"
        f"  help: CircleLoss takes m, gamma, {common}"
    )
    assert mistake("RankedListLoss", {"Tn": 1}) == "RankedListLoss needs loss.params.margin\n  help: add margin = ..."
    assert mistake("ArcFaceLoss", {"num_classes": 8}) == (
        "loss.params.num_classes of ArcFaceLoss is given by the run\n  help: remove num_classes"
    )
    assert mistake("ArcFaceLoss", {"weight_init_func": "normal"}) == (
        "loss.params.weight_init_func of ArcFaceLoss is a function, which no recipe can hold\n"
        "  help: remove weight_init_func"
    )
    assert mistake("ContrastiveLoss", {"distance": 2}) == (
        "loss.params.distance must be the name of a distance of pytorch-metric-learning, or a table with it, not 2\n"
        '  help: write "SNRDistance", or { name = "SNRDistance", ... } with its parameters'
    )
    assert "has no distance 'CosinSimilarity'\n  help: did you mean 'CosineSimilarity'" in mistake(
        "ContrastiveLoss", {"distance": "CosinSimilarity"}
    )
    assert "loss.params.distance.powr: LpDistance has no parameter 'powr'" in mistake(
        "ContrastiveLoss", {"distance": {"name": "LpDistance", "powr": 2}}
    )
    assert "loss.miner_params.type: TripletMarginMiner has no parameter 'type'" in mistake(
        "TripletMarginLoss", miner="TripletMarginMiner", miner_params={"type": "hard"}
    )
    assert "loss.params: PNPLoss of pytorch-metric-learning refuses these values: variant=X but must be one of" in (
        mistake("PNPLoss", {"variant": "X"})
    )
    assert mistake("PNPLoss", miner="BatchHardMiner") == (
        "PNPLoss of pytorch-metric-learning fails beside BatchHardMiner on a batch of two classes: "
        "indices_tuple is not supported for this loss function\n  help: remove loss.miner, or name another"
    )
    assert mistake("CrossBatchMemory") == (
        "CrossBatchMemory of pytorch-metric-learning cannot be used: it is a memory and no loss\n"
        "  help: use the method 'xbm' with the memory 'ring'"
    )
    assert mistake("CircleLoss", miner_params={"epsilon": 1}).startswith("loss.miner_params has no loss.miner")
    assert mistake("ArcFaceLoss", classes=0).endswith("learns weights for the training classes, but no label is known")
    assert "did you mean 'CircleLoss'?" in mistake("CircelLoss")


@pytest.mark.parametrize("kind", ["loss", "miner", "distance", "reducer", "regularizer"])
def test_every_parameter_that_is_offered_is_taken(kind):
    for name in names(kind):
        offered = parameters(kind, name)
        given = {key: parameter.default for key, parameter in offered.items()}
        plain = {"num_classes": 2, "embedding_size": 3, "descriptors_dim": 3, "l": 3, "margin": 1, "Tn": 1}
        needed = {key: plain.get(key) for key, value in given.items() if value is parameters(kind, name)[key].empty}
        if None in needed.values() or name in ("VICRegLoss", "ThresholdReducer", "MultipleReducers"):
            continue  # objects of other classes, or not all at once
        getattr(pml_classes._MODULES[kind], name)(**{**given, **needed})


RECIPE = """
[loss]
name = "pml"
loss = "ProxyAnchorLoss"
miner = "MultiSimilarityMiner"

[loss.params]
alpha = 16
distance = { name = "CosineSimilarity" }

[loss.miner_params]
epsilon = 0.2
"""


def test_a_recipe_with_it_runs(tmp_path):
    path = tmp_path / "pml.toml"
    path.write_text(
        TINY.replace('\n[loss]\nname = "nt-xent"\n', RECIPE).replace('"simclr"\n\n[opt', '"supervised"\n\n[opt')
    )
    recipe = read_recipe(path, ["train.steps=2", "encoder.name=pixels", "encoder.size=8"])
    assert recipe.components["loss"].params["params"] == {"alpha": 16, "distance": {"name": "CosineSimilarity"}}
    method = build_method(recipe, torch.arange(5))
    assert [name for name, _ in optimized_modules(method)["loss"].named_parameters()] == ["loss.proxies"]
    *_, last = run(recipe, tmp_path / "run")
    assert last is not None
    with pytest.raises(RecipeProblems, match="did you mean 'ProxyAnchorLoss'"):
        read_recipe(path, ["loss.loss=ProxyAnkerLoss"])
    with pytest.raises(RecipeError, match=r"loss\.params\.aplha: ProxyAnchorLoss has no parameter 'aplha'"):
        read_recipe(path, ["loss.params={aplha = 1}"]).components["loss"].build(8, torch.arange(5))


# What becomes of each class.


def fails_on(loss) -> list[str]:
    """The cases of the conformance kit on which it raises, or its value or gradient is not finite."""
    found = []
    for given in edges():
        try:
            value, gradient = evaluate(loss, given)
        except Exception:
            found.append(given.name)
            continue
        if not (value.isfinite() and gradient.isfinite().all()):
            found.append(given.name)
    return found


def line(loss: str, miner: str | None = None) -> str:
    """What becomes of a loss, or of the miner beside it."""
    name, params, notes = miner or loss, EXAMPLES.get(loss, {}), []
    try:
        made = build("loss", "pml", 5, torch.arange(8), loss=loss, params=params, miner=miner)
    except RecipeError as error:
        return f"| {name} | refused: {error.message.partition(': ')[2]} | |"
    if params:
        notes.append(f"needs {' and '.join(params)}")
    learned = sum(parameter.numel() for parameter in made.parameters()) // (5 * 8)
    if learned:
        notes.append(f"learns {learned} row{'s' * (learned > 1)} a class")
    if list(made.loss.buffers()):
        notes.append("each call changes its state, a histogram")
    notes += [f"fails on {case}" for case in fails_on(made)]
    where = "with references" if made.no_references is None else f"in a batch alone: {made.no_references}"
    return f"| {name} | {where} | {'; '.join(notes)} |"


def tables() -> str:
    head = "| runs | beware |\n| --- | --- | --- |"
    return "\n".join(
        [
            f"As of pytorch-metric-learning {version('pytorch-metric-learning')}.",
            "",
            f"| loss {head}",
            *(line(name) for name in names("loss")),
            "",
            f"| miner {head}",
            *(line("TripletMarginLoss", name) for name in names("miner")),
        ]
    )


def test_the_tables_say_what_becomes_of_each_class():
    made = f"<!-- tables -->\n{tables()}\n<!-- end of tables -->"
    print(made)
    written = re.sub(r"<!-- tables -->.*<!-- end of tables -->", lambda _: made, PAGE.read_text(), flags=re.DOTALL)
    if os.environ.get("UPDATE_GOLDEN"):
        PAGE.write_text(written)
    assert written == PAGE.read_text(), "run UPDATE_GOLDEN=1 pytest tests/losses/test_pml_classes.py, and read the diff"


def test_the_recipe_of_the_page_is_fine(tmp_path):
    (block,) = re.findall(r"```toml\n(.*?)```", PAGE.read_text(), re.DOTALL)
    path = tmp_path / "page.toml"
    path.write_text(TINY.replace('\n[loss]\nname = "nt-xent"\n', block))
    read_recipe(path).components["loss"].build(8, torch.arange(5))
