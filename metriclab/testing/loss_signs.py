"""Whether a loss attracts rows of one label and repels rows of different labels."""

from __future__ import annotations

import math

import torch

from metriclab.core.protocols import Loss
from metriclab.testing.cases import Case, evaluate

ANGLES = (0.3, 0.8, 1.5, 2.6)
"""Between the rows of a triplet, in radians: near and far, as hinges are flat somewhere."""


def check_signs(loss: Loss) -> None:
    """Asserts that positives are never pushed apart, negatives never together, and both move somewhere."""
    name = type(loss).__name__
    pulls = [_derivative(loss, near, far, [0, 0, 1]) for near in ANGLES for far in ANGLES]
    assert max(pulls) <= 1e-9, f"{name} pushes positives apart: its derivative by their cosine is {max(pulls):.3g}"
    assert min(pulls) < 0, (
        f"{name} never draws positives together, whatever their angle: it only pushes, or does nothing"
    )
    pushes = [_derivative(loss, near, far, [0, 1, 0]) for near in ANGLES for far in ANGLES]
    assert min(pushes) >= -1e-9, f"{name} draws negatives together: its derivative by their cosine is {min(pushes):.3g}"
    assert max(pushes) > 0, f"{name} never pushes negatives apart, whatever their angle: it only pulls"


def _derivative(loss: Loss, angle: float, other: float, labels: list[int]) -> float:
    """Of the loss as the second row turns towards the first, at `angle`, leaving its cosine with the third."""
    first = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    second = torch.tensor([math.cos(angle), math.sin(angle), 0.0], dtype=torch.float64)
    upwards = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    # The third row leaves the plane in which the second turns at a right angle to that turn.
    third = math.cos(other) * second + math.sin(other) * upwards
    towards = torch.tensor([math.sin(angle), -math.cos(angle), 0.0], dtype=torch.float64)
    given = Case("a triplet", torch.stack([first, second, third]), torch.tensor(labels), torch.arange(3))
    _, gradient = evaluate(loss, given)
    return float(gradient[1] @ towards)
