"""Batches in which losses of this field have failed: without pairs, with one, with rows that are zero or the same."""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from metriclab.testing.any_loss.findings import Finding, number
from metriclab.testing.any_loss.trial import RawCase, Trial
from metriclab.testing.gaps import deviation

STEEP = 1e6
"""A gradient of rows of ordinary length beyond this is none to train by."""

_TURN = 0.00632  # radians: a cosine of 1 - 2e-5, beyond what masks of copies allow for


def no_pairs(trial: Trial) -> Finding:
    """A batch without positives, without negatives, and of one row."""
    if trial.two_views:
        cases = [trial.case("a single pair of views", [0])]
    else:
        apart = ([1, 1, 1], [2, 2, 2]) if trial.convention.sides == 2 else (list(range(6)),)
        cases = [
            trial.case("no positive pair", *apart),
            trial.case("no negative pair", [1, 1, 1, 1]),
            trial.case("a single row" if len(apart) == 1 else "a single anchor and reference", [0]),
        ]
    return _all_finite(
        trial,
        "no pairs",
        cases,
        "one such batch, as the last of an epoch often is, turns every weight of the network into NaN or ends the run",
    )


def one_pair(trial: Trial) -> Finding:
    """Rows with one positive and one negative pair, placed as badly as can be: something must move."""
    name = "one pair"
    if trial.two_views or trial.target.by_class:
        return Finding(name, "left out", "it pairs no labels")
    given = trial.case("one pair", [0], [0, 1]) if trial.convention.sides == 2 else trial.case("one pair", [0, 0, 1])
    z = torch.zeros_like(given.z)
    z[0, 0] = z[1, 1] = z[2, 0] = 1
    z[2, 1] = 0.1
    try:
        value, gradient = trial.evaluate(replace(given, z=z))
    except Exception as error:
        return Finding(name, "falls short", f"raises {_told(error)}", "a batch with few pairs ends the run")
    if not bool(gradient.any()):
        seen = "batches in which few pairs are left, as by a miner, teach nothing, and the log shows a perfect loss"
        text = f"the loss is {number(float(value))} without any gradient, for a far positive and a near negative"
        return Finding(name, "falls short", text, seen)
    return Finding(name, "ok", f"the loss is {number(float(value))}, with a gradient")


def zero_rows(trial: Trial) -> Finding:
    """Rows that are all zeros, as dead features or padding give."""
    given = trial.plain()
    z = given.z.index_fill(0, torch.tensor([0, 1]), 0)
    seen = "one dead or padded row throws the weights far away in a single step, or makes them NaN"
    return _all_finite(trial, "zero rows", [replace(given, name="rows of zeros", z=z)], seen)


def same_rows(trial: Trial) -> Finding:
    """All rows the same, all opposite, and two rows of a class that are copies of each other."""
    given = trial.plain()
    same = replace(given, name="identical rows", z=given.z[:1].expand_as(given.z).contiguous())
    signs = torch.tensor([1.0, -1.0], dtype=torch.float64).repeat(len(given.z))[: len(given.z), None]
    opposite = replace(given, name="opposite rows", z=given.z[:1] * signs)
    seen = "a collapsed or a constant network, as at its start, gives NaN in place of a way out"
    found = _all_finite(trial, "identical rows", [same, opposite], seen)
    if found.status != "ok" or trial.target.by_class:
        return found
    copied, turned = (trial.evaluate(_copies(trial, turn))[0] for turn in (0.0, _TURN))
    gap = deviation(copied, turned, 1e-3)
    if gap > 0.05:
        text = f"{number(float(copied))} where two rows of a class are equal, {number(float(turned))} at cosine 0.99998"
        seen = "images that are there twice, and views that changed nothing, drop out of the pairs, and the loss jumps"
        return Finding("identical rows", "falls short", text, seen)
    return found


def not_a_number(trial: Trial) -> Finding:
    """A row that is NaN must be seen in the loss."""
    given = trial.plain()
    z = given.z.clone()
    z[0] = math.nan
    try:
        value, _ = trial.evaluate(replace(given, z=z))
    except Exception as error:
        return Finding("a row of NaN", "ok", f"raises {_told(error)}")
    if value.isfinite():
        seen = "a network that diverged goes on training, and no log says so"
        return Finding("a row of NaN", "falls short", f"the loss is {number(float(value))} all the same", seen)
    return Finding("a row of NaN", "ok", "is seen in the loss")


def _copies(trial: Trial, turn: float) -> RawCase:
    """Pairs, the first of which are copies; turned out of the plane of all others, so that only that pair changes."""
    pairs = torch.arange(3)
    given = trial.case("copies", pairs) if trial.convention.sides == 2 else trial.case("copies", pairs.repeat(2))
    z = torch.nn.functional.normalize(given.z)
    z[:, -1] = 0
    z[3] = z[0] * math.cos(turn)
    z[3, -1] = z[0].norm() * math.sin(turn)
    return replace(given, z=z)


def _all_finite(trial: Trial, name: str, cases: list[RawCase], seen: str) -> Finding:
    for given in cases:
        try:
            value, gradient = trial.evaluate(given)
        except Exception as error:
            return Finding(name, "falls short", f"raises on {given.name}: {_told(error)}", seen)
        if not value.isfinite():
            return Finding(name, "falls short", f"the loss is {float(value)} for {given.name}", seen)
        if not gradient.isfinite().all():
            return Finding(name, "falls short", f"the gradient is not finite for {given.name}", seen)
        largest = float(gradient.abs().max()) if gradient.numel() else 0.0
        if largest > STEEP:
            return Finding(name, "falls short", f"the gradient is {number(largest)} for {given.name}", seen)
    return Finding(name, "ok", "finite: " + ", ".join(given.name for given in cases))


def _told(error: Exception) -> str:
    text = (str(error).strip().splitlines() or [""])[0]
    return f"{type(error).__name__}: {text[:100]}"
