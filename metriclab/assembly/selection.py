"""Whether there will be what `train.select` chooses the best checkpoint by: known before the first step."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from metriclab.assembly.splits import Splits
from metriclab.core.call_loss import parts_of
from metriclab.core.protocols import Evaluator
from metriclab.core.rows import Rows
from metriclab.core.samples import some_rows
from metriclab.errors import RecipeError
from metriclab.recipe import Recipe
from metriclab.recipe.train import LOSS
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


def require_loss(recipe: Recipe, splits: Splits, method: nn.Module) -> None:
    """Checks that there is a loss on val, where `train.select` chooses by it.

    Raises:
        RecipeError: where there is none, with the reason.
    """
    reason = why_no_loss(recipe, splits, method)
    if recipe.train.select == LOSS and recipe.train.steps != 0 and reason is not None:
        raise RecipeError(
            f"train.select = '{LOSS}' cannot be had: {reason}",
            help="choose a metric of an evaluator, such as retrieval.map_at_r, or another val split",
        )


def why_no_loss(recipe: Recipe, splits: Splits, method: nn.Module) -> str | None:
    """Why the run's loss cannot be had on val; None where nothing is known against it."""
    train, val = (np.unique(data.labels) for data in (splits.train, splits.val))
    if not len(val):
        return "the val split has no image"
    if hasattr(method, "prepare"):
        return "the method knows what it aims at for the images of train alone"
    loss: Any = getattr(method, "loss", None)
    parts = [] if loss is None else [part.loss for part in parts_of(loss).values()] or [loss]
    given = {
        chosen.definition.factory: bool(chosen.definition.given) for chosen in recipe.specs() if chosen.kind == "loss"
    }
    of_classes = any(getattr(one, "by_class", given.get(type(one), False)) for one in parts)
    if class_rows(method) is None and not of_classes:
        return None
    val = val[val >= 0]
    unseen = int((~np.isin(val, train[train >= 0])).sum())
    if not unseen:
        return None
    return f"it holds images against the classes of train, and {unseen} of the {len(val)} classes of val are not there"


@torch.no_grad()
def class_rows(method: nn.Module) -> Rows | None:
    """The rows of classes that a method's memory holds, as proxies do; None where it holds none, or embeddings."""
    memory: Any = getattr(method, "memory", None)
    if memory is None:
        return None
    held: Rows = memory.rows()
    return held if bool(((held.items < 0) & (held.labels >= 0)).all()) else None


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
