"""What miners are written with. Everything is by anchor, so tiles and ranks cannot matter."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from metriclab.core.pairs import Pairs


def choose(
    pairs: Pairs, *, positive: Bool[Tensor, "b m"] | None = None, negative: Bool[Tensor, "b m"] | None = None
) -> Pairs:
    """The pairs that are in these masks too; a side without a mask stays whole.

    A pair whose similarity is NaN always stays: a miner must not hide divergence from the loss.
    """
    broken = pairs.similarity.detach().isnan()
    return replace(
        pairs,
        positive=pairs.positive if positive is None else pairs.positive & (positive | broken),
        negative=pairs.negative if negative is None else pairs.negative & (negative | broken),
    )


def noise(pairs: Pairs) -> float:
    """Similarities this close are equal: a choice must not depend on the order in which a product is summed."""
    return float(8 * torch.finfo(pairs.similarity.dtype).eps)


def nearest_similarity(pairs: Pairs, among: Bool[Tensor, "b m"]) -> Float[Tensor, "b 1"]:
    """Similarity of each anchor's nearest reference among some, -inf without one."""
    values = torch.where(among, pairs.similarity.detach(), -torch.inf)
    return values.amax(1, keepdim=True) if values.shape[1] > 0 else _none(values)


def farthest_similarity(pairs: Pairs, among: Bool[Tensor, "b m"]) -> Float[Tensor, "b 1"]:
    """Similarity of each anchor's farthest reference among some, inf without one."""
    values = torch.where(among, pairs.similarity.detach(), torch.inf)
    return values.amin(1, keepdim=True) if values.shape[1] > 0 else -_none(values)


def kth_largest(values: Float[Tensor, "b m"], k: int) -> Float[Tensor, "b 1"]:
    """The kth largest value of each row, -inf in rows of fewer."""
    return values.topk(k, dim=1).values[:, -1:] if values.shape[1] >= k else _none(values)


def _none(values: Float[Tensor, "b m"]) -> Float[Tensor, "b 1"]:
    return values.new_full((len(values), 1), -torch.inf)
