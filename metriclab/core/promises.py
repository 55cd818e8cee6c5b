"""What can be seen of a component before it is used: the part of its protocol that costs next to nothing to check.

A run looks at every plugin that it builds, and the conformance kit at every component, by these functions.
"""

from __future__ import annotations

import inspect
import math
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from metriclab.core.batch import Images
from metriclab.core.pairs import Pairs, all_pairs
from metriclab.core.protocols import Objective, Score
from metriclab.core.rows import Rows
from metriclab.core.samples import SomeEncoder, some_rows
from metriclab.errors import MetriclabError, PluginError


class BrokenPromise(PluginError, AssertionError):
    """A component is not what the protocol of its kind asks for; the text names it and says what is wrong.

    To a run it is a broken plugin, to the conformance kit a check that fails.
    """


def ask(kept: Any, text: str) -> None:
    """Raises a BrokenPromise with this text unless it is kept."""
    if not kept:
        raise BrokenPromise(text)


def check_built(kind: str, component: Any, *given: Any) -> None:
    """Checks a component of one of the registry's kinds, which was just built with what is given by position."""
    name = type(component).__name__
    if kind in ("encoder", "head", "memory", "method"):
        ask(isinstance(component, nn.Module), f"{name} is no nn.Module: it could be neither trained nor saved")
    functions, look = _PROTOCOLS[kind]
    for function in functions:
        ask(callable(getattr(component, function, None)), f"{name} has no function `{function}`, which a run calls")
    if look is not None:
        look(component, *given)


def check_dataset(data: Any, split: str, /) -> None:
    """Labels, classes and names of a split, and its first image."""
    what = f"{type(data).__name__} ({split})"
    labels: Any = getattr(data, "labels", None)
    fits = isinstance(labels, np.ndarray) and labels.dtype == np.int64 and labels.ndim == 1
    found = f"{labels.dtype} of shape {labels.shape}" if isinstance(labels, np.ndarray) else type(labels).__name__
    ask(fits, f"the labels of {what} are {found}, expected a numpy array of int64 of one axis")
    for key in ("names", "classes"):
        ask(hasattr(data, key), f"{what} has no attribute `{key}`")
    # Not computed, which may mean to read every image.
    there = inspect.getattr_static(data, "fingerprint", None) is not None or hasattr(type(data), "__getattr__")
    ask(there, f"{what} has no attribute `fingerprint`")
    ask(len(data.names) == len(labels), f"{what} has {len(data.names)} names for {len(labels)} items")
    top = int(labels.max(initial=-1))
    ask(top < len(data.classes), f"{what} has the label {top}, and {len(data.classes)} classes")
    if len(labels):
        try:
            images = data.images(np.arange(1))
        except MetriclabError:  # a file that gives no image is told where it is read
            return
        check_images(images, 1, what)


def check_images(images: Any, count: int, what: str) -> None:
    """That a data set gave this many images."""
    ask(isinstance(images, Images), f"{what} gives a {type(images).__name__}, not Images")
    pixels, sizes = images.pixels, images.sizes
    if images.are_features:
        ask(len(pixels) == count, f"{what} gives {len(pixels)} rows of features for {count} items")
        ask(pixels.isfinite().all(), f"{what} gives features that are not finite")
        return
    whole = pixels.dtype in (torch.uint8, torch.uint16)
    ask(whole, f"{what} gives pixels of {pixels.dtype}, expected uint8 or uint16: views make floats")
    fits = pixels.dim() == 4 and len(pixels) == count and pixels.shape[1] > 0
    ask(fits, f"{what} gives pixels of shape {tuple(pixels.shape)} for {count} items, expected (n, c, h, w)")
    fits = tuple(sizes.shape) == (count, 2) and sizes.dtype == torch.int64
    ask(fits, f"{what} gives sizes of {sizes.dtype} and shape {tuple(sizes.shape)}, expected int64 of (n, 2)")
    within = (sizes >= 1).all() and (sizes <= torch.tensor(pixels.shape[2:], device=sizes.device)).all()
    ask(within, f"{what} gives sizes that are empty or beyond its padded pixels {tuple(pixels.shape[2:])}")


