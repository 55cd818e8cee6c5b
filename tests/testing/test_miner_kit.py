"""The kit finds what is wrong with a miner, and says it."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

import pytest
import torch
from torch import nn

from metriclab import distributed
from metriclab.testing import check_miner


def near(pairs, border=0.1):
    """A miner as a third party would write it."""
    return replace(pairs, negative=pairs.negative & ~(pairs.similarity <= border))


class Module(nn.Module):
    """A miner with a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("border", torch.tensor(0.1))

    def forward(self, pairs):
        return near(pairs, self.border)


def hides_nan(pairs):
    similarity = pairs.similarity
    return replace(pairs, positive=pairs.positive & (similarity < 0.9), negative=pairs.negative & (similarity > 0.1))


def adds(pairs):
    return replace(pairs, negative=~pairs.positive)


def returns_a_mask(pairs):
    return pairs.negative


def scales(pairs):
    return replace(pairs, similarity=2 * pairs.similarity)


def detaches(pairs):
    return replace(pairs, similarity=pairs.similarity.detach())


def counts(pairs):
    return replace(pairs, negative=pairs.negative.long())


def writes(pairs):
    pairs.negative[:, :1] = False
    return pairs


def takes_the_first(pairs):
    """One of those that tie, by its place."""
    first = torch.where(pairs.negative, pairs.similarity, -9).max(1, keepdim=True).indices
    return replace(pairs, negative=pairs.negative & torch.zeros_like(pairs.negative).scatter(1, first, True))


def needs_references(pairs):
    hardest = torch.where(pairs.negative, pairs.similarity, -9).amax(1, keepdim=True)
    return replace(pairs, negative=pairs.negative & (pairs.similarity >= hardest))


def guarded(miner):
    """With nothing to choose from, nothing is chosen."""

    def careful(pairs):
        return miner(pairs) if pairs.similarity.numel() else pairs

    careful.__qualname__ = miner.__qualname__
    return careful


def over_the_tile(pairs):
    return replace(pairs, negative=pairs.negative & ~(pairs.similarity <= pairs.similarity.mean()))


def sees_itself(pairs):
    return replace(pairs, negative=pairs.negative & ~(pairs.similarity <= pairs.similarity.amax(1, keepdim=True) - 0.8))


def random(pairs):
    return replace(pairs, negative=pairs.negative & ~(torch.rand_like(pairs.similarity) > 0.5))


def exact_ties(pairs):
    hardest = torch.where(pairs.negative, pairs.similarity, -9).amax(1, keepdim=True)
    return replace(pairs, negative=pairs.negative & ~(pairs.similarity < hardest))


def by_precision(pairs):
    border = 0.0 if pairs.similarity.dtype == torch.float32 else 0.1
    return near(pairs, border)


def waits(pairs):
    return near(pairs) if pairs.negative.any().item() else pairs


def indexes(pairs):
    mask = pairs.negative.clone()
    mask[pairs.negative] = pairs.similarity[pairs.negative] > 0.1
    return replace(pairs, negative=mask | (pairs.negative & pairs.similarity.isnan()))


def by_rank(pairs):
    return near(pairs, 0.1 + 0.5 * distributed.rank())


def test_good_miners_pass():
    check_miner(near)
    check_miner(partial(near, border=0.5))
    check_miner(Module())
    check_miner(lambda pairs: pairs, ranks=False)


@pytest.mark.parametrize(
    ("miner", "complaint"),
    [
        (returns_a_mask, "returns_a_mask returns a Tensor, not Pairs"),
        (scales, r"scales changes the similarity of its pairs: return dataclasses.replace"),
        (detaches, r"detaches changes the similarity of its pairs"),
        (counts, "counts raises on plain rows in torch.float64: .*negative"),  # Pairs themselves are checked in tests
        (adds, "adds adds negative pairs on plain rows in torch.float64: masks may only shrink"),
        (writes, "writes writes into its pairs"),
        (needs_references, "needs_references raises on no references: IndexError"),
        (random, "random chooses otherwise in a second call on plain rows: it must be a pure function"),
        (guarded(takes_the_first), "takes_the_first chooses by the order of references on .* rows"),
        (over_the_tile, "over_the_tile depends on which anchors are in the same tile, on plain rows"),
        (guarded(sees_itself), "sees_itself looks at cells that are neither positive nor negative"),
        (guarded(exact_ties), "exact_ties chooses by rounding alone on identical rows"),
        (by_precision, "by_precision chooses otherwise in float32 than in float64"),
        (hides_nan, "hides_nan leaves out all pairs of a row that is NaN, which hides divergence"),
        (waits, "waits cannot run on tensors without values .*it reads values on the host"),
        (indexes, "indexes cannot run on tensors without values"),
        (by_rank, "by_rank chooses otherwise on several ranks: "),
        (lambda pairs: near(pairs), "functools.partial in place of nested functions"),
    ],
)
def test_what_is_wrong_with_a_miner_is_said(miner, complaint):
    with pytest.raises(AssertionError, match=f"(?s){complaint}"):
        check_miner(miner)


def test_checks_that_do_not_apply_can_be_left_out():
    check_miner(guarded(exact_ties), rounding=False, ranks=False)
    check_miner(indexes, device=False)
