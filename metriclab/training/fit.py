"""The training loop: a generator that yields after every step. Logging, evaluating and saving are its caller's."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from metriclab import distributed
from metriclab.assembly.assemble import Training
from metriclab.assembly.devices import precision
from metriclab.assembly.learning_rates import start_step
from metriclab.core.batch import Batch
from metriclab.core.protocols import Objective
from metriclab.errors import RecipeError
from metriclab.recipe import Train
from metriclab.training.batches import RankBatch, batches
from metriclab.training.chunks import recomputing, step_in_chunks
from metriclab.training.objective import differentiate


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one training step gave. Tensors stay on the device until somebody reads them.

    Attributes:
        done: number of steps done, this one included.
        loss: of this rank; the run minimises its mean over ranks.
        gradient_norm: of all parameters together, over all ranks, before clipping.
        learning_rate: of the first parameter group.
        metrics: the method's own.
        batch: whose images this rank had; without their views.
        world: the outputs of all ranks, detached.
    """

    done: int
    loss: Tensor
    gradient_norm: Tensor
    learning_rate: float
    metrics: Mapping[str, Tensor]
    batch: Batch
    world: Any


def fit(training: Training, start: int = 0) -> Iterator[StepResult]:
    """Trains from step `start` to the end.

    Raises:
        RecipeError: where the device has not the memory for a step.
    """
    method: Any = training.method  # a module that fits the protocol of methods
    optimizer = training.optimizer
    if optimizer is None:
        return
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    method.train()
    for rank_batch in batches(training, start):
        number = rank_batch.batch.step
        start_step(method, optimizer, training.schedule, number)
        with telling_of_memory(training.settings, number):
            objective, world = backward(training, rank_batch)
        distributed.average_gradients(parameters)
        norm = clip_gradients(parameters, training.settings.clip_gradient)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        seen = distributed.map_tensors(torch.Tensor.detach, world)
        with torch.no_grad():
            method.after_step(seen, number)
        yield StepResult(
            number + 1,
            objective.loss.detach(),
            norm,
            optimizer.param_groups[0]["lr"],
            {name: value.detach() for name, value in objective.metrics.items()},
            rank_batch.batch,
            seen,
        )


def backward(training: Training, rank_batch: RankBatch) -> tuple[Objective, Any]:
    """The objective of one step and the outputs of all ranks; gradients are left in the parameters."""
    method: Any = training.method
    settings, number = training.settings, rank_batch.batch.step

    def embed(batch: Batch) -> Any:  # whose views were made outside of autocast: they are what float32 makes of them
        with precision(settings.precision, training.device):
            return method(batch)

    def forward(index: int, start: int, stop: int) -> Any:
        seed_step(settings.seed, number, index + 1)
        return embed(rank_batch.part(start, stop))

    if settings.chunk is not None and settings.chunk < rank_batch.largest:
        return step_in_chunks(method, rank_batch, settings.chunk, forward, lambda: seed_step(settings.seed, number))
    seed_step(settings.seed, number)
    local = embed(rank_batch.part(0, len(rank_batch)))
    world = distributed.gather(local)
    with recomputing(method):
        return differentiate(method, local, world), world


@contextmanager
def telling_of_memory(settings: Train, step: int) -> Iterator[None]:
    """Says what helps where a GPU's memory is too small. Nothing is made smaller silently."""
    try:
        yield
    except torch.OutOfMemoryError as error:
        chunk = settings.chunk
        smaller = f"set train.chunk = {max(1, chunk // 2)}" if chunk else "set train.chunk = 64, or another number"
        raise RecipeError(
            f"step {step} does not fit the memory of the device: {str(error).splitlines()[0]}",
            help=f"{smaller}: so many images are embedded at a time, with the gradient of the whole batch",
        ) from error


def seed_step(seed: int, step: int, chunk: int = 0) -> None:
    """Seeds torch for one step, or for a chunk of it, so that dropout and the like can be repeated."""
    key = (seed, step, distributed.rank(), chunk) if chunk else (seed, step, distributed.rank())
    words = np.random.SeedSequence(key).generate_state(2, np.uint32)
    torch.manual_seed(int(words[0]) << 31 | int(words[1]) >> 1)


def clip_gradients(parameters: list[nn.Parameter], limit: float | None) -> Tensor:
    """The norm of all gradients, which are scaled down to the limit where they exceed it."""
    gradients = [parameter.grad for parameter in parameters if parameter.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm
