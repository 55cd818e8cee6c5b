"""Whether a row is paired with itself: seen from outside, in batches all of whose pairs have one and the same cosine.

Where the mean over pairs counts each of k rows with itself, a class of k rows gives (k - 1) / k of the loss of a pair.
Where a softmax over all others counts the row itself, e^loss is larger by e^((1 - cosine) / temperature), whatever the
number of rows; without it, it is that number.
"""

from __future__ import annotations

import math
from dataclasses import replace

import torch

from metriclab.testing.any_loss.findings import Finding, number
from metriclab.testing.any_loss.trial import RawCase, Trial

_EXACT = 1e-6


def own_pairs(trial: Trial) -> Finding:
    """Rows count themselves neither among their positives nor in a softmax over all rows."""
    name = "own pairs"
    if trial.target.by_class or trial.convention.name == "rows" or trial.target.dims < 6:
        return Finding(name, "left out", "a batch is not held against itself")
    if not trial.two_views and (share := _share_of_pairs(trial)) is not None:
        text = f"a class of 2 rows at one cosine has {share:.3f} of the loss of a class of 5: own pairs are in the mean"
        seen = "the fewer rows a class has, the less its positives count, against what the formula says"
        return Finding(name, "falls short", text, seen)
    extra = _in_softmax(trial)
    if extra is not None:
        text = f"the softmax over other rows has the row itself in it: {number(extra)} beside the others of 1 each"
        seen = "the loss cannot fall to 0, and all rows are pushed less than they should be"
        return Finding(name, "falls short", text, seen)
    return Finding(name, "ok", "no row is its own positive or negative")


def _share_of_pairs(trial: Trial) -> float | None:
    """The loss of a class of 2 beside that of one of 5, where it grows as (k - 1) / k; None where it does not."""
    counts = (2, 3, 4, 5)
    losses = [_loss(trial, [0] * k, 0.3) - _loss(trial, [0] * k, 1.0) for k in counts]
    if abs(losses[0]) < _EXACT or not all(map(math.isfinite, losses)):
        return None
    expected = [2 * (k - 1) / k for k in counts]
    same = all(abs(loss / losses[0] - share) < _EXACT for loss, share in zip(losses, expected, strict=True))
    return losses[0] / losses[-1] if same else None


def _in_softmax(trial: Trial) -> float | None:
    """How much a row's own term weighs beside the others; None where there is none."""
    extra = [_extra(trial, pairs, 0.5) for pairs in (2, 3)]
    close = abs(extra[0] - extra[1]) <= _EXACT * max(map(abs, extra))
    itself = abs(_extra(trial, 3, 1.0) - 1) < 1e-4
    return extra[0] if close and itself and extra[0] > 1.05 else None


def _extra(trial: Trial, pairs: int, cosine: float) -> float:
    """e^loss of that many pairs of rows, less the number of other rows that each has."""
    labels = list(range(pairs)) if trial.two_views else list(range(pairs)) * 2
    loss = _loss(trial, labels, cosine)
    return math.exp(loss) - (2 * pairs - 1) if loss < 100 else math.inf


def _loss(trial: Trial, labels: list[int], cosine: float) -> float:
    given = trial.case("equal cosines", labels)
    try:
        value, _ = trial.evaluate(replace(given, z=_equal(given, cosine)))
    except Exception:  # other checks tell of that
        return math.nan
    return float(value)


def _equal(given: RawCase, cosine: float) -> torch.Tensor:
    """Unit rows, any two of them at this cosine."""
    n, dims = given.z.shape
    gram = (1 - cosine) * torch.eye(n, dtype=torch.float64) + cosine
    values, vectors = torch.linalg.eigh(gram)
    z = torch.zeros(n, dims, dtype=torch.float64)
    z[:, :n] = vectors * values.clamp(min=0).sqrt()
    return z
