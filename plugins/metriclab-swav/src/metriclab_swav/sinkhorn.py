"""Codes by the algorithm of Sinkhorn and Knopp."""

from __future__ import annotations

import torch
from jaxtyping import Bool, Float
from torch import Tensor


@torch.no_grad()
def sinkhorn(
    scores: Float[Tensor, "n k"], counted: Bool[Tensor, "n"], epsilon: float, iterations: int
) -> Float[Tensor, "n k"]:
    """Spreads n rows over k prototypes evenly, near ones first: a soft code for each row, which sums to 1.

    In turn, the rows counted are shared out so that every prototype has as much of them as any other, and every row is
    brought back to a sum of 1; this comes last. It works on logarithms: no epsilon overflows.

    Paper: Caron et al., NeurIPS 2020, arXiv 2006.09882, equations 3 to 5; Cuturi, Sinkhorn Distances, NeurIPS 2013.

    Args:
        scores: cosines of rows and prototypes.
        counted: rows that take part; the others get a code by the same scales, and have no say in them.
        epsilon: weight of the entropy: the smaller, the harder the codes.
        iterations: 3 in the paper, which leaves prototypes nearly even.
    """
    codes = scores / epsilon
    absent = torch.zeros_like(codes[:, :1]).masked_fill(~counted[:, None], -torch.inf)
    for _ in range(iterations):
        codes = codes - (codes + absent).logsumexp(0, keepdim=True)
        codes = codes - codes.logsumexp(1, keepdim=True)
    return codes.exp()