def check_views(views: Any, images: Images, made: Any, test: Any) -> None:
    """What a call of views, and of their test view, made of some images."""
    name = type(views).__name__
    ask(isinstance(made, tuple), f"{name} returns a {type(made).__name__}, not a tuple of views")
    ask(len(made) == views.count, f"{name} returns {len(made)} views, and says count = {views.count}")
    n, channels = images.pixels.shape[:2]
    for what, view in [*((f"view {place}", view) for place, view in enumerate(made)), ("test", test)]:
        ask(isinstance(view, Tensor), f"{name}: {what} is a {type(view).__name__}, not a tensor")
        shape = tuple(view.shape)
        fits = len(shape) == 4 and shape[:2] == (n, channels)
        ask(fits, f"{name}: {what} has shape {shape} for {n} images of {channels} channels, expected (n, c, h, w)")
        ask(view.dtype == torch.float32, f"{name}: {what} is {view.dtype}, expected float32")
        ask(view.isfinite().all(), f"{name}: {what} is not finite")
        low, high = float(view.min()), float(view.max())
        ask(
            low >= 0 and high <= 1,
            f"{name}: {what} has values from {low:.3g} to {high:.3g}, expected [0, 1]: mean and standard deviation "
            "belong to the encoder, and what exceeds the range is clamped",
        )
        ask(not view.requires_grad, f"{name}: {what} carries a graph: make views under no_grad")


def check_features(module: Any, features: Any, count: int, where: str) -> None:
    """What an encoder or a head gave for this many images or rows."""
    name, width = type(module).__name__, module.out_features
    ask(isinstance(features, Tensor), f"{name} gives a {type(features).__name__} {where}, not a tensor")
    shape = tuple(features.shape)
    ask(shape == (count, width), f"{name} gives shape {shape} {where}, expected ({count}, out_features = {width})")


def check_scalar(loss: Any, value: Any) -> None:
    """What a loss returned."""
    name = getattr(loss, "__qualname__", type(loss).__name__)
    ask(isinstance(value, Tensor), f"{name} returns a {type(value).__name__}, expected a scalar tensor")
    ask(value.shape == (), f"{name} returns shape {tuple(value.shape)}, expected a scalar")


def check_objective(method: Any, objective: Objective) -> None:
    """What a method minimises."""
    name = type(method).__name__
    loss, metrics = objective
    ask(isinstance(loss, Tensor), f"{name}.objective returns a loss that is a {type(loss).__name__}, not a tensor")
    ask(loss.shape == (), f"{name}.objective returns a loss of shape {tuple(loss.shape)}, not a scalar")
    for key, value in metrics.items():
        ask(isinstance(value, Tensor), f"metric '{key}' of {name} is a {type(value).__name__}, not a tensor")
        ask(value.shape == (), f"metric '{key}' of {name} has shape {tuple(value.shape)}, not a scalar")


def check_batch(what: str, batch: Any, batch_size: int, items: int) -> None:
    """One batch of a sampler."""
    ask(isinstance(batch, np.ndarray), f"{what} is a {type(batch).__name__}, expected a numpy array")
    fits = batch.dtype == np.int64 and batch.ndim == 1
    ask(fits, f"{what} is {batch.dtype} of shape {batch.shape}, expected int64 of one axis")
    size = len(batch)
    ask(0 < size <= batch_size, f"{what} has {size} items, expected 1 to {batch_size}, which is batch_size")
    low, high = int(batch.min()), int(batch.max())
    ask(low >= 0 and high < items, f"{what} holds items {low} to {high}, of 0 to {items - 1}")


def check_factor(factor: Any, step: int, total: int) -> None:
    """One factor of a schedule."""
    number = isinstance(factor, int | float) and math.isfinite(factor) and factor >= 0
    ask(number, f"the schedule gives {factor!r} in step {step} of {total}, expected a number, 0 or more")


def check_scores(name: str, scores: Any, queries: int, where: str = "") -> None:
    """What an evaluator measured of this many queries."""
    ask(isinstance(scores, Mapping), f"{name} returns a {type(scores).__name__}{where}, not metrics by name")
    for key, score in scores.items():
        what = f"'{key}' of {name}{where}"
        ask(isinstance(score, Score), f"{what} is a {type(score).__name__}, not a Score")
        ask(isinstance(score.value, float), f"the value of {what} is a {type(score.value).__name__}, expected a float")
        values = score.per_query
        fits = isinstance(values, Tensor) and values.dim() == 1 and len(values) in (0, queries)
        shape = tuple(values.shape) if isinstance(values, Tensor) else type(values).__name__
        ask(fits, f"{what} has per_query of shape {shape} for {queries} queries: one value each, or none")
        ask(not values.requires_grad, f"per_query of {what} carries a graph: measure under no_grad")
        ask(
            score.definition.strip(),
            f"{what} has no definition: say in a sentence how it is computed, with k, the self-match rule, ties and "
            "queries without matches, as runs are only compared where definitions are equal",
        )


def check_mined(name: str, mined: Any, pairs: Pairs, what: str) -> None:
    """What a miner chose among pairs."""
    ask(isinstance(mined, Pairs), f"{name} returns a {type(mined).__name__}, not Pairs")
    for field in ("similarity", "anchors", "references", "embedding_dim"):
        ask(
            getattr(mined, field) is getattr(pairs, field),
            f"{name} changes the {field} of its pairs: return dataclasses.replace(pairs, positive=..., negative=...), "
            "which keeps them",
        )
    for side in ("positive", "negative"):
        mask, whole = getattr(mined, side), getattr(pairs, side)
        fits = mask.dtype == torch.bool and mask.shape == whole.shape
        ask(fits, f"{name} returns a {side} mask of {mask.dtype} and shape {tuple(mask.shape)} on {what}")
        ask(not (mask & ~whole).any(), f"{name} adds {side} pairs on {what}: masks may only shrink")


