"""What a run builds before its first step, built for a look at it: nothing is trained, fetched, decoded or written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
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
from metriclab.assembly.weights import build_encoder
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
    chosen = {kind: _offline(one) for kind, one in recipe.components.items()}
    local = replace(recipe, components=chosen)
    fetched = chosen["dataset"] != recipe.components["dataset"]
    splits = _data(local, found if tell_data else Rehearsal([], []), fetched=fetched)
    labels = splits.train.labels if splits else np.arange(2)
    if splits and recipe.train.steps != 0:
        _attempt(recipe, found, lambda: build_sampler(local, splits.train))
    method: nn.Module | None = _attempt(recipe, found, lambda: build_method(local, classes_of(labels)))
    views: Views | None = _attempt(recipe, found, chosen["views"].build)
    _attempt(recipe, found, lambda: chosen["schedule"].build(1))
    for one in _tables_of_encoders(chosen["method"]):
        _attempt(recipe, found, partial(_build_within, chosen["method"], one))
    built = {one.label: _evaluator(recipe, found, one) for one in recipe.evaluators}
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


def _data(recipe: Recipe, found: Rehearsal, *, fetched: bool) -> Splits | None:
    root, own = recipe.components["dataset"].params.get("root"), Rehearsal([], found.notes)
    with without_decoding():
        splits = _attempt(recipe, own, lambda: load_splits(recipe))
    for error in own.problems:
        absent = isinstance(error, DataError) and (fetched or not (isinstance(root, str) and Path(root).exists()))
        _tell(error, found, absent=absent)
    return splits


def _evaluator(recipe: Recipe, found: Rehearsal, chosen: ComponentSpec) -> Evaluator | None:
    """One that may bring data of its own."""
    own, local = Rehearsal([], found.notes), _offline(chosen)
    built: Evaluator | None = _attempt(recipe, own, local.build)
    for error in own.problems:
        _tell(error, found, absent=isinstance(error, DataError) and local != chosen)
    return built


def _tell(error: MetriclabError, found: Rehearsal, *, absent: bool) -> None:
    if absent:
        found.notes.append(f"the data are not here, and what depends on them is not checked: {error.message}")
    else:
        found.problems.append(error)


def _tables_of_encoders(method: ComponentSpec) -> Iterator[Mapping[str, Any]]:
    """Of those that a method has besides its network, as a teacher is."""
    for parameter in method.definition.parameters:
        table = method.params[parameter.name]
        if parameter.table_of is not None and parameter.table_of.kind == "encoder" and isinstance(table, Mapping):
            yield table


def _build_within(method: ComponentSpec, table: Mapping[str, Any]) -> None:
    build_encoder(method.inner("encoder", table))


def _offline(chosen: ComponentSpec) -> ComponentSpec:
    """The component without what it would fetch, nor would a component within it."""
    return replace(chosen, params=_without_fetching(chosen.params))


def _without_fetching(table: Mapping[str, Any]) -> dict[str, Any]:
    return {
        key: _without_fetching(value) if isinstance(value, Mapping) else False if _fetches(key, value) else value
        for key, value in table.items()
    }


def _fetches(key: str, value: object) -> bool:
    return key in ("pretrained", "download") and value is True


def _no_image() -> Any:
    """A black image, in place of those that are not here."""
    return ArrayDataset(np.zeros((1, 3, 64, 64), np.uint8), np.zeros(1, np.int64), ["black"], ["black"])
