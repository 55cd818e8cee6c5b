"""PairLoss: a formula over pairs becomes a loss that streams."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from torch import nn

from metriclab.core.pair_loss import PairLoss, Term
from metriclab.core.pairs import Pairs, all_pairs
from metriclab.core.rows import rows
from metriclab.core.tiles import forced_tile_cells
from metriclab.testing import measure


def pull_and_push(pairs: Pairs) -> dict[str, Term]:
    """Two means, one with a weight and with a count that depends on values."""
    pull = torch.where(pairs.positive, (1 - pairs.similarity).square(), 0)
    near = pairs.negative & (pairs.similarity > 0)
    push = torch.where(near, pairs.similarity.exp(), 0)
    return {"pull": Term(pull.sum(1), pairs.positive.sum(1)), "push": Term(push.sum(1), near.sum(1), 0.25)}


class Scaled(nn.Module):
    """Terms with parameters of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(3.0, dtype=torch.float64))
        self.bias = nn.Parameter(torch.tensor(-1.0, dtype=torch.float64))
        self.unused = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, pairs: Pairs) -> dict[str, Term]:
        logits = self.scale * pairs.similarity + self.bias
        pull = torch.where(pairs.positive, torch.nn.functional.softplus(-logits), 0)
        push = torch.where(pairs.negative, torch.nn.functional.softplus(self.scale * pairs.similarity), 0)
        return {"pull": Term(pull.sum(1), pairs.positive.sum(1)), "push": Term(push.sum(1), pairs.negative.sum(1), 2.0)}


def dense(terms, anchors, references):
    """The definition, with all pairs at once and plain autograd."""
    found = terms(all_pairs(anchors, references)).values()
    return sum(term.weight * term.total.sum() / max(1, int(term.count.sum())) for term in found)


def some_rows(n=11, width=4, seed=0):
    torch.manual_seed(seed)
    z = torch.randn(n, width, dtype=torch.float64, requires_grad=True)
    return z, rows(z, torch.randint(-1, 3, (n,)))


@pytest.mark.parametrize("cells", [1, 25, 10_000])
@pytest.mark.parametrize("cut", [11, 6, 0])
def test_streamed_is_dense(cells, cut):
    z, all_rows = some_rows()
    anchors = all_rows[:cut] if cut < 11 else all_rows
    expected = dense(pull_and_push, anchors, all_rows)
    with forced_tile_cells(cells):
        value = PairLoss(pull_and_push)(anchors, all_rows)
    assert abs(value - expected) < 1e-14
    (of_value,), (of_expected,) = (torch.autograd.grad(v, z, retain_graph=True) for v in (value, expected))
    torch.testing.assert_close(of_value, of_expected, atol=1e-14, rtol=0)


@pytest.mark.parametrize("cells", [1, 10_000])
def test_parameters_of_the_terms_get_their_gradients(cells):
    z, all_rows = some_rows()
    terms = Scaled()
    loss = PairLoss(terms)
    assert {name for name, _ in loss.named_parameters()} == {"terms.scale", "terms.bias", "terms.unused"}
    with forced_tile_cells(cells):
        value = loss(all_rows, all_rows)
    inputs = [z, terms.scale, terms.bias, terms.unused]
    found = torch.autograd.grad(value, inputs, retain_graph=True)
    expected = torch.autograd.grad(dense(terms, all_rows, all_rows), inputs, allow_unused=True)
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, torch.zeros_like(one) if other is None else other, atol=1e-13, rtol=0)


def test_parameters_learn_from_frozen_rows():
    terms = Scaled()
    frozen = some_rows()[1].detach()
    PairLoss(terms)(frozen, frozen).backward()
    assert terms.scale.grad != 0
    assert terms.bias.grad != 0


def test_a_miner_chooses_pairs():
    _, all_rows = some_rows()

    def nearer_than_half(pairs: Pairs) -> Pairs:
        return replace(pairs, negative=pairs.negative & (pairs.similarity > 0.5))

    def mined_terms(pairs: Pairs) -> dict[str, Term]:
        return pull_and_push(nearer_than_half(pairs))

    with forced_tile_cells(20):
        value = PairLoss(pull_and_push)(all_rows, all_rows, miner=nearer_than_half)
    expected = dense(mined_terms, all_rows, all_rows)
    torch.testing.assert_close(value, expected, atol=1e-14, rtol=0)
    assert value != dense(pull_and_push, all_rows, all_rows)


def test_an_empty_memory_gives_zero_with_a_live_gradient():
    z, all_rows = some_rows()
    value = PairLoss(pull_and_push)(all_rows, all_rows[:0])
    value.backward()
    assert value == 0
    assert not z.grad.any()


def test_only_wanted_gradients_are_taken():
    z, all_rows = some_rows()
    memory = all_rows.detach()
    with measure() as meter:
        PairLoss(pull_and_push)(all_rows[:6], memory).backward()
    whole = z.grad.clone()
    assert whole[:6].any()
    assert not whole[6:].any()
    # Similarities, and the anchors' gradient for each of the two terms.
    products = meter.operators["aten.mm.default"], meter.operators["aten.addmm_.default"]
    assert products == (1, 2)


def test_no_gradient_is_taken_under_no_grad():
    _, all_rows = some_rows()
    with torch.no_grad(), measure() as meter:
        value = PairLoss(pull_and_push)(all_rows, all_rows)
    assert not value.requires_grad
    assert meter.operators["aten.addmm_.default"] == 0
    torch.testing.assert_close(value, dense(pull_and_push, all_rows, all_rows).detach(), atol=1e-14, rtol=0)


def test_a_memory_in_half_precision_is_compared_in_float32():
    z = torch.randn(4, 3, requires_grad=True)
    batch = rows(z, torch.tensor([0, 0, 1, 1]))
    memory = rows(torch.randn(5, 3), torch.tensor([0, 1, 1, 2, 0]))
    half = replace(memory, z=memory.z.half())
    value = PairLoss(pull_and_push)(batch, half)
    value.backward()
    expected = dense(pull_and_push, batch, replace(memory, z=half.z.float()))
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, expected, atol=1e-6, rtol=0)


def test_the_gradient_follows_what_the_loss_is_multiplied_with():
    z, all_rows = some_rows()
    loss = PairLoss(pull_and_push)
    (single,) = torch.autograd.grad(loss(all_rows, all_rows), z, retain_graph=True)
    (triple,) = torch.autograd.grad(3 * loss(all_rows, all_rows), z)
    torch.testing.assert_close(triple, 3 * single)


def test_tiles_hold_few_pairs_and_operators_grow_with_tiles_alone():
    n = 256
    counts = {}
    for tiles in (4, 8, 16):
        all_rows = rows(torch.randn(n, 8, requires_grad=True), torch.arange(n) // 4)
        with forced_tile_cells(n * n // tiles), measure() as meter:
            PairLoss(pull_and_push)(all_rows, all_rows).backward()
        assert meter.largest <= n * n // tiles
        counts[tiles] = meter.operators.total()
    a_tile = (counts[8] - counts[4]) / 4
    assert counts[16] - counts[8] == 8 * a_tile
    assert a_tile < 80


def test_a_second_derivative_is_refused_rather_than_wrong():
    z, all_rows = some_rows()
    value = PairLoss(pull_and_push)(all_rows, all_rows)
    with pytest.raises(RuntimeError, match="has no second one"):
        torch.autograd.grad(value, z, create_graph=True)
