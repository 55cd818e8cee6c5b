"""Whether a loss attracts rows of one label and repels rows of different labels."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

from metriclab.core.protocols import Loss
from metriclab.testing.cases import Call, Case, evaluate, square

ANGLES = (0.3, 0.8, 1.5, 2.6)
"""Between the rows of a triplet, in radians: near and far, as hinges are flat somewhere."""


def check_signs(loss: Loss) -> None:
    """Asserts that positives are never pushed apart, negatives never together, and both move somewhere."""
    name = type(loss).__name__
    pulls = turning(loss, lambda z: _triplet(z, [0, 0, 1]))
    assert max(pulls) <= 1e-9, f"{name} pushes positives apart: its derivative by their cosine is {max(pulls):.3g}"
    assert min(pulls) < 0, (
        f"{name} never draws positives together, whatever their angle: it only pushes, or does nothing"
    )
    pushes = turning(loss, lambda z: _triplet(z, [0, 1, 0]))
    assert min(pushes) >= -1e-9, f"{name} draws negatives together: its derivative by their cosine is {min(pushes):.3g}"
    assert max(pushes) > 0, f"{name} never pushes negatives apart, whatever their angle: it only pulls"


def turning(
    loss: Loss, arranged: Callable[[Tensor], Case], call: Call = square, others: int = 1, dims: int = 0
) -> list[float]:
    """Derivatives of the loss as the second row turns towards the first, at many angles, leaving all other cosines.

    Args:
        loss: the loss.
        arranged: a case of these rows of float64: the first, the second, and the others.
        call: how the loss is called.
        others: how many other rows there are.
        dims: dimensions of the rows, as many as they need at least.
    """
    axes = torch.eye(2 + others, max(dims, 2 + others), dtype=torch.float64)
    return [_derivative(loss, arranged, call, axes, near, far) for near in ANGLES for far in ANGLES]


def _triplet(z: Tensor, labels: list[int]) -> Case:
    return Case("a triplet", z, torch.tensor(labels), torch.arange(3))


def _derivative(
    loss: Loss, arranged: Callable[[Tensor], Case], call: Call, axes: Tensor, angle: float, other: float
) -> float:
    first, second = axes[0], math.cos(angle) * axes[0] + math.sin(angle) * axes[1]
    # The others leave the plane in which the second turns at a right angle to that turn.
    rest = math.cos(other) * second + math.sin(other) * axes[2:]
    towards = math.sin(angle) * axes[0] - math.cos(angle) * axes[1]
    given = arranged(torch.cat([torch.stack([first, second]), rest]))
    _, gradient = evaluate(loss, given, call)
    return float(gradient[1] @ towards)
