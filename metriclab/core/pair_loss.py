"""PairLoss: turns a formula over pairs into a loss that streams, on any number of ranks.

The author of a loss writes `terms(pairs)`, a pure function; tiles, gradients, counts over ranks and the case without
pairs are handled here, once for all of them.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import NamedTuple, cast

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from metriclab import distributed
from metriclab.core.call_loss import call_pair_loss
from metriclab.core.pairs import Pairs, pairs_of
from metriclab.core.protocols import Miner
from metriclab.core.rows import Rows, wide
from metriclab.core.tiles import anchors_per_tile
from metriclab.core.value_and_grad import NeedsInputGrad, value_and_grad


class Term(NamedTuple):
    """One mean in a loss: weight x sum(total) / sum(count), over the anchors of all ranks.

    Attributes:
        total: for each anchor, the sum of what is averaged.
        count: for each anchor, how many it summed (a loss that averages over anchors counts 1 for each).
        weight: factor of this mean in the loss.
    """

    total: Float[Tensor, "b"]
    count: Int64[Tensor, "b"]  # type: ignore[assignment]  # hides tuple.count
    weight: float = 1.0


Terms = Callable[[Pairs], Mapping[str, Term]]


def stream_terms(self: nn.Module, anchors: Rows, references: Rows, *, miner: Miner | None = None) -> Float[Tensor, ""]:
    """The `forward` of a loss over pairs: its `terms`, see `PairLoss`, over tiles and over all ranks.

    With no pair at all it gives 0 with a live, zero gradient. On several ranks give it this rank's anchors and the
    gathered references: the mean over ranks is then the loss of one process. Given the rows of all ranks on both
    sides, every rank returns that loss itself.
    """
    anchors = replace(anchors, z=wide(anchors.z, references.z))
    references = replace(references, z=wide(references.z, anchors.z))
    inputs = (anchors.z, references.z, *self.parameters())
    return value_and_grad(_Stream(cast(Terms, self.terms), miner, anchors, references, inputs).run, *inputs)


class PairLoss(nn.Module):
    """A loss from its formula over pairs. No loss built on it ever holds the B x M similarities.

    Call it as `loss(z, labels)` with raw embeddings, or as `loss(anchors, references)` with rows.

    Args:
        terms: pure function of `Pairs`, row by row: a row's values depend on that row of the pairs alone. It may be
            a module; its parameters (a temperature, a bias) receive gradients.

    Example:
        >>> def closeness(pairs):
        ...     apart = torch.where(pairs.positive, 1 - pairs.similarity, 0)
        ...     return {"pairs": Term(apart.sum(1), pairs.positive.sum(1))}
        >>> PairLoss(closeness)(torch.eye(3), [0, 0, 1])
        tensor(1.)
    """

    pairwise = True
    __call__ = call_pair_loss
    forward = stream_terms

    def __init__(self, terms: Terms) -> None:
        super().__init__()
        self.terms = terms


class _Stream:
    """One call: what the tiles need. Gradients are lists in the order of the inputs, None where none is wanted."""

    def __init__(
        self,
        terms: Terms,
        miner: Miner | None,
        anchors: Rows,
        references: Rows,
        inputs: tuple[Tensor, ...],
    ) -> None:
        self.terms, self.miner = terms, miner
        self.anchors, self.references = anchors.detach(), references.detach()
        self.inputs = inputs
        self.needs_input_grad: NeedsInputGrad = ()

    def run(self, needs_input_grad: NeedsInputGrad) -> tuple[Tensor, list[Tensor | None]]:
        """Value and gradients of W x local sum / global count."""
        self.needs_input_grad = needs_input_grad
        value, gradients = self.anchors.z.new_zeros(()), self._zeros()
        sums = self._sums()
        if not sums:
            return value, gradients
        counts = distributed.total(torch.stack([term.count for term in sums.values()]))
        scales = distributed.world_size() / counts.clamp(min=1).to(value.dtype)
        for term, scale in zip(sums.values(), scales, strict=True):
            value += scale * term.weight * term.total
            for gradient, part in zip(gradients, term.gradients, strict=True):
                if gradient is not None and part is not None:
                    gradient += part.mul_(scale * term.weight)
        return value, gradients

    def _zeros(self) -> list[Tensor | None]:
        return [
            torch.zeros_like(t) if want else None for t, want in zip(self.inputs, self.needs_input_grad, strict=True)
        ]

    def _sums(self) -> dict[str, _Sum]:
        sums: dict[str, _Sum] = {}
        if len(self.references) == 0:
            return sums  # an empty memory, on every rank: nothing to compare with
        block = anchors_per_tile(self.references.z)
        # A rank without anchors still names its terms: their counts are summed over ranks.
        for start in range(0, max(1, len(self.anchors)), block):
            self._add_tile(sums, slice(start, start + block))
        return sums

    def _add_tile(self, sums: dict[str, _Sum], part: slice) -> None:
        similarity = self.anchors.z[part] @ self.references.z.T
        with torch.set_grad_enabled(any(self.needs_input_grad)):
            similarity.requires_grad_(any(self.needs_input_grad[:2]))
            pairs = pairs_of(similarity, self.anchors.keys[part], self.references.keys, self.anchors.embedding_dim)
            terms = self.terms(pairs if self.miner is None else self.miner(pairs))
        *_, last = terms or [""]
        for name, term in terms.items():
            if name not in sums:
                sums[name] = _Sum(similarity.new_zeros(()), term.weight, self._zeros())
            sums[name].total += term.total.detach().sum()
            sums[name].count += term.count.sum()
            if term.total.requires_grad:
                self._differentiate(term.total, similarity, part, sums[name].gradients, keep=name != last)

    def _differentiate(
        self, per_anchor: Tensor, similarity: Tensor, part: slice, into: list[Tensor | None], *, keep: bool
    ) -> None:
        of_anchors, of_references, *of_parameters = into
        followed = [similarity, *self.inputs[2:]]
        followed = [tensor for tensor in followed if tensor.requires_grad]
        buffers = [buffer for buffer in of_parameters if buffer is not None]
        ones = torch.ones_like(per_anchor)
        found = list(torch.autograd.grad(per_anchor, followed, ones, retain_graph=keep, allow_unused=True))
        weights = found.pop(0) if similarity.requires_grad else None
        if weights is not None and of_anchors is not None:
            of_anchors[part].addmm_(weights, self.references.z)
        if weights is not None and of_references is not None:
            of_references.addmm_(weights.T, self.anchors.z[part])
        for buffer, gradient in zip(buffers, found, strict=True):
            if gradient is not None:
                buffer += gradient


class _Sum:
    """A term summed over the tiles seen so far, with a gradient buffer of its own.

    Counts may depend on values, so the scale of a gradient is known only after the last tile: one buffer a term takes
    less than a second pass over all tiles.
    """

    def __init__(self, zero: Tensor, weight: float, gradients: list[Tensor | None]) -> None:
        self.total = zero
        self.count = torch.zeros_like(zero, dtype=torch.int64)
        self.weight = weight
        self.gradients = gradients
