"""SupCon in closed form: value and gradient without autograd, in O(N D) memory, whatever the number of positives.

With lse_i = log of the sum over all others j of exp(s_ij / t), and P_i the positives of anchor i:

    cost of an anchor   lse_i - (1 / |P_i|) sum_p s_ip / t
    d cost / d s_ij     exp(s_ij / t - lse_i) / t, less 1 / (|P_i| t) on positives

The sum over positives is a product with the sum of their embeddings, and those sums are by label: only the softmax
needs tiles.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from metriclab import distributed
from metriclab.core.rows import Rows, count_positives, wide
from metriclab.core.tiles import anchors_per_tile
from metriclab.core.value_and_grad import NeedsInputGrad, value_and_grad

_BLOCK = 8192
"""Rows raised to float64 at a time."""


def closed_form(anchors: Rows, references: Rows, temperature: float) -> Float[Tensor, ""] | None:
    """SupCon, or None where there are no rows to compare."""
    if len(anchors) == 0 or len(references) == 0:
        return None
    alike = _find(anchors, references)
    z = wide(anchors.z, references.z), wide(references.z, anchors.z)
    return value_and_grad(partial(_solve, z[0].detach(), z[1].detach(), alike, temperature), *z)


class _Groups(NamedTuple):
    """Rows of one key, by a number that both sides share.

    Attributes:
        of_anchors: below b.
        of_references: b where no anchor has the key.
    """

    of_anchors: Int64[Tensor, "b"]
    of_references: Int64[Tensor, "m"]


class _Alike(NamedTuple):
    """Who is alike.

    Attributes:
        labels: rows of one label.
        itself: rows of one id; there may be several among the references, all of which are the anchor.
        anchors, references: ids.
        positives: how many an anchor has.
        unknown: references of unknown label.
    """

    labels: _Groups
    itself: _Groups
    anchors: Int64[Tensor, "b"]
    references: Int64[Tensor, "m"]
    positives: Int64[Tensor, "b"]
    unknown: Bool[Tensor, "m"]


def _find(anchors: Rows, references: Rows) -> _Alike:
    unknown = references.labels < 0
    labels = _groups(anchors.labels, references.labels, unknown)
    itself = _groups(anchors.ids, references.ids, unknown)
    return _Alike(labels, itself, anchors.ids, references.ids, count_positives(anchors, references), unknown)


def _groups(anchors: Int64[Tensor, "b"], references: Int64[Tensor, "m"], unknown: Bool[Tensor, "m"]) -> _Groups:
    ordered = anchors.sort().values
    place = torch.searchsorted(ordered, references).clamp(max=len(anchors) - 1)
    there = (ordered[place] == references) & ~unknown
    return _Groups(torch.searchsorted(ordered, anchors), torch.where(there, place, len(anchors)))


def _solve(
    anchors: Tensor, references: Tensor, alike: _Alike, temperature: float, needs_input_grad: NeedsInputGrad
) -> tuple[Tensor, list[Tensor | None]]:
    """Value and gradients of W x local sum / global count."""
    counted = alike.positives > 0
    share = (counted / alike.positives.clamp(min=1).to(anchors.dtype))[:, None]
    near = _sum_of_positives(references, alike).mul_(share).div_(temperature)
    lse, gradients = _softmax(anchors, references, alike, temperature, counted, needs_input_grad)
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
    of_label, of_itself = (
        _sums(groups.of_references, references, len(alike.anchors))[groups.of_anchors]
        for groups in (alike.labels, alike.itself)
    )
    return (of_label - of_itself).to(references.dtype)


def _pull_back(of_references: Tensor, pulls: Float[Tensor, "b d"], alike: _Alike) -> None:
    """Takes each anchor's pull from the gradient of all references of its label but itself."""
    of_label, of_itself = (_sums(groups.of_anchors, pulls, len(pulls)) for groups in (alike.labels, alike.itself))
    for rows in _blocks(len(of_references)):
        pulled = of_label[alike.labels.of_references[rows]] - of_itself[alike.itself.of_references[rows]]
        of_references[rows] -= pulled.to(of_references.dtype)


def _sums(groups: Int64[Tensor, "n"], rows: Float[Tensor, "n d"], count: int) -> Float[Tensor, "groups d"]:
    """Sums of the rows of each group, and one more for rows of none."""
    # A label may have all rows, whose sum in float32 would have lost the last digits.
    dtype = rows.dtype if rows.device.type == "mps" else torch.float64
    sums = torch.zeros(count + 1, rows.shape[1], dtype=dtype, device=rows.device)
    for part in _blocks(len(rows)):
        sums.index_add_(0, groups[part], rows[part].to(dtype))
    return sums


def _blocks(rows: int) -> Iterator[slice]:
    return (slice(start, start + _BLOCK) for start in range(0, rows, _BLOCK))


def _softmax(
    anchors: Tensor,
    references: Tensor,
    alike: _Alike,
    temperature: float,
    counted: Bool[Tensor, "b"],
    needs_input_grad: NeedsInputGrad,
) -> tuple[Float[Tensor, "b"], list[Tensor | None]]:
    """lse of each anchor and the gradients of their sum over the anchors that count, block by block."""
    scaled = anchors / temperature
    block = anchors_per_tile(references)
    buffer = scaled.new_empty(min(block, len(anchors)), len(references))
    gradients = [
        torch.zeros_like(z) if want else None for z, want in zip((anchors, references), needs_input_grad, strict=True)
    ]
    of_anchors, of_references = gradients
    parts = []
    for start in range(0, len(anchors), block):
        rows = slice(start, min(start + block, len(anchors)))
        tile = buffer[: rows.stop - start]
        logits = torch.mm(scaled[rows], references.T, out=tile)
        logits.masked_fill_((alike.anchors[rows, None] == alike.references).logical_or_(alike.unknown), -math.inf)
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
