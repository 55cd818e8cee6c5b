"""The kit finds what is wrong with a loss or a method, and says it."""

from __future__ import annotations

import math
from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from metriclab.core.batch import Batch
from metriclab.core.network import Embedded, Network
from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.pairs import all_pairs
from metriclab.core.protocols import Objective
from metriclab.core.rows import Rows
from metriclab.methods.simclr import SimCLR
from metriclab.registry import build
from metriclab.testing import check_loss, check_method


def good_terms(pairs, sign=1.0):
    pull = torch.where(pairs.positive, sign * (1 - pairs.similarity), 0)
    push = torch.where(pairs.negative, sign * (1 + pairs.similarity), 0)
    return {"pull": Term(pull.sum(1), pairs.positive.sum(1)), "push": Term(push.sum(1), pairs.negative.sum(1))}


def knows_its_tile(pairs):
    return {
        "pull": Term(torch.where(pairs.positive, 1 - pairs.similarity, 0).sum(1) * len(pairs.positive), ones(pairs))
    }


def counts_unknown(pairs):
    return {"push": Term((1 + pairs.similarity).sum(1), ones(pairs) * pairs.positive.shape[1])}


def divides_by_zero(pairs):
    mean = torch.where(pairs.positive, 1 - pairs.similarity, 0).sum(1) / pairs.positive.sum(1)
    return {"pull": Term(mean, ones(pairs))}


def ones(pairs):
    return torch.ones(len(pairs.similarity), dtype=torch.int64)


class Wrapped(nn.Module):
    """A good loss with something done to it."""

    pairwise = True

    def __init__(self) -> None:
        super().__init__()
        self.inner = PairLoss(good_terms)

    def forward(self, anchors: Rows, references: Rows) -> torch.Tensor:
        return self.inner(anchors, references)


class ByPosition(Wrapped):
    def forward(self, anchors, references):
        weights = torch.arange(len(anchors))[:, None]
        return super().forward(anchors, references) + (weights * anchors.z).sum()


class Detached(Wrapped):
    def forward(self, anchors, references):
        return super().forward(anchors.detach(), references.detach()) + 0 * anchors.z.sum()


class WrongGradient(Wrapped):
    def forward(self, anchors, references):
        value = super().forward(anchors, references)
        return 2 * value - value.detach()


class NotAScalar(Wrapped):
    def forward(self, anchors, references):
        return super().forward(anchors, references)[None]


class HidesNaN(Wrapped):
    def forward(self, anchors, references):
        value = super().forward(anchors, references)
        return torch.where(value.isnan(), 0 * anchors.z.nan_to_num().sum(), value)


class Writes(Wrapped):
    def forward(self, anchors, references):
        value = super().forward(anchors, references)
        references.labels.clamp_(min=0)
        return value


class Remembers(Wrapped):
    calls = 0.0

    def forward(self, anchors, references):
        self.calls += 1
        return super().forward(anchors, references) * (1 + self.calls)


class Constant(Wrapped):
    def forward(self, anchors, references):
        return super().forward(anchors, references) + 1


class Dense(Wrapped):
    def forward(self, anchors, references):
        terms = good_terms(all_pairs(anchors, references)).values()
        return sum(term.total.sum() / term.count.sum().clamp(min=1) for term in terms)


class LocalMean(Wrapped):
    """Streams, and forgets that other ranks have pairs too."""

    def forward(self, anchors, references):
        return super().forward(anchors, references) * (1 + 0.1 * float(len(anchors) < 5))


class LowPrecision(Wrapped):
    def forward(self, anchors, references):
        half = torch.is_autocast_enabled("cpu")
        z = anchors.z.bfloat16().float() if half else anchors.z
        return super().forward(replace(anchors, z=z), references)


class Raises(Wrapped):
    def forward(self, anchors, references):
        assert (anchors.labels >= 0).any()
        return super().forward(anchors, references)


def test_a_good_loss_passes():
    check_loss(PairLoss(good_terms))


