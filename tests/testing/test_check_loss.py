"""The kit finds each known fault of other people's losses by itself, and passes what is right."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.errors import RecipeError
from metriclab.registry import entries
from metriclab.registry.kinds import BUILTIN
from metriclab.testing.any_loss import CHECKS, Target, Trial, check_any_loss
from metriclab.testing.any_loss.conventions import find_convention
from metriclab.testing.any_loss.on_ranks import several_ranks

FILE = Path(__file__).parent / "faulty_losses.py"


def trial(name, calls=None, **settings):
    return Trial.of(Target(f"{FILE}:{name}", settings, calls))


def run(*arguments):
    return CliRunner().invoke(main, ["check-loss", *map(str, arguments)])


SLOW = ("right_function", "RightAgainst", "Queue", "BUILT")
SLOW_RIGHT = [pytest.param(name, marks=pytest.mark.slow) for name in SLOW]


@pytest.mark.parametrize("name", ["Right", "RightViews", *SLOW_RIGHT])
def test_what_is_right_passes(name):
    found = list(check_any_loss(trial(name), without=["several ranks"]))
    assert {one.check: one.text for one in found if one.status == "falls short"} == {}
    assert [one.check for one in found] == list(CHECKS)


FAULTS = [
    ("DetachedPositives", {}, "gradcheck", r"the gradient is not that of the value: \S+ along a direction in which it"),
    ("OwnPairsInTheMean", {}, "own pairs", r"a class of 2 rows at one cosine has 0\.625 of the loss of a class of 5"),
    ("OwnPairInTheSoftmax", {}, "own pairs", r"the row itself in it: 2\.718 beside the others of 1 each"),
    ("CopiesMasked", {}, "identical rows", r"where two rows of a class are equal, \S+ at cosine 0\.99998"),
    ("HalfOverflows", {}, "float16", r"raises RuntimeError: value cannot be converted .* without overflow"),
    ("InHalf", {}, "float16", r"the loss is nan, and its gradient is not finite \(plain rows in torch\.float16\)"),
    ("EpsilonInTheLog", {}, "precision", r"^\S+ for \S+ on plain rows, the gradient off by"),
    ("LowInAutocast", {}, "autocast", r"^\S+ for \S+, off by \d+%$"),
    ("NoPairsIsNaN", {}, "no pairs", r"the loss is nan for no positive pair"),
    ("ZeroRowsExplode", {}, "zero rows", r"the gradient is \S+e\+\d\d for rows of zeros"),
    ("HidesNaN", {}, "a row of NaN", r"the loss is \S+ all the same"),
    ("LabelsInFloat", {}, "huge labels", r"with labels 2\^24 and 2\^24 \+ 1"),
    ("ByPosition", {}, "row order", r"by the order; the gradient differs by"),
    ("WrongWayRound", {}, "signs", r"positives are never drawn together"),
    ("NothingForOnePair", {}, "one pair", r"the loss is 0 without any gradient, for a far positive"),
    ("Queue", {"saved": False}, "state", r"after saving and loading, \S+ without"),
    ("Queue", {"always": True}, "state", r"for the same rows in eval\(\)"),
    ("KeepsNaN", {}, "state", r"one row of NaN makes every later loss NaN"),
]


@pytest.mark.parametrize(("name", "settings", "check", "text"), FAULTS, ids=lambda value: str(value)[:20])
def test_a_known_fault_is_found(name, settings, check, text):
    found = CHECKS[check](trial(name, **settings))
    assert found.status == "falls short"
    assert re.search(text, found.text), found.text
    assert found.seen


RANKS = [
    ("RightOnRanks", "exact"),
    ("RightAgainst", "exact"),
    ("ScaledByRanks", "scaled by ranks"),
    ("DividedByRanks", "scaled by ranks"),
    ("RightViews", "local negatives"),
    ("Right", "local negatives"),
    ("ForgetsReferences", "another loss"),
]


@pytest.mark.slow
@pytest.mark.parametrize(("name", "kind"), RANKS)
def test_the_behaviour_on_ranks_is_told(name, kind):
    found, row = several_ranks(trial(name))
    assert found == kind, row.text
    if kind == "scaled by ranks":
        factors = ("2", "3") if name == "ScaledByRanks" else ("0.5", "0.3333")
        assert all(f"the gradient is {factor} times that of one process" in row.text for factor in factors)


def test_memory_is_told_by_how_it_grows():
    assert CHECKS["memory"](trial("Right")).text.startswith("quadratic: ")
    ours = CHECKS["memory"](Trial.of(Target("metriclab.losses:NTXent", {})))
    assert (ours.status, ours.text.partition(":")[0]) == ("told", "constant")


@pytest.mark.parametrize(
    "name",
    [pytest.param(entry.target, marks=[] if entry.name == "supcon" else [pytest.mark.slow])
             for entry in entries("loss") if entry.package == BUILTIN and entry.name != "pml"]
)  # fmt: skip
def test_our_losses_pass(name):
    module, _, function = name.partition(":")
    found = check_any_loss(Trial.of(Target(f"{module}:{function}", {})), without=["several ranks"])
    assert {one.check: one.text for one in found if one.status == "falls short"} == {}


@pytest.mark.parametrize(
    ("loss", "calls"),
    [
        (lambda embeddings, labels: 0, "labels"),
        (lambda x, y: 0, "labels"),
        (lambda embeddings, labels=None, indices_tuple=None, ref_emb=None: 0, "labels"),
        (lambda z_a, z_b, update=True: 0, "views"),
        (lambda anchors, labels, references, reference_labels: 0, "rows"),
        (lambda q, k, q_labels, k_labels: 0, "rows"),
    ],
)
def test_the_convention_is_found_by_the_parameters(loss, calls):
    assert find_convention(loss, None).name == calls


def test_a_signature_that_is_none_of_the_three_is_refused():
    with pytest.raises(RecipeError, match=r"takes \(x, y, z\), which is none of the three ways to call a loss: labels"):
        find_convention(lambda x, y, z: 0, None)


WRONG = [
    (["Right"], "'Right' names no loss"),
    (["no_such_module:Loss"], "there is no module 'no_such_module'"),
    (["nowhere.py:Loss"], "there is no file"),
    ([f"{FILE}:Rigth"], "did you mean 'Right'?"),
    ([f"{FILE}:Right", "--set", "margin=0.2"], "cannot be built: TypeError"),
    ([f"{FILE}:right_function", "--set", "margn=3"], "cannot be called: TypeError: got an unexpected keyword argument"),
    ([f"{FILE}:BUILT", "--set", "margin=3"], "BUILT is a loss that is built already, and takes no settings"),
    (["builtins:int"], "builtins:int does not tell its arguments, so it is no loss"),
    ([f"{FILE}:Right", "--set", "margin"], "--set margin is not key=value"),
    ([f"{FILE}:RightViews", "--calls", "rows"], "RightViews takes (first, second), and no labels of two sides"),
    ([f"{FILE}:Right", "--without", "row-ordr"], "did you mean 'row-order'?"),
]


@pytest.mark.parametrize(("arguments", "text"), WRONG, ids=lambda value: str(value)[:20])
def test_a_wrong_call_ends_with_2(arguments, text):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    assert text in result.output


KEPT = ("row order", "no pairs")
FEW = [word for name in CHECKS if name not in KEPT for word in ("--without", name.replace(" ", "-"))]


def test_the_command_ends_with_0_or_1_and_prints_a_table():
    right = run(f"{FILE}:Right", *FEW)
    assert right.exit_code == 0, right.output
    assert "faulty_losses.py:Right of faulty_losses.py; called by labels" in right.output
    assert "2 ok, 15 left out" in right.output
    wrong = run(f"{FILE}:NoPairsIsNaN", *FEW)
    assert wrong.exit_code == 1
    assert "1 ok, 1 falls short" in wrong.output


def test_json_has_all_that_makes_a_row_comparable():
    result = run(f"{FILE}:Queue", "--set", "saved=True", "--format", "json", *FEW)
    told = json.loads(result.output)
    assert (told["settings"], told["calls"], told["package"]) == ({"saved": True}, "views", "faulty_losses.py")
    assert {"metriclab", "torch"} <= set(told)
    assert told["checks"][0] == {"check": "row order", "status": "ok", "text": "does not matter", "seen": ""}
