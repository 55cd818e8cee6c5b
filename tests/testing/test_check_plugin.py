"""The kit over a component that is known by name: one line of pytest, and `metriclab check-plugin`."""

from __future__ import annotations

import json
from importlib.metadata import distribution

import pytest
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.core.network import Network
from metriclab.errors import RecipeError
from metriclab.registry import load_plugin_file, register, registry
from metriclab.registry.kinds import BUILTIN
from metriclab.testing import component_checks
from metriclab.testing.pytest import conformance
from tests.testing.test_broken_plugins import FOLDER, _forgetful_registry  # noqa: F401  (a fixture)

test_constant = conformance("schedule", "constant")
test_cosine = conformance("schedule", "cosine", {"final": 0.1})
test_sampler = conformance("sampler", "shuffled", {"batch_size": 7, "drop_last": False}, shuffles=True)

PLUGIN = """
from metriclab.api import register

@register("schedule", "falls")
def falls(total_steps: int, /, *, power: int = 2):
    return lambda step: (1 - step / total_steps) ** power

@register("schedule", "{name}")
def other(total_steps: int, /, *, {parameter}):
    return lambda step: 1 - step / (total_steps - {less})

@register("head", "breaks")
class Breaks:
    def __init__(self, in_features: int, /) -> None:
        {body}
"""


def run(*arguments):
    return CliRunner().invoke(main, ["check-plugin", *map(str, arguments)])


def write(folder, *, name="other", parameter="power: int = 2", less=0, body="raise KeyError('x')"):
    path = folder / "mine.py"
    path.write_text(PLUGIN.format(name=name, parameter=parameter, less=less, body=body))
    return path


def test_a_line_gives_a_test_for_each_check():
    [mark] = test_constant.pytestmark
    assert [check.name for check in mark.args[1]] == ["factors", "pure function of the step"]
    assert [mark.kwargs["ids"](check) for check in mark.args[1]] == ["factors", "pure-function-of-the-step"]


def test_a_component_that_cannot_be_built_is_a_test_that_fails():
    [mark] = conformance("loss", "nt-xent", {"temprature": 1.0}).pytestmark
    [check] = mark.args[1]
    with pytest.raises(RecipeError, match="no parameter 'temprature'"):
        check.run()


def test_wrong_parameters_are_told_also_of_what_is_built_only_later():
    with pytest.raises(RecipeError, match="no parameter 'labels'"):
        component_checks("sampler", "shuffled", {"labels": 3})


def test_a_method_that_refuses_an_encoder_that_trains_is_given_a_frozen_one():
    @register("method", "frozen")
    class Frozen:
        def __init__(self, network: Network, /) -> None:
            if any(parameter.requires_grad for parameter in network.encoder.parameters()):
                raise RecipeError("it trains")

    [check] = component_checks("method", "frozen")
    with pytest.raises(AssertionError, match=r"Frozen is no nn\.Module"):  # so it was built
        check.run()


def test_a_table_of_all_components(tmp_path):
    result = run(write(tmp_path, less=1))
    assert result.exit_code == 1
    lines = result.stdout.splitlines()
    assert lines[0].split() == ["component", "check", "result"]
    assert lines[1].split() == ["head", "'breaks'", "wrong:", "building", "it", "raises", "KeyError:", "'x'"]
    assert lines[2].split() == ["schedule", "'falls'", "factors", "ok"]
    assert "wrong: it raises ZeroDivisionError" in lines[4]
    assert lines[-1] == "3 ok, 2 wrong"


def test_a_component_that_needs_values_is_left_out_and_that_is_said(tmp_path):
    result = run(
        write(tmp_path, parameter="power: int", body="self.out_features = 3"), "--without", "factors", "--json"
    )
    outcomes = {(one["component"], one["check"]): one for one in json.loads(result.stdout)}
    left_out = outcomes["schedule 'other'", ""]
    assert left_out["status"] == "left out"
    assert "needs power, which have no defaults: test it by conformance(" in left_out["text"]
    assert outcomes["schedule 'falls'", "factors"]["text"] == "as asked for"
    assert outcomes["head 'breaks'", "features"]["text"].startswith("Breaks is no nn.Module")
    assert result.exit_code == 1


def test_a_check_that_does_not_apply_says_how_it_is_left_out(tmp_path):
    path = tmp_path / "pulls.py"
    path.write_text(
        "from metriclab.api import PairLoss, Term, register\n"
        "def pull(pairs):\n"
        "    return {'pull': Term((1 - pairs.similarity).where(pairs.positive, 0).sum(1), pairs.positive.sum(1))}\n"
        "@register('loss', 'pulls')\n"
        "def pulls():\n"
        "    return PairLoss(pull)\n"
    )
    outcomes = json.loads(run(path, "--json", "--without", "several-ranks").stdout)
    [wrong] = [one for one in outcomes if one["status"] == "wrong"]
    assert wrong["check"] == "signs"
    assert wrong["text"] == (
        "PairLoss never pushes negatives apart, whatever their angle: it only pulls (where that is meant, leave this "
        "check out: signs=False, or `--without signs`)"
    )
    assert run(path, "--without", "signs", "--without", "several-ranks").exit_code == 0


def test_a_check_that_there_is_none_of_is_told(tmp_path):
    result = run(write(tmp_path), "--without", "factor")
    assert result.stderr == "--without factor: no component here has that check; did you mean 'factors'?\n"


def test_exit_codes(tmp_path):
    good = tmp_path / "good.py"
    good.write_text(PLUGIN.partition('@register("schedule", "{name}")')[0])
    assert run(good).exit_code == 0
    broken = tmp_path / "broken.py"
    broken.write_text("import nothing_there")
    result = run(broken)
    assert result.exit_code == 3
    assert "broken.py cannot be imported" in result.stderr
    result = run("metriclab-cirlce")
    assert result.exit_code == 2
    assert "no installed package 'metriclab-cirlce' brings components" in result.stderr


def test_a_file_is_known_to_the_processes_that_compare_ranks(tmp_path):
    for name in ("first", "second"):  # of one name and with components of one name, one after the other
        folder = tmp_path / name
        folder.mkdir()
        (folder / "mine.py").write_text((FOLDER / "stateful.py").read_text())
        load_plugin_file(folder / "mine.py")
        [several] = [check for check in component_checks("method", "mixes-images") if check.name == "several ranks"]
        several.run()
        for entry in [entry for entry in registry.declared.values() if entry.package == "mine.py"]:
            del registry.declared[entry.kind, entry.name, entry.package]


def test_metriclab_brings_no_plugin_that_every_session_of_pytest_would_import():
    assert not distribution(BUILTIN).entry_points.select(group="pytest11")
