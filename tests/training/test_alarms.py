"""Divergence stops a run with the batch named; collapse and anchors without positives are said."""

from __future__ import annotations

import json

import pytest
import torch

from metriclab.api import rows
from metriclab.errors import DivergedError
from metriclab.training.alarms import health, warnings_of
from tests.support.tiny import outcome, run, tiny


def test_a_diverged_run_stops_and_names_the_images_of_the_step(tmp_path):
    recipe = tiny(tmp_path, "optimizer.learning_rate=1e30")
    with pytest.raises(DivergedError) as caught:
        run(recipe, tmp_path / "run")
    assert caught.value.exit_code == 4
    assert "is not finite (loss" in caught.value.message
    capture = json.loads((tmp_path / "run" / "diverged.json").read_text())
    assert f"step {capture['step']} is not finite" in caught.value.message
    assert "diverged.json names the images of that step" in caught.value.help
    assert len(capture["items"]) == len(capture["names"]) == 16
    assert not (tmp_path / "run" / "result.json").exists()


def test_what_was_saved_before_the_divergence_stays(tmp_path):
    recipe = tiny(tmp_path, "optimizer.learning_rate=1e30", "train.checkpoint_every=1")
    with pytest.raises(DivergedError):
        run(recipe, tmp_path / "run")
    assert (tmp_path / "run" / "recipe.toml").exists()


def test_spread_is_one_for_opposite_rows_and_zero_for_equal_ones():
    labels = torch.tensor([0, 0, 1, 1])
    spread_out = rows(torch.tensor([[1.0, 0], [-1, 0], [0, 1], [0, -1]]), labels)
    collapsed = rows(torch.ones(4, 2), labels)
    assert health((spread_out,))["spread"].item() == pytest.approx(1)
    assert health((collapsed,))["spread"].item() == pytest.approx(0, abs=1e-3)


def test_lone_anchors_and_zero_rows_are_counted():
    some = rows(torch.tensor([[1.0, 0], [0, 1], [0, 0], [1, 1]]), torch.tensor([5, 5, 7, -1]))
    found = health((some,))
    assert found["anchors_without_positives"].item() == 0.5
    assert found["zero_rows"].item() == 0.25


def test_outputs_without_rows_have_no_health():
    assert health((torch.ones(2, 2),)) == {}


@pytest.mark.parametrize(
    ("values", "name", "text"),
    [
        ({"spread": 0.001}, "collapse", "the embeddings have collapsed: their spread is 0.0010 of at most 1"),
        (
            {"anchors_without_positives": 0.75},
            "anchors_without_positives",
            "75% of the anchors have no positive and teach nothing",
        ),
        ({"zero_rows": 0.125}, "zero_rows", "12.5% of the embeddings are zero and get no gradient"),
    ],
)
def test_each_alarm_says_what_is_wrong(values, name, text):
    ((found, message),) = warnings_of(values)
    assert found == name
    assert message.startswith(text)


def test_a_healthy_step_is_silent():
    assert list(warnings_of({"spread": 0.8, "anchors_without_positives": 0.0, "zero_rows": 0.0})) == []


def test_a_warning_is_said_once_and_stands_in_the_result(tmp_path):
    # One view an image: no anchor has a positive.
    steps = run(tiny(tmp_path, "views.count=1"), tmp_path / "run")
    said = [step.message for step in steps if step.message]
    assert sum("100% of the anchors have no positive" in message for message in said) == 1
    assert "anchors_without_positives" in outcome(tmp_path / "run")["result"]["warnings"]
