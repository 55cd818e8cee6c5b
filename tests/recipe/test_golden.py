"""Every mistake of golden/<mistake>.toml is told as golden/<mistake>.txt has it, to the letter.

`UPDATE_GOLDEN=1 pytest tests/recipe` writes the texts anew; read the diff.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from metriclab.recipe import RecipeProblems, read_recipe

GOLDEN = Path(__file__).parent / "golden"
MISTAKES = sorted(path.stem for path in GOLDEN.glob("*.toml"))


@pytest.mark.parametrize("mistake", MISTAKES)
def test_text(mistake: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(GOLDEN)
    recipe = Path(f"{mistake}.toml")
    options = re.findall(r"^# --set (.*)$", recipe.read_text(), re.MULTILINE)
    with pytest.raises(RecipeProblems) as caught:
        read_recipe(recipe, options)
    expected = Path(f"{mistake}.txt")
    if os.environ.get("UPDATE_GOLDEN"):
        expected.write_text(f"{caught.value}\n")
    assert f"{caught.value}\n" == expected.read_text()


def test_every_text_has_its_recipe() -> None:
    assert sorted(path.stem for path in GOLDEN.glob("*.txt")) == MISTAKES
