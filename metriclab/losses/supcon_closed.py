"""SupCon in closed form: value and gradient without autograd, in O(N D) memory, whatever the number of positives.

With lse_i = log of the sum over all others j of exp(s_ij / t), and P_i the positives of anchor i:

    loss of an anchor   lse_i - (1 / |P_i|) sum_p s_ip / t
    d loss / d s_ij     exp(s_ij / t - lse_i) / t, less 1 / (|P_i| t) on positives

The sum over positives is a product with the sum of their embeddings, and those sums are by label: only the softmax
needs tiles.

An anchor's derivatives add up to 0: a vector taken from all references changes neither its loss nor its gradient. So
their mean is taken off before anything is multiplied, as what rows have in common would drown their differences in
rounding. The derivatives of a reference add up to something: it is carried along, times the mean of the anchors.
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
    """SupCon, or None where there are no rows to compare, or some of one label are no pair because of their groups."""
    if len(anchors) == 0 or len(references) == 0 or not (anchors.groups is None or references.groups is None):
        return None
    grouping = _grouping(anchors, references)
    z = wide(anchors.z, references.z), wide(references.z, anchors.z)
    return value_and_grad(partial(_compute, z[0].detach(), z[1].detach(), grouping, temperature), *z)


class _Groups(NamedTuple):
    """Rows of one key, by a number that both sides share.

    Attributes:
        of_anchors: below b.
        of_references: b where no anchor has the key.
    """

    of_anchors: Int64[Tensor, "b"]
    of_references: Int64[Tensor, "m"]


class _Grouping(NamedTuple):
    """Which rows have one label, and which are one row.

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


def _grouping(anchors: Rows, references: Rows) -> _Grouping:
    unknown = references.labels < 0
    labels = _groups(anchors.labels, references.labels, unknown)
    itself = _groups(anchors.ids, references.ids, unknown)
    return _Grouping(labels, itself, anchors.ids, references.ids, count_positives(anchors, references), unknown)


def _groups(anchors: Int64[Tensor, "b"], references: Int64[Tensor, "m"], unknown: Bool[Tensor, "m"]) -> _Groups:
    ordered = anchors.sort().values
    place = torch.searchsorted(ordered, references).clamp(max=len(anchors) - 1)
    there = (ordered[place] == references) & ~unknown
    return _Groups(torch.searchsorted(ordered, anchors), torch.where(there, place, len(anchors)))


def _compute(
    anchors: Tensor, references: Tensor, grouping: _Grouping, temperature: float, needs_input_grad: NeedsInputGrad
) -> tuple[Tensor, list[Tensor | None]]:
    """Value and gradients of W x local sum / global count."""
    counted = grouping.positives > 0
    share = (counted / grouping.positives.clamp(min=1).to(anchors.dtype))[:, None]
    references, common = references - references.mean(0), anchors.mean(0)
    # The last column adds up the derivatives of a reference, to be multiplied with what the anchors have in common.
    apart = torch.cat([anchors - common, torch.ones_like(anchors[:, :1])], 1) / temperature
    near = _sum_of_positives(references, grouping).mul_(share).div_(temperature)
    of_anchors = torch.zeros_like(anchors) if needs_input_grad[0] else None
    of_references = references.new_zeros(len(references), apart.shape[1]) if needs_input_grad[1] else None
    lse = _softmax(anchors / temperature, apart, references, grouping, of_anchors, of_references)
    total = torch.where(counted, lse - (anchors * near).sum(1), 0).sum()
    # Of shape (1,), as the generic path has it: another rank may be taking that path in this very call.
    scale = distributed.world_size() / distributed.total(counted.sum().reshape(1)).clamp(min=1).to(total.dtype)[0]
    if of_anchors is not None:
        of_anchors.div_(temperature).sub_(near).mul_(scale)
    if of_references is not None:
        _pull_back(of_references, apart * share, grouping)
        of_references = of_references[:, :-1].addr_(of_references[:, -1], common).mul_(scale)
    return total * scale, [of_anchors, of_references]


def _sum_of_positives(references: Tensor, grouping: _Grouping) -> Float[Tensor, "b d"]:
    of_label, of_itself = (
        _sums(groups.of_references, references, len(grouping.anchors))[groups.of_anchors]
        for groups in (grouping.labels, grouping.itself)
    )
    return (of_label - of_itself).to(references.dtype)


def _pull_back(of_references: Tensor, pulls: Float[Tensor, "b d"], grouping: _Grouping) -> None:
    """Takes each anchor's pull from the gradient of all references of its label but itself."""
    of_label, of_itself = (_sums(groups.of_anchors, pulls, len(pulls)) for groups in (grouping.labels, grouping.itself))
    for rows in _blocks(len(of_references)):
        pulled = of_label[grouping.labels.of_references[rows]] - of_itself[grouping.itself.of_references[rows]]
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
    scaled: Float[Tensor, "b d"],
    apart: Float[Tensor, "b d+1"],
    references: Float[Tensor, "m d"],
    grouping: _Grouping,
    of_anchors: Float[Tensor, "b d"] | None,
    of_references: Float[Tensor, "m d+1"] | None,
) -> Float[Tensor, "b"]:
    """lse of each anchor; adds the gradients of their sum over the anchors that count, block by block.

    Args:
        scaled: anchors / t.
        apart: the same without what they have in common, and 1 / t.
        references: without what they have in common.
        grouping: who is who.
        of_anchors: t times the gradient.
        of_references: the gradient, as products with `apart`.
    """
    block = anchors_per_tile(references)
    buffer = scaled.new_empty(min(block, len(scaled)), len(references))
    parts = []
    for start in range(0, len(scaled), block):
        rows = slice(start, min(start + block, len(scaled)))
        tile = buffer[: rows.stop - start]
        logits = torch.mm(scaled[rows], references.T, out=tile)
        logits.masked_fill_(
            (grouping.anchors[rows, None] == grouping.references).logical_or_(grouping.unknown), -math.inf
        )
        shift = logits.amax(1).clamp(min=torch.finfo(logits.dtype).min)  # a row without any other has no maximum
        logits.sub_(shift[:, None]).exp_()
        sums = logits.sum(1)
        parts.append(sums.log() + shift)
        weights = torch.where(grouping.positives[rows] > 0, 1 / sums, 0)[:, None]
        if of_anchors is not None:
            torch.mm(logits, references, out=of_anchors[rows]).mul_(weights)
        if of_references is not None:
            of_references.addmm_(logits.T, apart[rows] * weights)
    return torch.cat(parts)
