"""Whether a loss gives on several ranks what it gives in one process."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from metriclab.core.call_loss import apply_loss
from metriclab.core.protocols import Loss
from metriclab.distributed import average_gradients, gather, mean
from metriclab.testing.cases import Case, case, fresh, plain
from metriclab.testing.meter import measure
from metriclab.testing.ranks import Share, agree_on_ranks


def check_ranks(loss: Loss) -> None:
    """Asserts equal gradients and an equal logged loss on 1, 2 and 3 ranks, in float64, also for lonely ranks."""
    lonely = case("a last rank without positives", [0, 0, 1, 1, 1, 0, 2, 2, 3, 4, 5, 6])
    unlabelled = case("a last rank without labels", [0, 0, 1, 1, 1, 0, 2, 2, -1, -1, -1, -1])
    pairless = case("no pair on any rank", [-1] * 7)
    cases = [plain(), lonely, unlabelled, pairless]
    why = (
        "On several ranks a loss with `pairwise = True` gets this rank's anchors and all references and returns ranks "
        "x local sum / global count, as PairLoss does; any other loss gets all rows on both sides"
    )
    name = type(loss).__name__
    agree_on_ranks(name, "is another one", why, all_values_and_gradients, fresh(loss), cases, tolerance=1e-12)


def all_values_and_gradients(share: Share, loss: Loss, cases: list[Case]) -> dict[str, Tensor]:
    """All cases in one go, as joining a group takes longer than they do."""
    return {
        f"{name} with {given.name}": tensor
        for given in cases
        for name, tensor in value_and_gradients(share, loss, given).items()
    }


def value_and_gradients(share: Share, loss: Loss, given: Case) -> dict[str, Tensor]:
    """One step of a model whose parameters are the embeddings themselves."""
    z = nn.Parameter(given.z.clone())
    part = share.of(len(z))
    local = replace(given, z=z[part], labels=given.labels[part], ids=given.ids[part]).rows()
    world = gather(local)
    with measure() as meter:
        value = apply_loss(loss, local, world)
    gathers = any("c10d" in name and "allreduce" not in name for name in meter.operators)
    assert not gathers, f"{type(loss).__name__} gathers by itself: the run hands a loss the rows of all ranks"
    parameters = dict(loss.named_parameters()) if isinstance(loss, nn.Module) else {}
    parameters["embeddings"] = z
    gradients = torch.autograd.grad(value, list(parameters.values()), allow_unused=True)
    for parameter, gradient in zip(parameters.values(), gradients, strict=True):
        parameter.grad = torch.zeros_like(parameter) if gradient is None else gradient
    average_gradients(parameters.values())
    averaged = {f"gradient of {name}": p.grad for name, p in parameters.items() if p.grad is not None}
    return {"loss": mean(value.detach()), **averaged}
