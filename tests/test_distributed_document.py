"""Every command of docs/distributed.md exists as it is written: torchrun's options, metriclab's, and the script."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest
from click.testing import CliRunner
from torch.distributed.run import get_args_parser

from metriclab.cli import main
from metriclab.recipe.train import Train

TEXT = (Path(__file__).parent.parent / "docs" / "distributed.md").read_text("utf-8")
BLOCKS = re.findall(r"```(\w+)\n(.*?)```", TEXT, re.DOTALL)
(SCRIPT,) = (text for language, text in BLOCKS if language == "bash")
LINES = [line for language, text in BLOCKS for line in text.replace("\\\n", " ").splitlines()]
COMMANDS = [line.removeprefix("srun ").split() for line in LINES if line.startswith(("torchrun", "srun", "metriclab"))]


def options_of(*command: str) -> str:
    told = CliRunner().invoke(main, [*command, "--help"])
    assert told.exit_code == 0
    return told.output


@pytest.mark.parametrize("words", COMMANDS, ids=lambda words: f"{words[0]} with {len(words)} words")
def test_every_command_and_option_exists(words):
    ours = words
    if words[0] == "torchrun":
        known = get_args_parser().parse_args(words[1:])
        assert (known.module, known.training_script) == (True, "metriclab.cli")
        ours = ["metriclab", *known.training_script_args]
    help = options_of(*ours[1:3]) if ours[1] == "data" else options_of(ours[1])
    for option in (word for word in ours if word.startswith("--")):
        assert option in help


def test_the_blocks_are_those_that_are_tested():
    assert len(COMMANDS) == 5
    assert {language for language, _ in BLOCKS} == {"sh", "bash"}


def test_the_script_is_a_script(tmp_path):
    path = tmp_path / "job.sh"
    path.write_text(SCRIPT)
    subprocess.run(["bash", "-n", path], check=True)


def test_every_setting_exists():
    named = set(re.findall(r"`train\.(\w+)", TEXT))
    assert named >= {"synchronize_batch_norm", "chunk", "threads", "checkpoint_every"}
    assert named <= set(Train.model_fields)
    assert Train.model_fields["synchronize_batch_norm"].default is True