@pytest.mark.parametrize(
    ("loss", "complaint"),
    [
        (NotAScalar(), r"NotAScalar returns shape \(1,\), expected a scalar"),
        (Detached(), "Detached gives plain rows no gradient"),
        (PairLoss(divides_by_zero), "PairLoss is nan on"),
        (Raises(), "Raises raises on labels all unknown in torch.float64: AssertionError"),
        (HidesNaN(), r"HidesNaN is .* though a row is NaN: that hides divergence"),
        (ByPosition(), "by the order of its rows"),
        (WrongGradient(), "the gradient of WrongGradient is not that of its value"),
        (LowPrecision(), "under bfloat16 autocast"),
        (PairLoss(counts_unknown), r"with rows of unknown \(negative\) label"),
        (Writes(), "Writes writes into the labels of its rows"),
        (Remembers(), "keep state in buffers"),
        (Constant(), "with a single row, expected 0: no pair has anything to say"),
        (PairLoss(knows_its_tile), "depends on how rows are cut into tiles"),
        (Dense(), "Dense holds a tensor of"),
        (PairLoss(partial(good_terms, sign=-1.0)), "PairLoss pushes positives apart"),
        (LocalMean(), "On several ranks a loss with `pairwise = True`"),
        (PairLoss(lambda pairs: good_terms(pairs)), "functools.partial in place of nested functions"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, nn.Module) else "",
)
def test_what_is_wrong_with_a_loss_is_said(loss, complaint):
    with pytest.raises(AssertionError, match=complaint):
        check_loss(loss)


def test_checks_that_do_not_apply_can_be_left_out():
    check_loss(PairLoss(partial(good_terms, sign=-1.0)), signs=False, ranks=False)
    check_loss(WrongGradient(), gradcheck=False, ranks=False)
    with pytest.raises(AssertionError, match="cut into tiles"):
        check_loss(PairLoss(knows_its_tile), signs=False, ranks=False)


class Linear(nn.Linear):
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return super().forward(images.flatten(1))


class Method(SimCLR):
    """SimCLR with something done to it."""

    def __init__(self) -> None:
        super().__init__(Network(Linear(12, 5), nn.Linear(5, 4)), loss=build("loss", "nt-xent"))


class Diverges(Method):
    def objective(self, local, world):
        return Objective(super().objective(local, world).loss * math.inf, {})


class LogsNumbers(Method):
    def objective(self, local, world):
        return Objective(super().objective(local, world).loss, {"rows": float(len(world))})


class LearnsInObjective(Method):
    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))

    def objective(self, local, world):
        self.seen += len(world)
        return super().objective(local, world)


class HiddenState(Method):
    moved = 0.0

    def objective(self, local, world):
        return Objective(super().objective(local, world).loss * (1 + self.moved), {})

    def after_step(self, world, step):
        self.moved += 1.0


class MixesRows(Method):
    def embed(self, images):
        h, z = self.network(images)
        return Embedded(h, z - z.mean(0))


class LocalOnly(Method):
    def objective(self, local, world):
        return super().objective(local, local)


@pytest.mark.parametrize(
    ("method", "complaint"),
    [
        (Diverges, "Diverges.objective returns .*inf"),
        (LogsNumbers, "metric 'rows' of LogsNumbers is a float, not a tensor"),
        (LearnsInObjective, "what follows a step belongs in after_step"),
        (HiddenState, "goes on differently after its state was saved and loaded"),
        (MixesRows, "gives an image another z in company than alone"),
        (LocalOnly, "LocalOnly trains differently on several ranks: loss on rank 0 of 2 differs"),
    ],
)
def test_what_is_wrong_with_a_method_is_said(method, complaint):
    n = 6
    views = tuple(torch.rand(n, 3, 2, 2) for _ in range(2))
    batch = Batch(views, torch.full((n,), -1), torch.arange(n), torch.arange(n), 0)
    with pytest.raises(AssertionError, match=complaint):
        check_method(method(), batch)
