"""What a loss keeps from call to call, and how much it holds during one."""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from metriclab.testing.any_loss.edges import _told
from metriclab.testing.any_loss.findings import Finding, number
from metriclab.testing.any_loss.trial import Trial
from metriclab.testing.cases import fresh
from metriclab.testing.gaps import after_saving, deviation
from metriclab.testing.meter import measure

_GROWTH = ((1.5, "constant", 0), (3.0, "linear", 1), (6.0, "quadratic", 2), (torch.inf, "cubic", 3))
_MOST_ROWS, _MOST_BYTES, _MANY = 2048, 16_000_000, 16_384


def state(trial: Trial) -> Finding:
    """Saved and loaded in the middle it goes on as it would have; in eval() it learns nothing; a NaN does not stay."""
    call = trial.convention.call
    batches = [trial.plain(seed=seed) for seed in range(3)]
    try:
        value, again, loaded = after_saving(trial.loss, batches, call)
    except Exception as error:
        return Finding("state", "falls short", f"raises when loaded: {_told(error)}", "a run cannot be resumed")
    if deviation(again, value, 0.05) > 1e-6:
        text = f"{number(float(again))} after saving and loading, {number(float(value))} without"
        return Finding("state", "falls short", text, "a run that is resumed goes on by another loss than it had")
    if isinstance(loaded, nn.Module):
        still = loaded.eval()
        with torch.no_grad():
            first, second = (float(call(still, batches[1].rows())) for _ in range(2))
        if abs(first - second) > 1e-6 * max(abs(first), 0.05):
            text = f"{number(first)}, then {number(second)} for the same rows in eval()"
            seen = "measuring a loss on val changes what is trained after it, and val leaks into it"
            return Finding("state", "falls short", text, seen)
    one = fresh(trial.loss)
    for z in (batches[0].z.index_fill(0, torch.tensor([0]), torch.nan), batches[0].z):
        value = call(one, replace(batches[0], z=z).rows(z.clone().requires_grad_()))
    if not value.isfinite():
        seen = "one bad image, skipped by a gradient scaler, ends the run all the same"
        return Finding("state", "falls short", "one row of NaN makes every later loss NaN", seen)
    kept = _keeps_state(trial)
    return Finding("state", "ok", "is saved, and loaded" if kept else "none is kept between calls")


def memory(trial: Trial) -> Finding:
    """The largest tensor of value and gradient, for N rows and for 2N. Told: no size is wrong by itself."""
    n, sizes = 64, []
    try:
        sizes = [_largest(trial, 64), _largest(trial, 128)]
        while 2 * n < _MOST_ROWS and sizes[1] < _MOST_BYTES:  # what works in tiles shows it only in large batches
            n, sizes = 2 * n, [sizes[1], _largest(trial, 4 * n)]
    except Exception as error:
        return Finding("memory", "told", f"not known: beyond {n} rows it raises {_told(error)}")
    ratio = sizes[1] / sizes[0]
    growth, power = next((name, power) for limit, name, power in _GROWTH if ratio < limit)
    many = sizes[1] * (_MANY / (2 * n)) ** power
    told = {n: sizes[0], 2 * n: sizes[1], _MANY: many}
    text = f"{growth}: " + ", ".join(f"{_bytes(size)} for {rows:,} rows" for rows, size in told.items())
    return Finding("memory", "told", text)


def _largest(trial: Trial, n: int) -> int:
    half = torch.arange(n // trial.convention.sides)
    labels = half % 4 if trial.target.by_class else half if trial.two_views else half // 4
    given = trial.case("many rows", labels).to(torch.float32)
    with measure() as meter:
        trial.evaluate(given)
    return meter.largest_bytes


def _keeps_state(trial: Trial) -> bool:
    one: Any = fresh(trial.loss)
    before = copy.deepcopy(dict(one.named_buffers())) if isinstance(one, nn.Module) else {}
    z = trial.plain().z.requires_grad_()
    trial.convention.call(one, trial.plain().rows(z))
    return any(not torch.equal(buffer, before[name]) for name, buffer in one.named_buffers()) if before else False


def _bytes(size: int | float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.3g} {unit}"
        size /= 1000
    return f"{size:.3g} TB"
