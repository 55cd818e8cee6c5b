"""Whether there will be what `train.select` chooses the best checkpoint by: known before the first step."""

from __future__ import annotations

from collections.abc import Mapping

from metriclab.core.protocols import Evaluator
from metriclab.core.samples import some_rows
from metriclab.errors import RecipeError
from metriclab.recipe import Recipe
from metriclab.registry import suggest


def require_selectable(recipe: Recipe, evaluators: Mapping[str, Evaluator]) -> None:
    """Asks the evaluator that `train.select` names what it gives, on a few rows.

    Args:
        recipe: a checked recipe.
        evaluators: its own, by label, as far as they could be built.

    Raises:
        RecipeError: where it has no such metric.
    """
    select = recipe.train.select
    label = select.partition(".")[0]
    evaluator = evaluators.get(label)
    if evaluator is None or recipe.train.steps == 0:
        return  # which the check of the recipe has told, or which chooses nothing
    own = _metrics({label: evaluator})
    if own and select not in own:
        names = _metrics(evaluators)
        raise RecipeError(
            f"train.select = '{select}' is no metric of this recipe",
            help=suggest(select, names) or f"choose one of {', '.join(names)}",
        )


def _metrics(evaluators: Mapping[str, Evaluator]) -> list[str]:
    """By "evaluator.metric", of those evaluators of rows that can be tried."""
    some, names = some_rows(), list[str]()
    for label, evaluator in evaluators.items():
        if getattr(evaluator, "wants", "rows") == "rows":
            try:
                names += [f"{label}.{metric}" for metric in evaluator(some, some)]
            except Exception:  # it may need more rows than these; a run tells what is wrong
                continue
    return names
