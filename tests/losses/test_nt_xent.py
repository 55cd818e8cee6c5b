"""NT-Xent against its formula, written as loops from Chen et al. 2020, equation 1."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.core.pair_loss import PairLoss
from metriclab.core.rows import Rows, concatenate, pack_ids, rows
from metriclab.core.tiles import forced_tile_cells
from metriclab.losses.nt_xent import NTXent
from metriclab.testing import measure


def by_loops(anchors: Rows, references: Rows, t: float) -> float:
    """The mean over positive pairs of -log(e^(s_ap/t) / (e^(s_ap/t) + sum over negatives of e^(s_an/t)))."""
    costs = []
    for a in range(len(anchors)):
        mine = anchors.z[a].tolist()
        cosines = [math.fsum(x * y for x, y in zip(mine, other, strict=True)) for other in references.z.tolist()]
        label, labels = int(anchors.labels[a]), references.labels.tolist()
        others = [j for j in range(len(references)) if references.ids[j] != anchors.ids[a] and labels[j] >= 0]
        negatives = [cosines[j] / t for j in others if labels[j] != label]
        for p in others:
            if label < 0 or labels[p] != label:
                continue
            logits = [cosines[p] / t, *negatives]
            largest = max(logits)
            log_sum = largest + math.log(math.fsum(math.exp(x - largest) for x in logits))
            costs.append(log_sum - cosines[p] / t)
    return math.fsum(costs) / max(1, len(costs))


def make(labels, width=4, dtype=torch.float64):
    z = torch.randn(len(labels), width, dtype=dtype, requires_grad=True)
    return z, rows(z, torch.as_tensor(labels))


def agree(loss: NTXent, anchors: Rows, references: Rows, *inputs: torch.Tensor) -> None:
    """Closed form, generic path and loops give one value; the first two one gradient."""
    t = loss.temperature
    value, streamed = loss(anchors, references), PairLoss(loss.terms)(anchors, references)
    expected = by_loops(anchors.detach(), references.detach(), t)
    assert float(value.detach()) == pytest.approx(expected, abs=1e-13 / t)
    assert float(streamed.detach()) == pytest.approx(expected, abs=1e-13 / t)
    found = torch.autograd.grad(value, inputs, retain_graph=True)
    oracle = torch.autograd.grad(streamed, inputs, retain_graph=True)
    for one, other in zip(found, oracle, strict=True):
        torch.testing.assert_close(one, other, atol=1e-12 / t, rtol=0)


LABELS = {
    "two views": [0, 1, 2, 3] * 2,
    "three views": [0, 1, 2, 3] * 3,
    "four views": [4, 9, 2] * 4,
    "repeated items": [0, 1, 0, 2, 0, 1, 0, 2, 5, 5],
    "unknown labels": [0, -1, 1, 0, -1, 1, -7, 2, -1, -1, -1],
    "singletons": [0, 0, 1, 2, 3],
    "no positives": [0, 1, 2, 3],
    "no negatives": [6, 6, 6],
    "one positive and one negative pair": [0, 0, 1],
    "only unknown": [-1, -1],
    "a single row": [3],
}


@pytest.mark.parametrize("t", [1.0, 0.1, 0.02, 0.001, 2e-4])
@pytest.mark.parametrize("name", LABELS)
def test_batch_against_itself(name, t):
    z, batch = make(LABELS[name])
    agree(NTXent(temperature=t), batch, batch, z)


@pytest.mark.parametrize("t", [0.2, 0.005])
def test_batch_against_a_memory_that_holds_part_of_it(t):
    z, batch = make([0, 1, 1, 2, -1, 0])
    older, others = make([0, 0, 1, 4, -1, 2, 9])
    memory = concatenate([others[:3], batch[1:4], others[3:]])
    agree(NTXent(temperature=t), batch, memory, z, older)
    agree(NTXent(temperature=t), batch, others, z)


@settings(deadline=None, max_examples=40)
@given(
    labels=st.lists(st.integers(-2, 4), min_size=1, max_size=14),
    anchors=st.integers(0, 14),
    t=st.sampled_from([1.0, 0.07, 0.01]),
    cells=st.sampled_from([1, 6, 30, 10_000]),
)
def test_closed_form_is_the_generic_path_whatever_the_labels_and_tiles(labels, anchors, t, cells):
    z, batch = make(labels)
    loss = NTXent(temperature=t)
    for left in (batch, batch[:anchors]):
        with forced_tile_cells(cells):
            value, streamed = loss(left, batch), PairLoss(loss.terms)(left, batch)
        torch.testing.assert_close(value, streamed, atol=1e-12 / t, rtol=0)
        found, expected = (torch.autograd.grad(v, z, retain_graph=True)[0] for v in (value, streamed))
        torch.testing.assert_close(found, expected, atol=1e-11 / t, rtol=0)


def test_more_rows_of_a_label_than_the_closed_form_takes():
    _, batch = make([0] * 70 + [1] * 3 + [2])
    with measure() as meter:
        loss = NTXent(temperature=0.3)(batch, batch)
    assert meter.operators["aten.logsumexp.default"] > 0  # the generic path
    assert float(loss.detach()) == pytest.approx(by_loops(batch.detach(), batch.detach(), 0.3), abs=1e-12)


def test_the_usual_batch_takes_the_closed_form():
    _, batch = make([0, 1, 2, 3] * 2)
    with measure() as meter:
        NTXent()(batch, batch)
        NTXent()(batch[:4], batch)
    assert meter.operators["aten.logsumexp.default"] == 0


def test_a_miner_takes_the_generic_path():
    _, batch = make([0, 1, 2, 0, 1, 2])

    def no_negatives(pairs):
        return replace(pairs, negative=torch.zeros_like(pairs.negative))

    assert NTXent()(batch, batch, miner=no_negatives) == 0


def test_views_of_a_batch_as_simclr_makes_them():
    positions = torch.arange(5)
    views = [rows(torch.randn(5, 3, dtype=torch.float64), positions, ids=pack_ids(3, positions, v)) for v in range(2)]
    batch = concatenate(views)
    t, n = 0.5, 5
    s = (batch.z @ batch.z.T / t).tolist()
    costs = [
        -math.log(math.exp(s[i][(i + n) % (2 * n)]) / sum(math.exp(s[i][k]) for k in range(2 * n) if k != i))
        for i in range(2 * n)
    ]
    assert float(NTXent(temperature=t)(batch, batch)) == pytest.approx(sum(costs) / (2 * n), abs=1e-14)


def hard_pair(dtype, t):
    """An anchor whose negative is nearly itself and whose positive points away, and the exact cost of the pair."""
    z = torch.tensor([[1.0, 0.0], [0.5, 0.8660254], [0.99999, 0.004472]], dtype=dtype)
    batch = rows(z, torch.tensor([0, 0, 1]))
    return batch, by_loops(replace(batch, z=batch.z.double()), replace(batch, z=batch.z.double()), t)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("t", [0.5, 0.1, 0.02, 0.005, 2e-4])
def test_a_hard_pair_costs_what_it_should_at_any_temperature(dtype, t):
    batch, expected = hard_pair(dtype, t)
    for anchors in (batch, batch[:]):
        value = NTXent(temperature=t)(anchors, batch)
        assert value.dtype == torch.float32
        assert float(value) == pytest.approx(expected, abs=8 * 2**-23 / t)


@pytest.mark.parametrize("t", [0.1, 0.016, 0.0157, 0.0156, 0.004, 2e-4])
def test_float32_is_right_to_rounding_on_random_rows(t):
    torch.manual_seed(1)
    z, labels = torch.randn(64, 16), torch.arange(32).repeat(2)
    results = []
    for dtype in (torch.float32, torch.float64):
        leaf = z.detach().to(dtype, copy=True).requires_grad_()
        batch = rows(leaf, labels)
        value = NTXent(temperature=t)(batch, batch)
        value.backward()
        results.append((value.detach().double(), leaf.grad.double()))
    (value, gradient), (expected, of_expected) = results
    assert abs(value - expected) <= 8 * 2**-23 / t
    assert (gradient - of_expected).abs().max() <= 16 * 2**-23 / t * max(1.0, float(of_expected.abs().max()))


@pytest.mark.parametrize("t", [0.1, 2e-4])
def test_extreme_rows_stay_finite(t):
    same, opposite = torch.ones(6, 3), torch.tensor([1.0, -1.0]).repeat(3)[:, None] * torch.ones(6, 3)
    for z in (same, opposite, torch.zeros(6, 3)):
        for labels in (torch.tensor([0, 0, 1, 1, 2, 2]), torch.tensor([0, 1, 0, 1, 0, 1])):
            leaf = z.clone().requires_grad_()
            batch = rows(leaf, labels)
            for anchors in (batch, batch[:4]):
                (gradient,) = torch.autograd.grad(NTXent(temperature=t)(anchors, batch), leaf, retain_graph=True)
                assert gradient.isfinite().all()
    zero_rows = rows(torch.zeros(4, 3), torch.tensor([0, 0, 1, 1]))
    # All cosines are 0: a pair costs log(1 + 2).
    assert float(NTXent(temperature=t)(zero_rows, zero_rows)) == pytest.approx(math.log(3), abs=1e-6)


@pytest.mark.parametrize("t", [0.1, 0.001])
def test_nan_is_not_hidden(t):
    z, labels = torch.randn(8, 3), torch.tensor([0, 0, 1, 1, 2, 2, 3, 4])
    for row in (0, 7):  # one of a pair, and a mere negative
        broken = z.clone()
        broken[row, 1] = math.nan
        batch = rows(broken, labels)
        assert NTXent(temperature=t)(batch, batch).isnan()
        assert NTXent(temperature=t)(batch[:2], batch).isnan()


def test_float32_under_autocast():
    z = torch.randn(12, 8)
    labels = torch.arange(6).repeat(2)
    results = []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            leaf = z.clone().requires_grad_()
            batch = rows(leaf, labels)
            value = NTXent()(batch, batch)
        value.backward()
        results.append((value.detach(), leaf.grad))
    torch.testing.assert_close(results[0], results[1], atol=1e-6, rtol=0)


def test_never_a_similarity_for_every_pair_and_few_operators_a_tile():
    n = 512
    for t in (0.1, 0.01):
        counts = []
        for tiles in (16, 64):
            z = torch.randn(n, 8, requires_grad=True)
            with forced_tile_cells(n * n // tiles), measure() as meter:
                batch = rows(z, torch.arange(n // 2).repeat(2))
                NTXent(temperature=t)(batch, batch).backward()
            assert meter.largest <= max(n * n // tiles + n, n * 8)
            counts.append(meter.operators)
        squares = t == 0.1  # tiles on and above the diagonal alone: 10 and 36, in each of two passes
        products = [count["aten.mm.out"] for count in counts]
        assert products == ([20, 72] if squares else [16, 64])
        assert counts[1].total() < 64 * 60


def test_no_gradient_is_computed_where_none_is_wanted():
    n = 64
    batch = rows(torch.randn(n, 4, requires_grad=True), torch.arange(n // 2).repeat(2))
    for anchors, references in ((batch, batch), (batch[:8], batch)):
        with torch.no_grad(), measure() as meter:
            value = NTXent()(anchors, references)
        assert not value.requires_grad
        assert meter.operators["aten.addmm_.default"] + meter.operators["aten.mm.default"] == 0
    with measure() as meter:
        NTXent()(batch[:8], batch.detach()).backward()
    assert meter.operators["aten.addmm_.default"] == 0  # a memory without gradient costs none


def test_a_second_derivative_is_refused_rather_than_wrong():
    z, batch = make([0, 1, 0, 1])
    with pytest.raises(RuntimeError, match="has no second one"):
        torch.autograd.grad(NTXent()(batch, batch), z, create_graph=True)


def test_the_loss_scales_with_what_it_is_multiplied_with():
    z, batch = make([0, 1, 0, 1])
    (once,) = torch.autograd.grad(NTXent()(batch, batch), z, retain_graph=True)
    (thrice,) = torch.autograd.grad(3 * NTXent()(batch, batch), z)
    torch.testing.assert_close(thrice, 3 * once)
