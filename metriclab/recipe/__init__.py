"""Recipes: flat TOML files, checked whole before anything is built."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from pathlib import Path

from metriclab.recipe.check import DEFAULTS, check
from metriclab.recipe.document import read_document
from metriclab.recipe.overrides import override
from metriclab.recipe.problems import Problem, RecipeProblems
from metriclab.recipe.recipe import Recipe
from metriclab.recipe.spec import ComponentSpec
from metriclab.recipe.train import Train

__all__ = ["ComponentSpec", "Problem", "Recipe", "RecipeProblems", "Train", "read_recipe"]


def read_recipe(path: Path, overrides: Sequence[str] = ()) -> Recipe:
    """The recipe in a file.

    Args:
        path: TOML of at most 1 MB.
        overrides: `table.key=value` each, the value in TOML; what is no TOML is text. `table.name=...` starts that
            table anew.

    Raises:
        RecipeProblems: all that is wrong with the recipe, each with its place and its repair.
        PluginError: where a component that the recipe names is broken.
    """
    document = read_document(path)
    problems = override(document, overrides, copy.deepcopy(DEFAULTS))
    return check(document, path, problems)
