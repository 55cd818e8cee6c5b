"""NT-Xent in closed form: value and gradient without autograd, in O(N D) memory and about 4 N^2 D multiplications.

With E_ij = exp(s_ij / t), Neg_i the sum of E_ij over the negatives of anchor i, and p one of its positives:

    loss of a pair      log(1 + Neg_i / E_ip)
    pull of a pair      q_ip = Neg_i / (Neg_i + E_ip)          d loss / d s_ip = -q_ip / t
    push of a negative  E_ij w_i, w_i = sum_p q_ip / Neg_i     d loss / d s_ij = E_ij w_i / t

Positives are few and found by sorting labels; only negatives take work for every cell of a tile.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int64
from torch import Tensor

from metriclab import distributed
from metriclab.core.rows import Keys, Rows, wide
from metriclab.core.tiles import anchors_per_tile, tile_cells
from metriclab.core.value_and_grad import NeedsInputGrad, value_and_grad

MOST_OF_A_LABEL = 64
"""Rows of one label up to which positives are handled column by column."""

LARGEST_LOGIT = 64.0
"""exp of it, summed over 10^9 rows, is a float32; beyond it each row is shifted by its own maximum."""


class SameLabel(NamedTuple):
    """For each of b anchors, the references of its label.

    Attributes:
        index: of these references, padded to k columns.
        filled: where `index` is not padding.
        paired: where it is a positive: filled, and not the anchor itself.
        hidden: references of unknown label, or None where there are none.
    """

    index: Int64[Tensor, "b k"]  # type: ignore[assignment]  # hides tuple.index
    filled: Bool[Tensor, "b k"]
    paired: Bool[Tensor, "b k"]
    hidden: Bool[Tensor, "m"] | None


def same_label(anchors: Keys, references: Keys) -> SameLabel | None:
    """References of each anchor's label, by sorting; None where some anchor has more than `MOST_OF_A_LABEL`, or rows of
    one label are no pair because of their groups."""
    if len(anchors) == 0 or len(references) == 0 or not (anchors.groups is None or references.groups is None):
        return None
    ordered, order = references.labels.sort(stable=True)
    first = torch.searchsorted(ordered, anchors.labels)
    count = torch.searchsorted(ordered, anchors.labels, right=True) - first
    count = torch.where(anchors.labels >= 0, count, 0)
    # The one synchronisation with a GPU in a call.
    largest, any_unknown = torch.stack([count.max(), (ordered[0] < 0).long()]).tolist()
    if largest > MOST_OF_A_LABEL:
        return None
    column = torch.arange(max(1, largest), device=count.device)
    filled = column < count[:, None]
    index = order[(first[:, None] + column).clamp(max=len(references) - 1)]
    paired = filled & (references.ids[index] != anchors.ids[:, None])
    return SameLabel(index, filled, paired, references.labels < 0 if any_unknown else None)


def closed_form(anchors: Rows, references: Rows, temperature: float) -> Float[Tensor, ""] | None:
    """NT-Xent, or None where the rows do not suit the closed form (too many positives, no rows)."""
    square = anchors is references
    symmetric = square and 1 / temperature <= LARGEST_LOGIT
    if symmetric:
        anchors = references = anchors[anchors.labels.argsort(stable=True)]
    same = same_label(anchors.keys, references.keys)
    if same is None:
        return None
    one, other = wide(anchors.z, references.z), wide(references.z, anchors.z)
    inputs = (one,) if square else (one, other)
    solver = _symmetric if symmetric else _rectangular
    bare = tuple(z.detach() for z in inputs)
    return value_and_grad(partial(_compute, solver, bare, anchors.labels, same, temperature), *inputs)


def _compute(
    solver: Any,
    z: tuple[Tensor, ...],
    labels: Tensor,
    same: SameLabel,
    temperature: float,
    needs_input_grad: NeedsInputGrad,
) -> tuple[Tensor, list[Tensor | None]]:
    total, gradients = solver(z, labels, same, temperature, needs_input_grad)
    # Of shape (1,), as the generic path has it: another rank may be taking that path in this very call.
    pairs = distributed.total(same.paired.sum().reshape(1))
    scale = distributed.world_size() / pairs.clamp(min=1).to(total.dtype)[0]
    return total * scale, [None if gradient is None else gradient.mul_(scale) for gradient in gradients]


def _symmetric(
    z: tuple[Tensor], labels: Tensor, same: SameLabel, temperature: float, needs_input_grad: tuple[bool]
) -> tuple[Tensor, tuple[Tensor | None]]:
    """Anchors that are the references, sorted by label: tiles on and above the diagonal serve both sides."""
    known = (labels >= 0).to(z[0].dtype)
    scaled = torch.where(known[:, None] > 0, z[0], 0) * temperature**-0.5
    negatives = torch.zeros_like(known)
    for rows, columns, tile in _upper_tiles(scaled, labels, same.index.shape[1]):
        negatives[rows].addmv_(tile, known[columns])
        if rows != columns:
            negatives[columns].addmv_(tile.T, known[rows])
    total, pull = _pull(_logits(scaled, scaled, same), negatives.log(), same)
    if not needs_input_grad[0]:
        return total, (None,)
    gradient = torch.zeros_like(scaled)
    push = _push(pull, negatives)
    weights = scaled.new_empty(tile_cells(scaled.device))
    for rows, columns, tile in _upper_tiles(scaled, labels, same.index.shape[1]):
        both = weights[: tile.numel()].view_as(tile)
        tile.mul_(torch.add(push[rows, None], push[None, columns], out=both))
        gradient[rows].addmm_(tile, scaled[columns])
        if rows != columns:
            gradient[columns].addmm_(tile.T, scaled[rows])
    gradient.mul_(known[:, None])
    _add_pull(gradient, scaled, pull, same)
    _add_pull_back(gradient, scaled, pull, same)
    return total, (gradient.mul_(temperature**-0.5),)


def _upper_tiles(scaled: Tensor, labels: Tensor, reach: int) -> Iterator[tuple[slice, slice, Tensor]]:
    """exp(s / t) on and above the diagonal, 0 between rows of one label; a tile is overwritten by the next."""
    n = len(scaled)
    side = max(1, math.isqrt(tile_cells(scaled.device)))
    buffer = scaled.new_empty(side * side)
    for start in range(0, n, side):
        rows = slice(start, min(start + side, n))
        for left in range(start, n, side):
            columns = slice(left, min(left + side, n))
            shape = (rows.stop - rows.start, columns.stop - columns.start)
            tile = buffer[: shape[0] * shape[1]].view(shape)
            torch.mm(scaled[rows], scaled[columns].T, out=tile).exp_()
            # Labels are sorted, so equal ones lie on the diagonal and in the corners next to it.
            if left == start:
                tile.masked_fill_(labels[rows, None] == labels[None, columns], 0)
            elif left - rows.stop < reach:
                near, far = labels[rows][-reach:], labels[columns][:reach]
                tile[-reach:, :reach].masked_fill_(near[:, None] == far[None, :], 0)
            yield rows, columns, tile


def _rectangular(
    z: tuple[Tensor, ...], labels: Tensor, same: SameLabel, temperature: float, needs_input_grad: tuple[bool, ...]
) -> tuple[Tensor, tuple[Tensor | None, ...]]:
    """Any anchors against any references at any temperature, in blocks of anchors."""
    anchors, references = z[0], z[-1]
    scaled = anchors / temperature
    block = anchors_per_tile(references)
    # The last column takes what the padding of `same` writes.
    buffer = scaled.new_zeros(min(block, len(anchors)), len(references) + 1)
    of_anchors = torch.zeros_like(anchors) if needs_input_grad[0] else None
    of_references = (of_anchors if len(z) == 1 else torch.zeros_like(references)) if needs_input_grad[-1] else None
    total = anchors.new_zeros(())
    for start in range(0, len(anchors), block):
        rows = slice(start, min(start + block, len(anchors)))
        part = SameLabel(same.index[rows], same.filled[rows], same.paired[rows], same.hidden)
        tile = buffer[: rows.stop - start]
        logits, negatives, shift = _logits_and_negatives(tile, scaled[rows], references, part, temperature)
        loss, pull = _pull(logits, negatives.log() + shift, part)
        total += loss
        # From here on the tile is the derivative by s / t: negatives push, positives pull.
        tile.mul_(_push(pull, negatives)[:, None]).scatter_(1, _place(part, len(references)), -pull)
        if of_anchors is not None:
            of_anchors[rows] += torch.mm(tile[:, :-1], references).div_(temperature)
        if of_references is not None:
            of_references.addmm_(tile[:, :-1].T, scaled[rows])
    return total, ((of_anchors,) if len(z) == 1 else (of_anchors, of_references))


def _logits_and_negatives(
    tile: Tensor, scaled: Tensor, references: Tensor, same: SameLabel, temperature: float
) -> tuple[Float[Tensor, "b k"], Float[Tensor, "b"], Float[Tensor, "b"]]:
    """Fills the tile with exp(s / t - shift), 0 off the negatives; s / t of the positives, the row sums, the shift."""
    cells, place = tile[:, :-1], _place(same, len(references))
    torch.mm(scaled, references.T, out=cells)
    logits = tile.gather(1, place)
    tile.scatter_(1, place, -math.inf)
    if same.hidden is not None:
        cells.masked_fill_(same.hidden[None, :], -math.inf)
    if 1 / temperature <= LARGEST_LOGIT:
        shift = scaled.new_zeros(len(scaled))
    else:
        shift = cells.amax(1).clamp(min=-2 / temperature)  # a row without negatives has no maximum
        # e^-64 is nothing beside the maximum's 1, and smaller still it would be a slow subnormal number.
        torch.threshold_(cells.sub_(shift[:, None]), -LARGEST_LOGIT, -math.inf)
    cells.exp_()
    return logits, cells.sum(1), shift


def _place(same: SameLabel, padding: int) -> Int64[Tensor, "b k"]:
    """Columns of the references of the label, all padding in one column of its own."""
    return torch.where(same.filled, same.index, padding)


def _columns(same: SameLabel, embedding_dim: int) -> Iterator[slice]:
    """Columns of `same` whose embeddings are held at a time: one where anchors are many, many where they are few."""
    anchors, columns = same.index.shape
    step = max(1, tile_cells(same.index.device) // max(1, anchors * embedding_dim))
    return (slice(start, start + step) for start in range(0, columns, step))


def _logits(scaled: Tensor, references: Tensor, same: SameLabel) -> Float[Tensor, "b k"]:
    parts = _columns(same, scaled.shape[1])
    return torch.cat([(scaled[:, None] * references[same.index[:, part]]).sum(2) for part in parts], 1)


def _pull(logits: Tensor, log_negatives: Tensor, same: SameLabel) -> tuple[Float[Tensor, ""], Float[Tensor, "b k"]]:
    """Summed loss of the positive pairs, and how strongly each is pulled together."""
    excess = log_negatives[:, None] - logits
    loss = torch.where(same.paired, torch.logaddexp(excess, torch.zeros_like(excess)), 0)
    return loss.sum(), torch.where(same.paired, excess.sigmoid(), 0)


def _push(pull: Float[Tensor, "b k"], negatives: Float[Tensor, "b"]) -> Float[Tensor, "b"]:
    # Only an exact 0 is replaced: a NaN must come through.
    return torch.where(negatives == 0, 0, pull.sum(1) / negatives)


def _add_pull(of_anchors: Tensor, references: Tensor, pull: Tensor, same: SameLabel) -> None:
    for part in _columns(same, references.shape[1]):
        of_anchors -= (references[same.index[:, part]] * pull[:, part, None]).sum(1)


def _add_pull_back(of_references: Tensor, scaled: Tensor, pull: Tensor, same: SameLabel) -> None:
    for part in _columns(same, scaled.shape[1]):
        pulls = scaled[:, None] * pull[:, part, None]
        of_references.index_add_(0, same.index[:, part].flatten(), pulls.flatten(0, 1), alpha=-1)
