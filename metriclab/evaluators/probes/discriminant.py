"""Linear discriminant analysis in closed form: what the linear probe fits where iterations would take hours."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float, Float64, Int64
from torch import Tensor

_TILE = 2**14


class Moments(NamedTuple):
    """What the analysis needs to know of the examples.

    Attributes:
        means: of each class.
        within: covariance of the examples around the means of their classes.
        shares: of the examples that are of each class.
    """

    means: Float64[Tensor, "c d"]
    within: Float64[Tensor, "d d"]
    shares: Float64[Tensor, "c"]


def moments(x: Float[Tensor, "n d"], y: Int64[Tensor, "n"], classes: int) -> Moments:
    """In one pass, a tile of rows at a time.

    Args:
        x: inputs.
        y: dense labels; every class has an example.
        classes: how many there are.
    """
    counts = torch.bincount(y, minlength=classes).double()
    sums = x.new_zeros(classes, x.shape[1], dtype=torch.float64)
    for part, labels in zip(torch.split(x, _TILE), torch.split(y, _TILE), strict=True):
        sums.index_add_(0, labels, part.double())
    means = sums / counts[:, None]
    within = x.new_zeros(x.shape[1], x.shape[1], dtype=torch.float64)
    for part, labels in zip(torch.split(x, _TILE), torch.split(y, _TILE), strict=True):
        around = part.double() - means[labels]
        within += around.T @ around
    return Moments(means, within / len(x), counts / len(x))


def discriminant(of: Moments, shrinkage: float) -> Float64[Tensor, "d_and_bias c"]:
    """The weights, their last row the biases, of the most probable class, given normal classes of one covariance.

    Paper: J. H. Friedman. Regularized Discriminant Analysis. JASA 1989 (shrinkage).

    Args:
        of: the examples.
        shrinkage: from 0, the covariance within the classes as it is, to 1, a multiple of the identity with its trace.
    """
    eye = torch.eye(len(of.within), dtype=torch.float64, device=of.within.device)
    # One example a class, or equal ones, have no covariance: the nearest mean is all there is to tell.
    variance = of.within.diagonal().mean()
    shrunken = (1 - shrinkage) * of.within + shrinkage * variance * eye
    weights = torch.linalg.solve(torch.where(variance > 1e-12, shrunken, eye), of.means.T)
    biases = of.shares.log() - (of.means.T * weights).sum(0) / 2
    return torch.cat([weights, biases[None]])
