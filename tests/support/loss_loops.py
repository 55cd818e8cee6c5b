"""What tests of losses share: rows to try them on, and pairs taken one by one in loops."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from metriclab.core.pair_loss import PairLoss
from metriclab.core.rows import Rows, concatenate, rows
from metriclab.core.tiles import forced_tile_cells

LABELS = [
    [0, 1, 0, 2, 1, -1, 0, -1, 3],
    [0, 1, 2, 0, 1, 2],
    [0, 0, 1],
    [0, 1, 2],  # no positives
    [5, 5, 5],  # no negatives
    [2**62, 2**62, 3],
    [-1, -2, -1],
    [4],
]
ROWS = ["random", "identical", "zero"]

ByLoops = Callable[[Rows, Rows], Tensor]


def raw(kind: str, n: int) -> Tensor:
    """Embeddings in float64 that want a gradient."""
    z = torch.randn(n, 4, dtype=torch.float64)
    if kind == "identical":
        z = z[:1].repeat(n, 1)
    if kind == "zero":
        z[::2] = 0
    return z.requires_grad_()


def partners(anchors: Rows, references: Rows) -> Iterator[tuple[list[Tensor], list[Tensor]]]:
    """For each anchor of known label, its cosines with its positives and with its negatives."""
    for anchor, label, identity in zip(anchors.z, anchors.labels.tolist(), anchors.ids.tolist(), strict=True):
        cosines = (references.z * anchor).sum(1)
        alike, apart = [], []
        for cosine, other, its in zip(cosines, references.labels.tolist(), references.ids.tolist(), strict=True):
            if other >= 0 and its != identity:
                (alike if other == label else apart).append(cosine)
        if label >= 0:
            yield alike, apart


def log_sum_exp(logits: list[Tensor]) -> Tensor:
    largest = max(float(x.detach()) for x in logits)
    return largest + torch.log(sum(torch.exp(x - largest) for x in logits))


def mean(values: list[Tensor]) -> Tensor | float:
    return sum(values) / len(values) if values else 0.0


def agree(loss: PairLoss, by_loops: ByLoops, kind: str = "random") -> None:
    """Value and gradients in float64 to 1e-10, on every list of labels, also against a memory, in small tiles."""
    for labels in LABELS:
        z, older = raw(kind, len(labels)), raw("random", 4)
        batch = rows(z, torch.tensor(labels))
        others = rows(older, torch.tensor([1, 0, -1, 9]))
        for references in (batch, concatenate([others[:2], batch[1:], others[2:]])):
            with forced_tile_cells(20):
                found = loss(batch, references)
            expected = by_loops(batch, references) + 0 * (z.sum() + older.sum())  # differentiable without any pair
            assert float(found.detach()) == pytest.approx(float(expected.detach()), abs=1e-10)
            for leaf in (z, older) if references is not batch else (z,):
                (gradient,) = torch.autograd.grad(found, leaf, retain_graph=True)
                (of_expected,) = torch.autograd.grad(expected, leaf, retain_graph=True)
                allowed = 1e-10 * max(1.0, float(of_expected.abs().max()))
                torch.testing.assert_close(gradient, of_expected, atol=allowed, rtol=0)


def agree_in_lower_precision(loss: PairLoss, by_loops: ByLoops, t: float) -> None:
    """Embeddings in float32, and in bfloat16 under autocast, against float64 on the same rounded rows: the value to
    8 eps / t of float32, the gradient to 16 eps / t of its scale."""
    for dtype in (torch.float32, torch.bfloat16):
        batch = rows(torch.randn(32, 12).to(dtype), torch.arange(32) % 9)
        single = batch.z.clone().requires_grad_()
        double = batch.z.double().requires_grad_()
        found = replace(batch, z=single)
        with torch.autocast("cpu", torch.bfloat16, enabled=dtype == torch.bfloat16):
            value = loss(found, found)
        exact = replace(batch, z=double)
        expected = by_loops(exact, exact)
        assert value.dtype == torch.float32
        assert float(value.detach()) == pytest.approx(float(expected.detach()), abs=8 * 2**-23 / t)
        (gradient,) = torch.autograd.grad(value, single)
        (of_expected,) = torch.autograd.grad(expected, double)
        allowed = 16 * 2**-23 / t * max(1.0, float(of_expected.abs().max()))
        torch.testing.assert_close(gradient.double(), of_expected, atol=allowed, rtol=0)


def peer_batch(labels: list[int]) -> tuple[Tensor, Tensor, Rows]:
    """Raw embeddings, labels and rows, to give to a peer and to us."""
    z, given = raw("random", len(labels)), torch.tensor(labels)
    return z, given, rows(z, given)


def same_as_peer(value: Tensor, peer: Tensor, z: Tensor) -> None:
    """Equal values and gradients of the raw embeddings."""
    torch.testing.assert_close(value, peer, atol=1e-10, rtol=0)
    (gradient,) = torch.autograd.grad(value, z)
    (of_peer,) = torch.autograd.grad(peer, z)
    torch.testing.assert_close(gradient, of_peer, atol=1e-10, rtol=0)
