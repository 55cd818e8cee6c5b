"""A user's file: mypy --strict reads it and finds no Any; it is not run."""

from collections.abc import Callable
from typing import assert_type

import torch
from torch import Tensor

from metriclab.api import PairLoss, Pairs, Rows, Term, rows
from metriclab.losses import (
    PML,
    ArcFace,
    Contrastive,
    CosFace,
    Logistic,
    MultiSimilarity,
    NormalizedSoftmax,
    NPair,
    NTXent,
    ProxyAnchor,
    ProxyNCA,
    SupCon,
    Triplet,
)


def closeness(pairs: Pairs) -> dict[str, Term]:
    apart = torch.where(pairs.positive, 1 - pairs.similarity, torch.zeros_like(pairs.similarity))
    return {"pairs": Term(apart.sum(1), pairs.positive.sum(1))}


def every_pair(pairs: Pairs) -> Pairs:
    return pairs


def step(z: Tensor, labels: Tensor, memory: Rows) -> Tensor:
    criterion = NTXent(temperature=0.1)
    criterion.temperature = 0.05
    assert_type(criterion.temperature, float)
    batch = rows(z, labels)
    assert_type(batch, Rows)
    assert_type(criterion(z, labels), Tensor)
    assert_type(criterion(z, [0, 0, 1]), Tensor)
    assert_type(criterion(z, labels, miner=every_pair), Tensor)
    assert_type(criterion(batch, memory, miner=every_pair), Tensor)
    return criterion(batch) + criterion(batch, memory)


def losses_over_pairs(z: Tensor, labels: Tensor, batch: Rows) -> None:
    assert_type(ArcFace(scale=30.0)(z, labels, miner=every_pair), Tensor)
    assert_type(Contrastive(variant="cosine")(z, labels, miner=every_pair), Tensor)
    assert_type(CosFace()(batch, batch, miner=every_pair), Tensor)
    assert_type(Logistic(learnable=True)(batch, miner=every_pair), Tensor)
    assert_type(MultiSimilarity()(z, labels, miner=every_pair), Tensor)
    assert_type(NormalizedSoftmax()(z, labels, miner=every_pair), Tensor)
    assert_type(NPair()(z, labels, miner=every_pair), Tensor)
    assert_type(ProxyNCA()(z, labels, miner=every_pair), Tensor)
    assert_type(SupCon()(z, labels, miner=every_pair), Tensor)
    assert_type(Triplet(negatives="semihard")(z, labels, miner=every_pair), Tensor)
    assert_type(PairLoss(closeness)(z, labels, miner=every_pair), Tensor)


def other_losses(z: Tensor, labels: Tensor, batch: Rows) -> None:
    assert_type(ProxyAnchor()(z, labels), Tensor)
    assert_type(PML(8, labels, loss="CircleLoss")(batch, batch), Tensor)


criterion: Callable[[Rows, Rows], Tensor] = SupCon()
