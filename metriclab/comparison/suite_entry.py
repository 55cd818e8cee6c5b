"""One entry of a suite."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path

from metriclab.comparison.space import Dimension
from metriclab.recipe import Recipe


@dataclass(frozen=True, slots=True)
class SuiteEntry:
    """One row of the table to be: the recipe in `base`, changed by `options`, which are as `--set` takes them."""

    name: str
    base: Path
    options: tuple[str, ...]
    recipe: Recipe
    at: tuple[str, str] | None = None
    """Its column and its row in the report's grid."""
    space: tuple[Dimension, ...] = ()
    """What is searched; the recipe has the first end of each then."""

    @property
    def folder(self) -> str:
        """The name as that of a folder."""
        return re.sub(r"[^A-Za-z0-9._-]+", "-", self.name).strip("-.") or "entry"

    def with_seed(self, seed: int) -> Recipe:
        """The recipe of one run."""
        return replace(self.recipe, train=self.recipe.train.model_copy(update={"seed": seed}))
