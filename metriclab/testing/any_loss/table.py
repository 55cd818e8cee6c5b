"""All checks of anybody's loss, one after the other."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterator
from functools import partial

import torch

from metriclab.errors import RecipeError
from metriclab.testing.any_loss import edges, lasting, numbers
from metriclab.testing.any_loss.edges import _told
from metriclab.testing.any_loss.findings import Finding
from metriclab.testing.any_loss.on_ranks import several_ranks
from metriclab.testing.any_loss.own_pairs import own_pairs
from metriclab.testing.any_loss.trial import Trial

CHECKS: dict[str, Callable[[Trial], Finding]] = {
    "row order": numbers.row_order,
    "gradcheck": numbers.gradcheck,
    "signs": numbers.signs,
    "own pairs": own_pairs,
    "precision": numbers.precision,
    "float16": partial(numbers.half_precision, dtype=torch.float16),
    "bfloat16": partial(numbers.half_precision, dtype=torch.bfloat16),
    "autocast": numbers.autocast,
    "no pairs": edges.no_pairs,
    "one pair": edges.one_pair,
    "zero rows": edges.zero_rows,
    "identical rows": edges.same_rows,
    "a row of NaN": edges.not_a_number,
    "huge labels": numbers.huge_labels,
    "state": lasting.state,
    "memory": lasting.memory,
    "several ranks": lambda trial: several_ranks(trial)[1],
}
"""Name -> the check."""


def check_any_loss(trial: Trial, *, without: Collection[str] = ()) -> Iterator[Finding]:
    """What each check has to say of a loss, one after the other.

    Args:
        trial: the loss, and how it is called.
        without: names of checks to leave out.

    Raises:
        RecipeError: where it cannot be called on ordinary rows, so that there is nothing to check.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of libraries, about inputs that are odd on purpose
        _require_call(trial)
        for name, check in CHECKS.items():
            if name in without:
                yield Finding(name, "left out", "as asked for")
                continue
            try:
                yield check(trial)
            except Exception as error:
                yield Finding(name, "falls short", f"raises {_told(error)}", "such a batch ends the run")


def _require_call(trial: Trial) -> None:
    way = trial.convention.name
    try:
        value, gradient = trial.evaluate(trial.plain())
    except RecipeError:
        raise
    except Exception as error:
        raise RecipeError(
            f"{trial.target.place} fails on ordinary rows, called by {way}: {_told(error)}",
            help="give another way by --calls labels, views or rows, or other settings by --set",
        ) from error
    if not (value.isfinite() and gradient.any()):
        raise RecipeError(
            f"{trial.target.place} is {float(value)} on ordinary rows, called by {way}, with "
            f"{'a' if gradient.any() else 'no'} gradient: there is nothing to check",
            help="give another way by --calls labels, views or rows, or other settings by --set",
        )
