"""A user's file: mypy --strict reads it and finds no Any; it is not run."""

from collections.abc import Callable
from typing import assert_type

import torch
from torch import Tensor

from metriclab import evaluators, memories, miners
from metriclab.api import PairLoss, Pairs, Rows, Score, Term, rows
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


def miners_and_memories(z: Tensor, labels: Tensor) -> Tensor:
    criterion, miner = NTXent(), miners.MultiSimilarity(epsilon=0.2)
    assert_type(miner.epsilon, float)
    memory, proxies = memories.Ring(8, size=16), memories.Proxies(8, [0, 1])
    batch = rows(z, labels)
    assert_type(memory.rows(), Rows)
    loss = criterion(batch, miner=miner) + criterion(batch, memory.rows()) + ArcFace()(batch, proxies.rows())
    assert_type(loss, Tensor)
    memory.push(batch)
    return criterion(z, labels, miner=miners.BatchHard(positive="nearest"))


def evaluation(z: Tensor, labels: Tensor, batch: Rows) -> float:
    scores = evaluators.Retrieval()(z, labels)
    assert_type(scores, dict[str, Score])
    assert_type(evaluators.Retrieval()(z, labels, z, [0, 1, 1]), dict[str, Score])
    assert_type(evaluators.KNN(k=5)(batch), dict[str, Score])
    assert_type(evaluators.LinearProbe()(batch, batch), dict[str, Score])
    assert_type(scores["map_at_r"].per_query, Tensor)
    return scores["map_at_r"].value


criterion: Callable[[Rows, Rows], Tensor] = SupCon()
