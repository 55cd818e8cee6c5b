"""The loss as a function: of the order of rows, of their precision, of labels, and whether its gradient is its own."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from metriclab.testing.any_loss.edges import _told
from metriclab.testing.any_loss.findings import Finding, number
from metriclab.testing.any_loss.trial import RawCase, Trial
from metriclab.testing.cases import evaluate, fresh
from metriclab.testing.gaps import deviation, gradient_fault, in_autocast, in_order_and_shuffled
from metriclab.testing.loss_signs import turning

HALF = {torch.float16: 0.02, torch.bfloat16: 0.1}
"""Largest deviation of a value in half precision, about 16 units in the last place."""

_DRAWS = "it draws at random, other numbers in each precision"
_FLOOR = 0.05  # values below are compared with this


def row_order(trial: Trial) -> Finding:
    given = trial.plain()
    one, other = in_order_and_shuffled(trial.loss, given, trial.shuffled(given), trial.convention.call)
    gaps = deviation(other[0], one[0], _FLOOR), deviation(other[1], one[1], 1e-6)
    if max(gaps) <= 1e-6:
        return Finding("row order", "ok", "does not matter")
    text = f"{number(float(one[0]))} or {number(float(other[0]))} by the order; the gradient differs by {gaps[1]:.1%}"
    seen = "which rows the sampler puts first changes what is learned, and runs of one batch do not agree"
    return Finding("row order", "falls short", text, seen)


def precision(trial: Trial) -> Finding:
    """float32 against float64, on plain rows and where positives are opposite and negatives near."""
    for given in (trial.plain(), _hard(trial)):
        single = given.to(torch.float32)
        value, gradient = trial.evaluate(single)
        if trial.draws:
            return Finding("precision", "left out", _DRAWS)
        exact, of_exact = trial.evaluate(replace(given, z=single.z.double()))
        gaps = deviation(value, exact, _FLOOR), deviation(gradient, of_exact, 1e-6)
        if not (gaps[0] <= 1e-4 and gaps[1] <= 1e-3):
            told = f"{number(float(value))} for {number(float(exact))}"
            text = f"{told} on {given.name}, the gradient off by {gaps[1]:.1%}"
            seen = "the hardest pairs, which should move most, get a wrong share of the gradient or none"
            return Finding("precision", "falls short", text, seen)
    return Finding("precision", "ok", "float32 is float64 to rounding, on hard pairs too")


def half_precision(trial: Trial, dtype: torch.dtype) -> Finding:
    """Embeddings in half precision, against float64 of the same numbers."""
    name = str(dtype).removeprefix("torch.")
    seen = "a network in half precision trains by a wrong loss, and no message says so"
    for given in (trial.plain().to(dtype), _hard(trial).to(dtype)):
        try:
            value, gradient = trial.evaluate(given)
        except Exception as error:
            seen = "a network in half precision ends at its first step"
            return Finding(name, "falls short", f"raises {_told(error)}", seen)
        if trial.draws and value.isfinite() and gradient.isfinite().all():
            return Finding(name, "left out", _DRAWS)
        exact, _ = trial.evaluate(replace(given, z=given.z.double()))
        found = _lower(name, float(value), float(exact), bool(gradient.isfinite().all()), HALF[dtype], seen)
        if found.status != "ok":
            return replace(found, text=f"{found.text} ({given.name})")
    return found


def autocast(trial: Trial) -> Finding:
    """float32 embeddings under bfloat16 autocast, which lowers the products that a loss makes by itself."""
    given = trial.plain().to(torch.float32)
    seen = "the same loss is another one inside the autocast block, where most training loops call it"
    try:
        value, gradient = evaluate(trial.loss, given, in_autocast(trial.convention.call))
    except Exception as error:
        return Finding("autocast", "falls short", f"raises {_told(error)}", "mixed precision ends at its first step")
    exact, _ = trial.evaluate(given)
    return _lower("autocast", float(value), float(exact), bool(gradient.isfinite().all()), HALF[torch.float16], seen)


def huge_labels(trial: Trial) -> Finding:
    """Labels that float32, and float64, cannot tell apart: 2^24 and one more, 2^53 and one more."""
    if trial.two_views or trial.target.by_class:
        why = "its labels are numbers of classes" if trial.target.by_class else "it takes none"
        return Finding("huge labels", "left out", why)
    given = trial.plain()
    huge = torch.tensor([2**24, 2**24 + 1, 2**53, 2**53 + 1])
    seen = "identities numbered by hashes or long numbers run together, and strangers are drawn to each other"
    try:
        value, _ = trial.evaluate(replace(given, labels=huge[given.labels]))
    except Exception as error:
        return Finding("huge labels", "falls short", f"raises {_told(error)}", "such identities have to be renumbered")
    expected, _ = trial.evaluate(given)
    if deviation(value, expected, _FLOOR) <= 1e-6:
        return Finding("huge labels", "ok", "2^24 + 1 and 2^53 + 1 are labels like others")
    text = f"{number(float(value))} for {number(float(expected))} with labels 2^24 and 2^24 + 1, 2^53 and 2^53 + 1"
    return Finding("huge labels", "falls short", text, seen)


def gradcheck(trial: Trial) -> Finding:
    call, given = trial.convention.call, trial.plain(12)
    fault = gradient_fault(trial.loss, given, call)
    if fault is not None and _may_have_changed(trial, given):  # numerical derivatives need one state
        fault = gradient_fault(trial.loss, given, lambda loss, rows: call(fresh(trial.loss), rows))
    if fault is None:
        return Finding("gradcheck", "ok", "the gradient is that of the value")
    text = f"the gradient is not that of the value: {_difference(fault)}"
    seen = "the optimizer follows something else than the logged loss; fine where a part is held constant on purpose"
    return Finding("gradcheck", "falls short", text, seen)


def _may_have_changed(trial: Trial, given: RawCase) -> bool:
    """Whether calls change it; where nothing is learned in it, a fresh one for each call does as well."""
    one: Any = fresh(trial.loss)
    learns = isinstance(one, nn.Module) and next(one.parameters(), None) is not None
    first, second = (trial.convention.call(one, given.rows(given.z.clone().requires_grad_())) for _ in range(2))
    return not learns or not torch.equal(first, second)


def _difference(fault: str) -> str:
    """The two derivatives along one direction, where gradcheck names them."""
    found = re.search(r"numerical:(\S+) analytical:(\S+)", fault)
    return f"{float(found[2]):.4g} along a direction in which it grows by {float(found[1]):.4g}" if found else fault


def signs(trial: Trial) -> Finding:
    """Whether positives are drawn together and negatives pushed apart, as one row turns and nothing else changes."""
    if trial.target.by_class:
        return Finding("signs", "left out", "it holds rows against classes")
    call, dims = trial.convention.call, trial.target.dims
    pulls, pushes = (turning(trial.loss, _arranged(trial, alike), call, 2, dims) for alike in (True, False))
    pull, push = (min(pulls), max(pulls)), (min(pushes), max(pushes))
    seen = "training makes retrieval worse, or leaves it as it is"
    if pull[0] >= -1e-9:
        text = f"positives are never drawn together: the derivative by their cosine is {pull[1]:.2g}"
        return Finding("signs", "falls short", text, seen)
    if pull[1] > 1e-6:
        text = f"positives are pushed apart at some angle: {pull[1]:.2g} by their cosine"
        return Finding("signs", "told" if trial.two_views else "falls short", text, seen)
    if trial.two_views and push[1] <= 1e-9 and push[0] >= -1e-9:
        return Finding("signs", "ok", "positives are drawn together; it has no negatives")
    if push[0] < -1e-6 or push[1] <= 0:
        text = f"negatives are drawn together at some angle: {push[0]:.2g} by their cosine"
        text = text if push[0] < -1e-6 else "negatives are never pushed apart"
        return Finding("signs", "told" if trial.two_views else "falls short", text, seen)
    return Finding("signs", "ok", "positives are drawn together, negatives pushed apart")


def _arranged(trial: Trial, alike: bool) -> Callable[[Tensor], RawCase]:
    """Two classes of two rows, of which the first two are of one class or of two."""
    if trial.two_views:
        return partial(_quadruple, [0, 0, 1, 1] if alike else [0, 1, 0, 1], [0, 1, 0, 1] if alike else [0, 0, 1, 1])
    sides = [0] * 4 if trial.convention.sides == 1 else [0, 1, 1, 1]  # the one anchor does not turn
    return partial(_quadruple, [0, 0, 1, 1] if alike else [0, 1, 1, 0], sides)


def _quadruple(labels: list[int], sides: list[int], z: Tensor) -> RawCase:
    return RawCase("two pairs", z, torch.tensor(labels), torch.arange(len(labels)), torch.tensor(sides))


def _hard(trial: Trial) -> RawCase:
    """Pairs whose rows are opposite, and near those of all other classes."""
    given = trial.case("hard pairs", torch.arange(4)) if trial.convention.sides == 2 else None
    given = given or trial.case("hard pairs", torch.arange(4).repeat(2))
    z = 0.05 * given.z
    z[:, 0] = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat_interleave(4)
    return replace(given, z=z)


def _lower(name: str, value: float, exact: float, finite: bool, tolerance: float, seen: str) -> Finding:
    if not finite:
        return Finding(name, "falls short", f"the loss is {number(value)}, and its gradient is not finite", seen)
    gap = abs(value - exact) / max(abs(exact), _FLOOR)
    if gap <= tolerance:
        return Finding(name, "ok", f"off by {gap:.1%}")
    return Finding(name, "falls short", f"{number(value)} for {number(exact)}, off by {gap:.0%}", seen)
