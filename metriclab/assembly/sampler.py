"""The sampler of a run, with what it goes by besides labels."""

from __future__ import annotations

from typing import Any

import numpy as np

from metriclab.core.protocols import Dataset, Sampler
from metriclab.errors import DataError
from metriclab.recipe import Recipe


def build_sampler(recipe: Recipe, data: Dataset) -> Sampler:
    """The sampler of a recipe on its data.

    Raises:
        DataError: where it goes by groups, and the data have none.
        RecipeError: where it does not fit the data.
    """
    sampler: Any = recipe.components["sampler"].build(data.labels)
    if "groups" in getattr(sampler, "needs", ()):
        groups: np.ndarray | None = getattr(data, "groups", None)
        if groups is None or groups.max() < 0:
            raise DataError(
                "the sampler goes by groups, and the train split has none",
                help="give the data groups, as a column 'group' of a table does, or leave sampler.across away",
            )
        sampler.use_groups(groups)
    built: Sampler = sampler
    return built
