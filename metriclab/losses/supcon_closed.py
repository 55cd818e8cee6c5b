"""SupCon in closed form: value and gradient without autograd, in O(N D) memory, whatever the number of positives.

With lse_i = log of the sum over all others j of exp(s_ij / t), and P_i the positives of anchor i:

    cost of an anchor   lse_i - (1 / |P_i|) sum_p s_ip / t
    d cost / d s_ij     exp(s_ij / t - lse_i) / t, less 1 / (|P_i| t) on positives

The sum over positives is a product with the sum of their embeddings, and those sums are by label: only the softmax
needs tiles.
"""

from __future__ import annotations

import math
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from metriclab.core import distributed
from metriclab.core.rows import Keys, Rows, wide
from metriclab.core.solved import Wants, solved
from metriclab.core.tiles import anchors_per_tile


def closed_form(anchors: Rows, references: Rows, temperature: float) -> Float[Tensor, ""] | None:
    """SupCon, or None where there are no rows to compare."""
    if len(anchors) == 0 or len(references) == 0:
        return None
    alike = _find(anchors.keys, references.keys)
    z = wide(anchors.z, references.z), wide(references.z, anchors.z)
    return solved(partial(_solve, z[0].detach(), z[1].detach(), alike, temperature), *z)


class _Alike(NamedTuple):
    """Who is alike, by one number a label.

    Attributes:
        labels: of the anchors, numbered as those of the references; any number where no reference has the label.
        of_references: of the references.
        itself: a reference that is the anchor, any where there is none.
        is_there: whether there is one.
        positives: how many an anchor has.
        unknown: references of unknown label.
    """

    labels: Int64[Tensor, "b"]
    of_references: Int64[Tensor, "m"]
    itself: Int64[Tensor, "b"]
    is_there: Bool[Tensor, "b"]
    positives: Int64[Tensor, "b"]
    unknown: Bool[Tensor, "m"]


def _find(anchors: Keys, references: Keys) -> _Alike:
    last = len(references) - 1
    ordered = references.labels.sort().values
    first = torch.searchsorted(ordered, anchors.labels)
    count = torch.searchsorted(ordered, anchors.labels, right=True) - first
    ids, order = references.ids.sort()
    itself = order[torch.searchsorted(ids, anchors.ids).clamp(max=last)]
    is_there = references.ids[itself] == anchors.ids
    positives = torch.where(anchors.labels >= 0, count - is_there.long(), 0)
    of_references = torch.searchsorted(ordered, references.labels)  # the place of a label's first row is its number
    return _Alike(first.clamp(max=last), of_references, itself, is_there, positives, references.labels < 0)


def _solve(
    anchors: Tensor, references: Tensor, alike: _Alike, temperature: float, wants: Wants
) -> tuple[Tensor, list[Tensor | None]]:
    """Value and gradients of W x local sum / global count."""
    counted = alike.positives > 0
    share = (counted / alike.positives.clamp(min=1).to(anchors.dtype))[:, None]
    near = _sum_of_positives(references, alike).mul_(share).div_(temperature)
    lse, gradients = _softmax(anchors, references, alike, temperature, counted, wants)
    total = torch.where(counted, lse - (anchors * near).sum(1), 0).sum()
    of_anchors, of_references = gradients
    if of_anchors is not None:
        of_anchors -= near
    if of_references is not None:
        _pull_back(of_references, anchors * share / temperature, alike)
    # Of shape (1,), as the generic path has it: another rank may be taking that path in this very call.
    scale = distributed.world_size() / distributed.total(counted.sum().reshape(1)).clamp(min=1).to(total.dtype)[0]
    return total * scale, [None if gradient is None else gradient.mul_(scale) for gradient in gradients]


def _sum_of_positives(references: Tensor, alike: _Alike) -> Float[Tensor, "b d"]:
    by_label = torch.zeros_like(references).index_add_(0, alike.of_references, references)
    return by_label[alike.labels] - torch.where(alike.is_there[:, None], references[alike.itself], 0)


def _pull_back(of_references: Tensor, pulls: Float[Tensor, "b d"], alike: _Alike) -> None:
    """Takes each anchor's pull from the gradient of all references of its label but itself."""
    by_label = torch.zeros_like(of_references).index_add_(0, alike.labels, pulls)
    of_references -= by_label[alike.of_references]
    of_references.index_add_(0, alike.itself, torch.where(alike.is_there[:, None], pulls, 0))


def _softmax(
    anchors: Tensor, references: Tensor, alike: _Alike, temperature: float, counted: Bool[Tensor, "b"], wants: Wants
) -> tuple[Float[Tensor, "b"], list[Tensor | None]]:
    """lse of each anchor and the gradients of their sum over the anchors that count, block by block."""
    scaled = anchors / temperature
    block = anchors_per_tile(references)
    # The last column takes what an anchor that is no reference writes.
    buffer = scaled.new_empty(min(block, len(anchors)), len(references) + 1)
    gradients = [torch.zeros_like(z) if want else None for z, want in zip((anchors, references), wants, strict=True)]
    of_anchors, of_references = gradients
    itself = torch.where(alike.is_there, alike.itself, len(references))[:, None]
    parts = []
    for start in range(0, len(anchors), block):
        rows = slice(start, min(start + block, len(anchors)))
        tile = buffer[: rows.stop - start]
        logits = torch.mm(scaled[rows], references.T, out=tile[:, :-1])
        tile.scatter_(1, itself[rows], -math.inf)
        logits.masked_fill_(alike.unknown, -math.inf)
        shift = logits.amax(1).clamp(min=-2 / temperature)  # a row without any other has no maximum
        logits.sub_(shift[:, None]).exp_()
        sums = logits.sum(1)
        parts.append(sums.log() + shift)
        weights = torch.where(counted[rows], 1 / sums, 0)[:, None]
        if of_anchors is not None:
            torch.mm(logits, references, out=of_anchors[rows]).mul_(weights / temperature)
        if of_references is not None:
            of_references.addmm_(logits.T, scaled[rows] * weights)
    return torch.cat(parts), gradients
