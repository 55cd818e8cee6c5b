"""The training loop: a generator that yields after every step. Logging, evaluating and saving are its caller's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metriclab.core import distributed
from metriclab.core.batch import Batch
from metriclab.run.assemble import Training
from metriclab.run.batches import batches


@dataclass(frozen=True, slots=True)
class Step:
    """One step done. Tensors stay on the device until somebody reads them.

    Attributes:
        done: number of steps done, this one included.
        loss: of this rank; the run minimises its mean over ranks.
        gradient_norm: of all parameters together, over all ranks, before clipping.
        learning_rate: of the first parameter group.
        metrics: the method's own.
        batch: this rank's part of the batch.
        world: the outputs of all ranks, detached.
    """

    done: int
    loss: Tensor
    gradient_norm: Tensor
    learning_rate: float
    metrics: Mapping[str, Tensor]
    batch: Batch
    world: Any


def fit(training: Training, start: int = 0) -> Iterator[Step]:
    """Trains from step `start` to the end."""
    method: Any = training.method  # a module that fits the protocol of methods
    optimizer = training.optimizer
    if optimizer is None:
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    method.train()
    for batch in batches(training, start):
        seed_step(training.settings.seed, batch.step)
        factor = training.schedule(batch.step)
        for group in optimizer.param_groups:
            group["lr"] = group["initial_lr"] * factor
        with precision(training.settings.precision, training.device):
            local = method(batch)
        world = distributed.gather(local)
        objective = method.objective(local, world)
        objective.loss.backward()
        distributed.average_gradients(parameters)
        norm = clip_gradients(parameters, training.settings.clip_gradient)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen = distributed.map_tensors(torch.Tensor.detach, world)
        with torch.no_grad():
            method.after_step(seen, batch.step)
        yield Step(
            batch.step + 1,
            objective.loss.detach(),
            norm,
            optimizer.param_groups[0]["lr"],
            {name: value.detach() for name, value in objective.metrics.items()},
            batch,
            seen,
        )


def seed_step(seed: int, step: int) -> None:
    """Seeds torch for one step, so that dropout and the like are the same after a resume."""
    words = np.random.SeedSequence((seed, step, distributed.rank())).generate_state(2, np.uint32)
    torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def precision(name: str, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 for the encoder where the recipe wants it; similarities and losses stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16")


def clip_gradients(parameters: list[nn.Parameter], limit: float | None) -> Tensor:
    """The norm of all gradients, which are scaled down to the limit where they exceed it."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm
