"""Losses as people write them: right ones, and some with one fault each that users of a library met.

All of it is written from the descriptions of the faults.
"""

from __future__ import annotations

import torch
import torch.distributed as dist
from torch import nn
from torch.distributed.nn.functional import all_gather

from metriclab.core.rows import normalize, wide


class Right(nn.Module):
    """Pulls positives by 1 - s and pushes negatives by (1 + s)^2, each averaged over its pairs."""

    def forward(self, embeddings, labels):
        z = self.unit(embeddings)
        s = z @ z.T
        alike = self.alike(labels) & ~torch.eye(len(z), dtype=torch.bool)
        apart = ~self.alike(labels)
        return self.mean(1 - s, self.positives(alike, s)) + self.mean((1 + s).square(), apart)

    def unit(self, embeddings):
        with torch.autocast("cpu", enabled=False):
            return normalize(embeddings)

    def alike(self, labels):
        return labels[:, None] == labels[None, :]

    def positives(self, alike, s):
        return alike

    def mean(self, losses, mask):
        with torch.autocast("cpu", enabled=False):
            return torch.where(mask, wide(losses), 0).sum() / mask.sum().clamp(min=1)

    def similarities(self, z, others):
        with torch.autocast("cpu", enabled=False):
            return z @ others.T


def right_function(embeddings, labels, margin=0.2):
    """The same with a margin, as a function."""
    return Right()(embeddings, labels) + 0 * margin


class RightViews(Right):
    """NT-Xent over two views, whose rows never count themselves."""

    temperature = 0.5

    def forward(self, first, second):
        return self.of(self.unit(torch.cat([first, second])), len(first))

    def of(self, z, n):
        s = self.similarities(z, z) / self.temperature
        s = s.masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
        positive = s[torch.arange(2 * n), torch.arange(2 * n).roll(n)]
        return (s.logsumexp(1) - positive).mean()


class RightOnRanks(RightViews):
    """The same, of the views of all ranks."""

    def forward(self, first, second):
        if dist.is_initialized():
            first, second = (torch.cat(all_gather(view.contiguous())) for view in (first, second))
        return super().forward(first, second)


class RightAgainst(Right):
    """Anchors against references that somebody else holds."""

    def forward(self, anchors, anchor_labels, references, reference_labels):
        s = self.similarities(self.unit(anchors), self.unit(references))
        alike = anchor_labels[:, None] == reference_labels[None, :]
        hinge = torch.where(alike, 1 - s, (1 + s).square())
        return hinge.mean()


class DetachedPositives(Right):
    def forward(self, embeddings, labels):
        z = self.unit(embeddings)
        s, held = z @ z.T, z @ z.detach().T
        alike = self.alike(labels) & ~torch.eye(len(z), dtype=torch.bool)
        return self.mean(1 - held, alike) + self.mean((1 + s).square(), ~self.alike(labels))


class OwnPairsInTheMean(Right):
    def forward(self, embeddings, labels):
        z = self.unit(embeddings)
        s = z @ z.T
        return self.mean(1 - s, self.alike(labels)) + self.mean((1 + s).square(), ~self.alike(labels))


class OwnPairInTheSoftmax(RightViews):
    def of(self, z, n):
        s = self.similarities(z, z) / self.temperature
        return (s.logsumexp(1) - s[torch.arange(2 * n), torch.arange(2 * n).roll(n)]).mean()


class CopiesMasked(Right):
    """Takes for the row itself what is as similar as the row itself."""

    def positives(self, alike, s):
        return alike & (s < 1 - 1e-5)


class HalfOverflows(Right):
    """Fills what does not count with a number that float16 has not."""

    def forward(self, embeddings, labels):
        z = embeddings / embeddings.norm(dim=1, keepdim=True)
        s = (z @ z.T).masked_fill(self.alike(labels), -1e9)
        return s.logsumexp(1).mean() + super().forward(embeddings, labels)


class InHalf(Right):
    """Computes in whatever precision it is given, with an epsilon that half precision does not know."""

    def forward(self, embeddings, labels):
        z = embeddings / embeddings.norm(dim=1, keepdim=True)
        s = z @ z.T / 0.05
        alike = self.alike(labels) & ~torch.eye(len(z), dtype=torch.bool)
        share = (s.exp() * alike).sum(1) / (s.exp() * (~self.alike(labels))).sum(1)
        return -(share + 1e-8).log().mean()


