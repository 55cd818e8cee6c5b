"""What a run builds before its first step, built for a look at it: nothing is trained, fetched, decoded or written."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import nn

from metriclab.assembly.assemble import build_method, classes_of
from metriclab.assembly.learning_rates import build_optimizer
from metriclab.assembly.sampler import build_sampler
from metriclab.assembly.selection import require_loss, require_selectable
from metriclab.assembly.splits import Splits, load_splits
from metriclab.assembly.trial import require_finite, try_one_image
from metriclab.core.protocols import Evaluator, Views
from metriclab.errors import DataError, MetriclabError
from metriclab.images.datasets import ArrayDataset, without_decoding
from metriclab.recipe import ComponentSpec, Recipe

T = TypeVar("T")


class Rehearsal(NamedTuple):
    """What would stop a run before its first step.

    Attributes:
        problems: in the order in which a run would meet them.
        notes: what could not be looked at, and what is worth knowing.
    """

    problems: list[MetriclabError]
    notes: list[str]


def rehearse(recipe: Recipe, *, tell_data: bool = True) -> Rehearsal:
    """Builds what the recipe names, by the code that a run builds it by, and sends one image through.

    Data are listed where they are, and neither fetched nor decoded; without them the sampler is not built. Weights are
    read from files, but not fetched. All is on the CPU, whatever the recipe's device.

    Args:
        recipe: a checked recipe.
        tell_data: False where the data are looked at by themselves, and what is wrong with them is told there.
    """
    found = Rehearsal([], [])
    chosen = recipe.components
    splits = _data(chosen["dataset"], recipe, found if tell_data else Rehearsal([], []))
    labels = splits.train.labels if splits else np.arange(2)
    if splits and recipe.train.steps != 0:
        _attempt(recipe, found, lambda: build_sampler(recipe, splits.train))
    local = replace(recipe, components={**chosen, "encoder": _without(chosen["encoder"], "pretrained")})
    method: nn.Module | None = _attempt(recipe, found, lambda: build_method(local, classes_of(labels)))
    views: Views | None = _attempt(recipe, found, chosen["views"].build)
    _attempt(recipe, found, lambda: chosen["schedule"].build(1))
    built = {one.label: _attempt(recipe, found, one.build) for one in recipe.evaluators}
    evaluators: dict[str, Evaluator] = {label: one for label, one in built.items() if one is not None}
    _attempt(recipe, found, lambda: require_selectable(recipe, evaluators))
    if method is None:
        return found
    if splits is not None:
        _attempt(recipe, found, lambda: require_loss(recipe, splits, method))
    encoder = method.get_submodule("network.encoder")
    note = getattr(encoder, "note", None)
    found.notes.extend([] if note is None else [note])
    if recipe.train.steps != 0:
        _attempt(recipe, found, lambda: build_optimizer(recipe, method, 1))
    _attempt(recipe, found, lambda: require_finite(method, local))
    if views is not None and (splits or not getattr(encoder, "takes_features", False)):
        data = splits.train if splits else _no_image()
        _attempt(recipe, found, lambda: try_one_image(local, method, views, data, torch.device("cpu")))
    return found


def _attempt(recipe: Recipe, found: Rehearsal, build: Callable[[], T]) -> T | None:
    try:
        with recipe.telling_places():
            return build()
    except MetriclabError as error:
        found.problems.append(error)
        return None


def _data(chosen: ComponentSpec, recipe: Recipe, found: Rehearsal) -> Splits | None:
    root, fetched = chosen.params.get("root"), bool(chosen.params.get("download"))
    local = replace(recipe, components={**recipe.components, "dataset": _without(chosen, "download")})
    try:
        with without_decoding():
            return load_splits(local)
    except DataError as error:
        if fetched or not (isinstance(root, str) and Path(root).exists()):
            found.notes.append(f"the data are not here, and what depends on them is not checked: {error.message}")
        else:
            found.problems.append(error)
    except MetriclabError as error:
        found.problems.append(error)
    return None


def _without(chosen: ComponentSpec, flag: str) -> ComponentSpec:
    return replace(chosen, params={**chosen.params, flag: False}) if flag in chosen.params else chosen


def _no_image() -> Any:
    """A black image, in place of those that are not here."""
    return ArrayDataset(np.zeros((1, 3, 64, 64), np.uint8), np.zeros(1, np.int64), ["black"], ["black"])
