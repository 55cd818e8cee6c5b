"""MoCo for metriclab."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, Literal, NamedTuple

import torch
from annotated_types import Ge, Le
from jaxtyping import Bool
from torch import Tensor, nn

from metriclab.api import (
    Batch,
    Loss,
    Memory,
    Network,
    Objective,
    Pairs,
    RecipeError,
    Rows,
    apply_loss,
    concatenate,
    register,
    takes_miner,
)

__all__ = ["MoCo"]


class Outputs(NamedTuple):
    """What this rank's images give: queries with a gradient, keys without."""

    queries: Rows
    keys: Rows


@register("method", "moco")
class MoCo(nn.Module):
    """Momentum contrast: a query finds the key of its image among the keys of earlier batches.

    Queries are embeddings of the first view by the network, keys those of the second by its slow copy, whose weights
    follow the network's by momentum. With nt-xent the loss is the paper's: one positive, the key of the same image in
    the same step, against all keys in the memory, also an older one of that very image; keys of other images of the
    batch are neither. They enter the memory after the step. It starts empty, and not with noise: the first step has no
    negative and its loss is 0. `queue_filled`, the share of the memory that holds keys, is logged.

    BatchNorm of the key network takes the statistics of the keys' own batch, of all processes where
    `train.synchronize_batch_norm` holds: so does the authors' code on a single GPU, and MoCo version 3 on several. On
    several GPUs that code shuffles images between them (facebookresearch/moco, commit 4397a04), so that a key's
    statistics are of other images than its query's; that is not offered, as a run would depend on how many processes
    it has. With `key_batch_norm = "averaged"` keys are normalised by running statistics, which no other image of the
    batch can move, and which follow those of the network by momentum as weights do (Cai et al., EMAN, CVPR 2021). They
    start as those of an untrained layer: for runs of many more than 1 / (1 - momentum) steps.

    Paper: He et al., Momentum Contrast for Unsupervised Visual Representation Learning, CVPR 2020, algorithm 1;
    Chen et al., Improved Baselines with Momentum Contrastive Learning, 2020, arXiv 2003.04297.

    Args:
        network: encoder and head.
        total_steps: of the run.
        loss: nt-xent in the paper, at temperature 0.07, or 0.2 in version 2.
        memory: where the keys of earlier batches are; in the paper a ring of 65,536, about 5 % of the images.
        momentum: of the slow copy: the share of its weights that each step keeps.
        momentum_schedule: constant, or a cosine from `momentum` in the first step towards 1 after the last (BYOL and
            MoCo version 3).
        symmetric: every view gives queries and keys, one view at a time for BatchNorm; a query is then held against the
            keys of the other views. The loss stays a mean, where others add the two directions up.
        key_batch_norm: whose statistics the key network's BatchNorm takes: those of the batch of keys, or running ones,
            averaged by momentum.
        batch_negatives: keys of other images of the batch are negatives too, as in MoCo version 3. The loss may then be
            any over rows; without, it must be one over pairs.

    Raises:
        RecipeError: for a memory of learned rows, a loss that cannot leave the batch out, a single view, and a single
            image beside BatchNorm.
    """

    def __init__(
        self,
        network: Network,
        total_steps: int,
        /,
        *,
        loss: Loss,
        memory: Memory,
        momentum: Annotated[float, Ge(0), Le(1)] = 0.999,
        momentum_schedule: Literal["constant", "cosine"] = "constant",
        symmetric: bool = False,
        key_batch_norm: Literal["batch", "averaged"] = "batch",
        batch_negatives: bool = False,
    ) -> None:
        super().__init__()
        _check(loss, memory, batch_negatives)
        self.network, self.loss, self.memory = network, loss, memory
        self.momentum = momentum_over(total_steps, momentum, momentum_schedule)
        self.symmetric, self.batch_negatives = symmetric, batch_negatives
        self.key_batch_norm: Literal["batch", "averaged"] = key_batch_norm
        self.key_network = copy.deepcopy(network).requires_grad_(False)
        self.train()

    def train(self, mode: bool = True) -> MoCo:
        super().train(mode)
        if self.key_batch_norm == "averaged":
            self.key_network.eval()  # running statistics, also in training
        return self

    def forward(self, batch: Batch) -> Outputs:
        if len(batch.views) < 2:
            raise RecipeError("method 'moco' compares views of an image, and there is one", help="set views.count = 2")
        first = 0 if self.symmetric else 1
        queries = self.network.views(batch.views if self.symmetric else batch.views[:1], together=False)
        with torch.no_grad():
            keys = self.key_network.views(batch.views[first:], together=False)
        labels = (batch.step << 24) + batch.positions  # one a draw: older keys of the image are no positives
        return Outputs(
            batch.rows([view.z for view in queries], labels),
            batch.rows([view.z for view in keys], labels, first_view=first),
        )

    def objective(self, local: Outputs, world: Outputs) -> Objective:
        queue = self.memory.rows()
        references = concatenate([world.keys, queue])
        queued = torch.arange(len(references), device=queue.labels.device) >= len(world.keys)
        miner = None if self.batch_negatives else partial(against_queue, queued=queued)
        loss = apply_loss(self.loss, local.queries, world.queries, references, miner=miner)
        filled = (queue.labels >= 0).float().mean()
        # Positives are among the keys, where the run does not look for them.
        return Objective(loss, {"queue_filled": filled, "anchors_without_positives": torch.zeros_like(filled)})

    def after_step(self, world: Outputs, step: int) -> None:
        share = 1 - self.momentum(step)
        for slow, fast in zip(self.key_network.parameters(), self.network.parameters(), strict=True):
            slow.lerp_(fast, share)
        if self.key_batch_norm == "averaged":
            for slow, fast in zip(self.key_network.buffers(), self.network.buffers(), strict=True):
                slow.lerp_(fast, share) if slow.is_floating_point() else slow.copy_(fast)
        self.memory.push(world.keys)


def against_queue(pairs: Pairs, queued: Bool[Tensor, "m"]) -> Pairs:
    """Leaves only references of the queue negative."""
    return replace(pairs, negative=pairs.negative & queued)


def momentum_over(total_steps: int, momentum: float, schedule: str) -> Callable[[int], float]:
    """Step (from 0) -> share of its weights that the slow copy keeps."""
    return partial(_cosine, total_steps, momentum) if schedule == "cosine" else partial(_constant, momentum)


def _constant(momentum: float, step: int) -> float:
    return momentum


def _cosine(total_steps: int, momentum: float, step: int) -> float:
    return 1 - (1 - momentum) * (1 + math.cos(math.pi * step / total_steps)) / 2


def _check(loss: Loss, memory: Memory, batch_negatives: bool) -> None:
    if memory.rows().z.requires_grad:
        raise RecipeError(
            "method 'moco' remembers the keys of images, and this memory has learned rows of its own",
            help='set memory.name = "ring"',
        )
    if not batch_negatives and not takes_miner(loss):
        raise RecipeError(
            f"the loss {type(loss).__name__} is no loss over pairs: it cannot leave out the other images of the batch",
            help='set loss.name = "nt-xent", or method.batch_negatives = true',
        )
