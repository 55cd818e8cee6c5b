"""The evaluator that another one applies to other rows."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated

import torch

from metriclab.core.protocols import Evaluator, Score
from metriclab.core.rows import rows
from metriclab.errors import RecipeError
from metriclab.registry import TableOf, build, load_component, suggest

InnerParameters = Annotated[dict[str, object], TableOf("evaluator", named_by="evaluator")]
"""What a recipe may say of the evaluator that is named by the parameter `evaluator`."""


def inner_evaluator(outer: str, name: str, parameters: Mapping[str, object]) -> Evaluator:
    """The evaluator of that name.

    Raises:
        RecipeError: for an unknown name or parameter, or an evaluator that wants the encoder itself.
    """
    if getattr(load_component("evaluator", name).factory, "wants", "rows") != "rows":
        message = f"evaluator '{outer}' cannot apply evaluator '{name}', which wants the encoder itself"
        raise RecipeError(message, help="name an evaluator of rows, such as 'retrieval'")
    evaluator: Evaluator = build("evaluator", name, **parameters)
    return evaluator


def require_metric(outer: str, evaluator: Evaluator, name: str, metric: str) -> None:
    """Raises a RecipeError unless the evaluator has the metric: tried on four rows, before a long run."""
    metrics: Mapping[str, Score] = _tried(evaluator)
    if metric not in metrics:
        raise RecipeError(
            f"evaluator '{outer}': evaluator '{name}' has no metric '{metric}'",
            help=suggest(metric, metrics) or f"choose one of {', '.join(metrics)}",
        )


def _tried(evaluator: Evaluator) -> Mapping[str, Score]:
    four = rows(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    return evaluator(four, four)
