"""What tests of losses over classes share: softmaxes as loops, and proxies set to a peer's."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from metriclab.core.rows import Rows, rows
from metriclab.memories.proxies import Proxies
from tests.support.loss_loops import ByLoops, log_sum_exp, mean, partners

CLASSES, WIDTH = 5, 4
Logit = Callable[[Tensor], Tensor]


def softmax_by_loops(own: Logit, other: Logit) -> ByLoops:
    """The mean over anchors with a positive of -log of the share of their positives; logits by two functions."""

    def loss(anchors: Rows, references: Rows) -> Tensor:
        costs = []
        for alike, apart in partners(anchors, references):
            if alike:
                numerator = log_sum_exp([own(s) for s in alike])
                costs.append(log_sum_exp([numerator, *(other(s) for s in apart)]) - numerator)
        return mean(costs)

    return loss


def class_batch(labels: list[int]) -> tuple[Tensor, Tensor, Rows]:
    """Raw embeddings in float64, labels below CLASSES, and rows of them."""
    z, given = torch.randn(len(labels), WIDTH, dtype=torch.float64, requires_grad=True), torch.tensor(labels)
    return z, given, rows(z, given)


def proxies(per_class: int = 1) -> Proxies:
    return Proxies(WIDTH, torch.arange(CLASSES), per_class=per_class).double()


def same_as_peer_over_proxies(loss: nn.Module, peer: nn.Module, weight: nn.Parameter) -> None:
    """Equal values and gradients of embeddings and proxies, the peer's `weight` set to ours, some classes missing."""
    for labels in ([0, 1, 4, 2, 3, 0, 3, 1], [3, 0, 0], [2, 2, 1]):
        z, given, batch = class_batch(labels)
        memory = proxies()
        rotated = weight.shape == (WIDTH, CLASSES)
        weight.data = memory.directions.detach().T.clone() if rotated else memory.directions.detach().clone()
        value, expected = loss(batch, memory.rows()), peer(z, given)
        torch.testing.assert_close(value, expected, atol=1e-10, rtol=0)
        found = torch.autograd.grad(value, [z, memory.directions])
        of_z, of_weight = torch.autograd.grad(expected, [z, weight])
        torch.testing.assert_close(found, (of_z, of_weight.T if rotated else of_weight), atol=1e-9, rtol=1e-9)


def agree_in_bfloat16(loss: nn.Module, by_loops: ByLoops, t: float) -> None:
    """Embeddings in bfloat16 against proxies in float32, under autocast: to 8 eps / t of float64 on the same rows."""
    memory = Proxies(WIDTH, torch.arange(CLASSES))
    batch = rows(torch.randn(12, WIDTH).bfloat16(), torch.arange(12) % CLASSES)
    with torch.autocast("cpu", torch.bfloat16):
        value = loss(batch, memory.rows())
    held = memory.rows().detach()
    expected = by_loops(replace(batch, z=batch.z.double()), replace(held, z=held.z.double()))
    assert value.dtype == torch.float32
    assert float(value.detach()) == pytest.approx(float(expected), abs=8 * 2**-23 / t, rel=8 * 2**-23)