class EpsilonInTheLog(RightViews):
    """A probability that float32 takes for 0 is lost in what keeps the logarithm finite."""

    temperature = 0.02

    def of(self, z, n):
        s = (self.similarities(z, z) - 1) / self.temperature
        share = s.exp().masked_fill(torch.eye(2 * n, dtype=torch.bool), 0)
        positive = share[torch.arange(2 * n), torch.arange(2 * n).roll(n)]
        return -(positive / share.sum(1) + torch.finfo(z.dtype).eps ** 2).log().mean()


class LowInAutocast(Right):
    """Leaves its product to autocast, and puts what is left of it into an exponential."""

    def forward(self, embeddings, labels):
        z = self.unit(embeddings)
        return super().forward(embeddings, labels) + self.mean((20 * (z @ z.T)).exp(), ~self.alike(labels))


class NoPairsIsNaN(Right):
    def mean(self, losses, mask):
        return wide(losses)[mask].mean()


class ZeroRowsExplode(Right):
    def unit(self, embeddings):
        return nn.functional.normalize(wide(embeddings))


class HidesNaN(Right):
    def mean(self, losses, mask):
        losses = wide(losses)
        counted = mask & (losses > 0)
        return torch.where(counted, losses, 0).sum() / counted.sum().clamp(min=1)


class LabelsInFloat(Right):
    def alike(self, labels):
        return labels.float()[:, None] == labels.float()[None, :]


class ByPosition(Right):
    """The first rows of a batch count more."""

    def mean(self, losses, mask):
        return super().mean(losses / torch.arange(1, 1 + len(losses))[:, None], mask)


class WrongWayRound(Right):
    def forward(self, embeddings, labels):
        return 3 - super().forward(embeddings, labels)


class NothingForOnePair(RightAgainst):
    def forward(self, anchors, anchor_labels, references, reference_labels):
        value = super().forward(anchors, anchor_labels, references, reference_labels)
        return value * (len(anchors) * len(references) > 2)


class Queue(RightViews):
    """Holds earlier rows as negatives: in a buffer that is saved, or not; in training alone, or always."""

    def __init__(self, saved: bool = True, always: bool = False) -> None:
        super().__init__()
        self.always = always
        generator = torch.Generator().manual_seed(0)
        rows = normalize(torch.randn(32, 16, generator=generator))
        self.register_buffer("rows", rows, persistent=saved)

    def forward(self, first, second):
        a, b = self.unit(first), self.unit(second)
        negatives = torch.cat([(a * b).sum(1, keepdim=True), a @ self.rows.to(a.dtype).clone().T], 1) / 0.5
        if self.training or self.always:
            self.rows = torch.cat([b.detach().to(self.rows.dtype), self.rows])[:32]
        return (negatives.logsumexp(1) - negatives[:, 0]).mean()


class KeepsNaN(Right):
    """A running scale, which one NaN ruins for good."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("scale", torch.ones(()))

    def forward(self, embeddings, labels):
        value = super().forward(embeddings, labels)
        if self.training:
            self.scale = 0.9 * self.scale + 0.1 * value.detach()
        return value / self.scale


class ScaledByRanks(RightOnRanks):
    """Multiplies by the ranks what is averaged over them, as if gathering had lost gradients."""

    def forward(self, first, second):
        return super().forward(first, second) * (dist.get_world_size() if dist.is_initialized() else 1)


def gathered_without_gradient(view):
    parts = [torch.empty_like(view) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, view.detach().contiguous())
    parts[dist.get_rank()] = view
    return torch.cat(parts)


class DividedByRanks(RightViews):
    """Gathers without a gradient, and each rank has the loss of all rows: the mean of gradients is too small."""

    def forward(self, first, second):
        if dist.is_initialized():
            first, second = map(gathered_without_gradient, (first, second))
        return super().forward(first, second)


class ForgetsReferences(RightAgainst):
    """Own anchors against the references of all ranks, which get no gradient but from their own rank."""

    def forward(self, anchors, references):
        numbers = torch.arange(len(references))
        if dist.is_initialized():
            numbers = numbers + dist.get_rank() * len(references)
            references = gathered_without_gradient(references)
        return super().forward(anchors, numbers, references, torch.arange(len(references)))


BUILT = Right()
