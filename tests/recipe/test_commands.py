"""`metriclab check` and `metriclab schema`."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from metriclab.cli import main

PLUGIN = """
from metriclab.registry import build, register

@register("loss", "mine-{number}")
def mine(*, scale: float = 1.0):
    \"\"\"Mine.\"\"\"
    return build("loss", "nt-xent")
"""


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def test_check_says_what_a_good_recipe_runs(base: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="metriclab"):
        result = command("check", base)
    assert result.exit_code == 0
    assert result.stdout == (
        "recipe is fine: method pairwise (pull) on dots with encoder tower, 10 steps, measured by nearest\n"
    )
    assert caplog.messages == [
        "train: 128 images (33%) of 8 classes, val: 128 images (33%) of 8 classes, test: 128 images (33%) of 8 classes"
    ]


def test_check_applies_options(base: Path) -> None:
    options = ["--set", "method.name=recalling", "--set", "memory.name=ring", "--set", "memory.size=9"]
    result = command("check", base, *options)
    assert "method recalling (pull, ring)" in result.output


def test_check_tells_all_problems_and_exits_with_2(base: Path) -> None:
    result = command("check", base, "--set", "loss.temprature=0.2", "--set", "head.hidden=0")
    assert result.exit_code == 2
    assert "did you mean 'temperature'?" in result.output
    assert "hidden of head 'twig' must be int >= 1, not 0" in result.output
    assert "Traceback" not in result.output


def test_check_knows_the_components_of_a_plugin_file(base: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "mine.py"
    plugin.write_text(PLUGIN.format(number=1))
    assert command("check", base, "--set", "loss.name=mine-1").exit_code == 2
    assert command("check", base, "--set", "loss.name=mine-1", "--plugin", plugin).exit_code == 0


def test_a_broken_plugin_that_is_named_exits_with_3(base: Path, tmp_path: Path) -> None:
    plugin = tmp_path / "broken.py"
    plugin.write_text("import there_is_no_such_module")
    result = command("check", base, "--plugin", plugin)
    assert result.exit_code == 3
    assert "broken.py" in result.output


def test_schema_is_json() -> None:
    result = command("schema")
    assert result.exit_code == 0
    assert json.loads(result.output)["title"] == "metriclab recipe"
