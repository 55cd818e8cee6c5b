"""What a loss does on several ranks whose gradients are averaged, as by DistributedDataParallel."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from metriclab.distributed import average_gradients, mean
from metriclab.testing.any_loss.findings import Finding, number
from metriclab.testing.any_loss.target import Target
from metriclab.testing.any_loss.trial import RawCase, Trial
from metriclab.testing.cases import fresh
from metriclab.testing.gaps import deviation
from metriclab.testing.ranks import RankCrash, Share, on_ranks

RANKS = (2, 3)

_CLOSE = 1e-5


@dataclass(frozen=True, slots=True)
class Behaviour:
    """A kind of distributed behaviour.

    Attributes:
        kind: "exact", "scaled by ranks", "local negatives", "another loss" or "fails".
        text: by how much.
        seen: what a user sees of it.
    """

    kind: str
    text: str
    seen: str = ""


def several_ranks(trial: Trial) -> tuple[str, Finding]:
    """The kind of distributed behaviour, and the row of the table."""
    found = [_behaviour(trial, ranks) for ranks in RANKS]
    worst = next((one for one in found if one.kind != "exact"), found[0])
    text = "; ".join(f"{ranks} ranks: {one.text}" for ranks, one in zip(RANKS, found, strict=True))
    if worst.kind == "exact":
        return "exact", Finding("several ranks", "ok", "exact: value and gradient are those of one process")
    return worst.kind, Finding("several ranks", "falls short", f"{worst.kind}; {text}", worst.seen or _SEEN[worst.kind])


_SEEN = {
    "scaled by ranks": "each GPU that is added changes the learning rate of this loss, and its weight beside others",
    "local negatives": "each GPU that is added takes pairs away: a batch of 4 x 64 rows is trained like one of 64",
    "another loss": "the number of GPUs changes what is learned",
    "fails": "training on several GPUs ends at its first step",
}


def on_a_rank(share: Share, target: Target, given: RawCase) -> Mapping[str, Tensor]:
    """One step of a model whose parameters are the embeddings: the mean loss and the averaged gradients."""
    trial = Trial.of(target)
    return _step(trial, share, given, trial.convention.on_rank)


def _step(trial: Trial, share: Share, given: RawCase, call: Any) -> Mapping[str, Tensor]:
    loss: Any = fresh(trial.loss)
    z = nn.Parameter(given.z.clone())
    local = given.rows(z)[_part(given, share)]
    value = call(loss, local)
    weights = dict(loss.named_parameters()) if isinstance(loss, nn.Module) else {}
    learned = {**weights, "embeddings": z}
    gradients = torch.autograd.grad(value, list(learned.values()), allow_unused=True)
    for parameter, gradient in zip(learned.values(), gradients, strict=True):
        parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
    average_gradients(learned.values())
    return {"loss": mean(value.detach()), **{name: one.grad for name, one in learned.items() if one.grad is not None}}


def _part(given: RawCase, share: Share) -> Tensor:
    """This rank's rows: an equal share of each side, as libraries that gather expect."""
    sides = [(given.sides == side).nonzero()[:, 0] for side in torch.unique(given.sides).tolist()]
    return torch.cat([side.chunk(share.ranks)[share.rank] for side in sides])


def _behaviour(trial: Trial, ranks: int) -> Behaviour:
    given = trial.plain()
    try:
        one, *_ = on_ranks(on_a_rank, 1, trial.target, given)
        found, *_ = on_ranks(on_a_rank, ranks, trial.target, given)
    except RankCrash as error:
        return Behaviour("fails", str(error).splitlines()[0][:160])
    value, expected = float(found["loss"]), float(one["loss"])
    of_value = abs(value - expected) <= _CLOSE * max(abs(expected), 0.05)
    gap = max(deviation(found[name], one[name], 1e-6) for name in one if name != "loss")
    if of_value and gap <= _CLOSE:
        return Behaviour("exact", "exact")
    told = f"the loss is {number(value)} for {number(expected)}"
    factor = _factor(found["embeddings"], one["embeddings"])
    if factor is not None:
        seen = "the log shows another loss for each number of GPUs, though all train alike" if gap <= _CLOSE else ""
        return Behaviour("scaled by ranks", f"{told}, the gradient is {number(factor)} times that of one process", seen)
    if _is_local(trial, ranks, given, found):
        return Behaviour("local negatives", f"{told}, the gradient off by {gap:.0%}")
    return Behaviour("another loss", f"{told}, the gradient off by {gap:.0%}")


def _factor(found: Tensor, expected: Tensor) -> float | None:
    """By what number the gradients differ, if by nothing else."""
    square = float(expected.square().sum())
    factor = float((found * expected).sum()) / square if square else 0.0
    return factor if deviation(found, factor * expected, 1e-6) <= _CLOSE and factor else None


def _is_local(trial: Trial, ranks: int, given: RawCase, found: Mapping[str, Tensor]) -> bool:
    """Whether it is the mean of what each share gives by itself."""
    shares = [_step(trial, Share(rank, ranks), given, trial.convention.call) for rank in range(ranks)]
    return all(
        deviation(found[name], torch.stack([share[name] for share in shares]).mean(0), 1e-6) <= _CLOSE for name in found
    )
