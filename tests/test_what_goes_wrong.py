"""The page about other libraries' losses is what its script makes of what the command found."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("what_goes_wrong", ROOT / "benchmarks" / "what_goes_wrong.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_made_of_what_was_found(script):
    found = json.loads(script.FOUND.read_text())
    assert script.page(found) == script.PAGE.read_text(), "run: python benchmarks/what_goes_wrong.py --page"


def test_every_loss_was_checked_and_no_other(script):
    found = json.loads(script.FOUND.read_text())
    wanted = {" ".join(script.command(words)) for losses in script.LIBRARIES.values() for words in losses}
    assert set(found) == wanted


def test_a_command_is_what_a_person_types(script):
    words = ("lightly.loss:NTXentLoss", "memory_bank_size=[64, 16]")
    assert script.command(words) == ["check-loss", words[0], "--set", "memory_bank_size=[64, 16]"]
    rows = ("pytorch_metric_learning.losses:ContrastiveLoss", "--calls", "rows")
    assert script.command(rows) == ["check-loss", *rows]
