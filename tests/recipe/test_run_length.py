"""Numbers that a run's length leaves without effect are told, by `check` and when the run starts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import pytest
from annotated_types import Ge
from click.testing import CliRunner
from torch import nn

from metriclab.cli import main
from metriclab.recipe import read_recipe
from metriclab.recipe.run_length import without_effect
from metriclab.registry import RunStep, register
from tests.support.tiny import TINY, run

WITHOUT_WARMUP = TINY.replace("warmup = 0.1\n", "")
XBM = WITHOUT_WARMUP.replace(
    '[method]\nname = "simclr"', '[method]\nname = "xbm"\n\n[memory]\nname = "ring"\nsize = 32'
)
WITHOUT_LOSS = WITHOUT_WARMUP.replace('[loss]\nname = "nt-xent"\n', "")
LATE = (
    "method.start_step = 1000 is not reached in a run of 6 steps: the memory never counts, and training is supervised "
    "alone; lower it, or train longer"
)


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "xbm.toml"
    path.write_text(XBM)
    return path


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["train.steps=6"], [LATE]),
        (["train.steps=1000"], [LATE.replace("a run of 6", "a run of 1,000")]),
        (["train.steps=1001"], []),
        (["train.steps=6", "method.start_step=6"], [LATE.replace("1000", "6", 1)]),
        (["train.steps=6", "method.start_step=5"], []),
        (["train.steps=0", "method.name=none"], []),
        (
            ["train.steps=9", "method.start_step=0", "schedule.warmup=0.05"],
            [
                "schedule.warmup = 0.05 is less than one in a run of 9 steps: there is no warm-up; "
                "raise it, or train longer"
            ],
        ),
        (["train.steps=11", "method.start_step=0", "schedule.warmup=0.05"], []),
        (
            ["train.steps=6", "method.start_step=0", "train.checkpoint_every=7"],
            [
                "train.checkpoint_every = 7 is not reached in a run of 6 steps: only the end is saved; "
                "lower it, or train longer"
            ],
        ),
        (["train.steps=6", "method.start_step=0", "train.checkpoint_every=6", "train.log_every=10"], []),
        (
            ["train.steps=6", "method.start_step=0", "train.log_every=11"],
            [
                "train.log_every = 11 is not reached in a run of 6 steps: only the last step is logged; "
                "lower it, or train longer"
            ],
        ),
        (
            ["train.steps=6", "method.start_step=0", "train.drift_images=8"],
            [
                "train.drift_every = 100 is not reached in a run of 6 steps: no drift is measured; "
                "lower it, or train longer"
            ],
        ),
        (["train.steps=6", "method.start_step=0", "train.drift_every=90"], []),
    ],
)
def test_what_is_not_reached(recipe, overrides, told):
    if "method.name=none" in overrides:
        recipe.write_text(WITHOUT_LOSS)
    checked = read_recipe(recipe, overrides)
    assert list(without_effect(checked, checked.train.steps, checked.train.epochs)) == told


def test_epochs_are_compared_with_epochs(recipe):
    checked = read_recipe(recipe, ["method.start_step=0", "train.evaluate_every=5"])
    (told,) = without_effect(checked, 12, 1.5)
    assert told == (
        "train.evaluate_every = 5 is not reached in a run of 1.5 epochs: val is measured at the end alone; "
        "lower it, or train longer"
    )
    assert not list(without_effect(checked, 12, None))


def test_check_and_run_say_it(recipe, tmp_path):
    arguments = ["check", str(recipe), "--set", "train.steps=6"]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0
    assert f"warning: {LATE}\n" in done.stderr
    steps = run(read_recipe(recipe, ["train.steps=6"]), tmp_path / "run")
    assert [status.message for status in steps if status.message and "start_step" in status.message] == [LATE]


def test_a_plugin_marks_its_own(recipe, tmp_path):
    class Late(nn.Module):
        def __init__(
            self, network: nn.Module, /, *, queue_start: Annotated[int, Ge(0), RunStep("the queue is never used")] = 9
        ) -> None:
            super().__init__()
            self.network = network

    register("method", "test-late")(Late)
    recipe.write_text(WITHOUT_LOSS.replace('[method]\nname = "simclr"', '[method]\nname = "test-late"'))
    (told,) = without_effect(read_recipe(recipe), 7, None)
    assert told.startswith("method.queue_start = 9 is not reached in a run of 7 steps: the queue is never used;")
