"""Losses that are wrong, each in the way its name says. A one-file plugin, as a third party would write it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from metriclab.api import PairLoss, Pairs, Rows, Term, gather, register


def contrast(pairs: Pairs) -> dict[str, Term]:
    """What a good loss does with pairs."""
    pull = torch.where(pairs.positive, 1 - pairs.similarity, 0).sum(1)
    push = torch.where(pairs.negative, 1 + pairs.similarity, 0).sum(1)
    return {"pull": Term(pull, pairs.positive.sum(1)), "push": Term(push, pairs.negative.sum(1))}


def upside_down(pairs: Pairs) -> dict[str, Term]:
    return {name: Term(-term.total, term.count) for name, term in contrast(pairs).items()}


def mean_of_positives(pairs: Pairs) -> dict[str, Term]:
    distance = torch.where(pairs.positive, 1 - pairs.similarity, 0).sum(1) / pairs.positive.sum(1)
    return {"pull": Term(distance, torch.ones_like(pairs.anchors.labels))}


class Good(nn.Module):
    """A good loss, to be spoilt."""

    pairwise = True

    def __init__(self) -> None:
        super().__init__()
        self.inner = PairLoss(contrast)

    def forward(self, anchors: Rows, references: Rows) -> Tensor:
        value: Tensor = self.inner(anchors, references)
        return value


@register("loss", "good")
class Unspoilt(Good):
    pass


@register("loss", "normalises-twice")
class NormalisesTwice(Good):
    """Harmless on unit rows. It shows on rows that are shorter."""

    def forward(self, anchors: Rows, references: Rows) -> Tensor:
        anchors, references = (replace(side, z=normalize(side.z)) for side in (anchors, references))
        return super().forward(anchors, references)


@register("loss", "divides-by-norm")
class DividesByNorm(Good):
    """The same by hand: a zero row is 0 / 0."""

    def forward(self, anchors: Rows, references: Rows) -> Tensor:
        anchors, references = (replace(side, z=side.z / side.z.norm(dim=1)[:, None]) for side in (anchors, references))
        return super().forward(anchors, references)


@register("loss", "looks-at-row-order")
class LooksAtRowOrder(nn.Module):
    """Takes each row and the next for a pair, as losses of two stacked views do."""

    def __init__(self) -> None:
        super().__init__()

    def forward(self, anchors: Rows, references: Rows) -> Tensor:
        return (1 - (anchors.z * references.z.roll(1, 0)).sum(1)).mean()


@register("loss", "state-outside-buffers")
class StateOutsideBuffers(Good):
    """A running mean that no checkpoint has."""

    def __init__(self) -> None:
        super().__init__()
        self.mean = 1.0

    def forward(self, anchors: Rows, references: Rows) -> Tensor:
        value = super().forward(anchors, references)
        self.mean = 0.9 * self.mean + 0.1 * float(value.detach())
        return value / self.mean


@register("loss", "divides-by-no-positives")
def divides_by_no_positives() -> PairLoss:
    return PairLoss(mean_of_positives)


@register("loss", "gathers")
class Gathers(Good):
    """The run has gathered already."""

    def forward(self, anchors: Rows, references: Rows) -> Tensor:
        return super().forward(anchors, gather(anchors))


@register("loss", "mutates-its-input")
class MutatesItsInput(Good):
    def forward(self, anchors: Rows, references: Rows) -> Tensor:
        value = super().forward(anchors, references)
        references.labels.clamp_(min=0)
        return value


@register("loss", "wrong-sign")
def wrong_sign() -> PairLoss:
    return PairLoss(upside_down)


@register("loss", "whole-matrix")
class WholeMatrix(Good):
    """Holds every pair at once."""

    def forward(self, anchors: Rows, references: Rows) -> Tensor:
        return super().forward(anchors, references) + 0 * (anchors.z @ references.z.T).mean()


@register("loss", "counts-itself")
class CountsItself(nn.Module):
    """A row is its own positive, so a single row has a loss."""

    pairwise = True

    def __init__(self) -> None:
        super().__init__()

    def forward(self, anchors: Rows, references: Rows) -> Tensor:
        similarity = anchors.z @ references.z.T
        alike = (anchors.labels[:, None] == references.labels) & (references.labels >= 0)
        return torch.where(alike, 2 - similarity, 0).sum() / alike.sum().clamp(min=1)


@register("loss", "hides-nan")
class HidesNaN(Good):
    def forward(self, anchors: Rows, references: Rows) -> Tensor:
        return super().forward(anchors, references).nan_to_num(0)


@register("loss", "warms-up")
class WarmsUp(Good):
    """By its calls, of which no checkpoint knows."""

    def __init__(self) -> None:
        super().__init__()
        self.calls = 0

    def forward(self, anchors: Rows, references: Rows) -> Tensor:
        self.calls += 1
        return super().forward(anchors, references) * (1.0 if self.calls > 1000 else 0.5)


@register("loss", "pulls-alone")
def pulls_alone() -> PairLoss:
    return PairLoss(pulls)


def pulls(pairs: Pairs) -> dict[str, Term]:
    return {"pull": contrast(pairs)["pull"]}