def _module(module: Any, *in_features: int) -> None:
    name, width = type(module).__name__, getattr(module, "out_features", None)
    ask(isinstance(width, int), f"{name}.out_features is {width}, expected the width of what it gives")


def _sampler(sampler: Any, labels: np.ndarray, /) -> None:
    name = type(sampler).__name__
    for key in ("batch_size", "steps"):
        value: Any = getattr(sampler, key, None)
        whole = isinstance(value, int | np.integer) and value >= 1
        ask(whole, f"{name}.{key} is {value}, expected a whole number, 1 or more")
    for batch in sampler.epoch(0):
        check_batch(f"the first batch of {name}.epoch(0)", batch, sampler.batch_size, len(labels))
        break


def _views(views: Any) -> None:
    count = getattr(views, "count", None)
    named = f"{type(views).__name__}.count is {count}"
    ask(isinstance(count, int) and count >= 1, f"{named}: a run needs a number of views, one at least")


def _memory(memory: Any, embedding_dim: int, *classes: Any) -> None:
    name, held = type(memory).__name__, memory.rows()
    ask(isinstance(held, Rows), f"{name}.rows returns a {type(held).__name__}, not Rows")
    ask(
        held.embedding_dim == embedding_dim,
        f"{name} holds rows of {held.embedding_dim} dimensions, and was given {embedding_dim}",
    )


def _method(method: Any, *given: Any) -> None:
    _known_value(method, "trains_on", ("images", "features"))
    _known_value(method, "remembers", ("z", "h"))
    ask(
        isinstance(getattr(method, "network", None), nn.Module),
        f"{type(method).__name__} has no module `network`, from which a run takes encoder and head: keep what it is "
        "given",
    )


def _optimizer(optimizer: Any, modules: Mapping[str, nn.Module], /) -> None:
    name = type(optimizer).__name__
    ask(isinstance(optimizer, Optimizer), f"{name} is no torch.optim.Optimizer")
    held = [id(parameter) for group in optimizer.param_groups for parameter in group["params"]]
    for group_name, module in modules.items():
        for key, parameter in module.named_parameters():
            found, expected = held.count(id(parameter)), int(parameter.requires_grad)
            ask(
                found == expected,
                f"{name} has parameter '{group_name}.{key}' {found} times, expected {expected}: a trained one once, a "
                "frozen one never; one that two modules share belongs to the first",
            )
    for group in optimizer.param_groups:
        for key in ("name", "initial_lr"):
            ask(key in group, f"a group of {name} has no '{key}', from which the run sets lr = initial_lr x schedule")


def _schedule(schedule: Any, total_steps: int, /) -> None:
    for step in (0, total_steps - 1):
        check_factor(schedule(step), step, total_steps)


def _known_value(component: Any, key: str, values: tuple[str, ...]) -> None:
    value = getattr(component, key, values[0])
    ask(value in values, f"{type(component).__name__}.{key} is {value!r}, expected {' or '.join(map(repr, values))}")


def _evaluator(evaluator: Any) -> None:
    _known_value(evaluator, "wants", ("rows", "encoder"))
    some = some_rows()
    given = (some, some) if getattr(evaluator, "wants", "rows") == "rows" else (SomeEncoder(some, some),)
    try:
        scores = evaluator(*given)
    except Exception:  # it may need more rows than these; what it raises on its own is told there
        return
    check_scores(type(evaluator).__name__, scores, len(some))


def _miner(miner: Any) -> None:
    pairs = all_pairs(some_rows(), some_rows())
    try:
        mined = miner(pairs)
    except Exception:  # as above
        return
    check_mined(type(miner).__name__, mined, pairs, "a few pairs")


_PROTOCOLS: dict[str, tuple[tuple[str, ...], Callable[..., None] | None]] = {
    "dataset": (("images",), check_dataset),
    "views": (("__call__", "test"), _views),
    "sampler": (("epoch",), _sampler),
    "encoder": ((), _module),
    "head": ((), _module),
    "loss": (("__call__",), None),
    "miner": (("__call__",), _miner),
    "memory": (("rows", "push"), _memory),
    "method": (("objective", "after_step"), _method),
    "optimizer": ((), _optimizer),
    "schedule": (("__call__",), _schedule),
    "evaluator": (("__call__",), _evaluator),
    "tracker": (("log", "close"), None),
}
"""By kind: what a run calls of it, and what else there is to see."""
