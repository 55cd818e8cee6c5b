"""XBM: cross-batch memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Annotated, Literal

import torch
from annotated_types import Ge
from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.batch import Batch
from metriclab.core.call_loss import apply_loss, check_miner_fits, parts_of
from metriclab.core.network import Network
from metriclab.core.protocols import Loss, Memory, Miner, Objective
from metriclab.core.rows import Rows, concatenate, count_positives
from metriclab.errors import RecipeError
from metriclab.methods.cached import Features, embed_batch, trains_on
from metriclab.registry import RunStep, register


@register("method", "xbm")
class XBM(nn.Module):
    """Supervised learning whose batch is also held against the embeddings of earlier batches.

    The loss is loss(batch, batch) + weight * loss(batch, memory). The memory holds earlier batches alone, as the first
    part covers this one; it fills from step 0 on, and its part counts from `start_step` on, when embeddings drift
    slowly enough for old ones to be true. Logged are `memory_filled`, the share of its rows that are of known class,
    and `memory_weight`, the factor of its part of the loss, which is 0 before `start_step`.

    A small memory has rows alike to few anchors, or to none. A loss that is a mean over those counts in full all the
    same, unless `weighting` says otherwise. In the code for the paper (msight-tech/research-xbm, commit 82f603a) it
    does not, as that sums over pairs and divides by the number of anchors: `mean_over = "anchors"` of the loss
    contrastive. That code also puts the batch into the memory before the loss: `batch_in_memory`.

    Paper: Wang et al., Cross-Batch Memory for Embedding Learning, CVPR 2020, arXiv 1912.06798, algorithm 1.

    Args:
        network: encoder and head.
        loss: any over rows; contrastive in the paper's main results.
        memory: where the earlier embeddings are; a ring in the paper.
        miner: chooses among the pairs, of the batch and of the memory; with one, the loss must be a loss over pairs.
        weight: factor of the memory's part of the loss; the paper takes 1.
        weighting: whether that is the factor as it stands (constant), or times the share of the anchors of known class
            that have a positive in the memory (positives): a loss that averages over such anchors, as nt-xent does,
            then counts as their sum divided by the number of all anchors. Of several losses each counts by its own
            labels; `memory_weight` is then their mean.
        batch_in_memory: whether the batch itself is held against in the memory's part too, without a gradient to that
            side, as in algorithm 1; a ring then has room for the batches before it, the paper's less one batch.
        positives: images of one class, or only those of different groups (cameras, sequences): such of one class and
            group are then no pair at all, in the memory neither.
        start_step: the first step with that part, counted from 0; the paper takes 1000 on large data sets.
        features: of a frozen encoder, computed in each step (online), or once before the first (cached), with the same
            result in a fraction of the time; cached, no image is read in training, and views must be `plain`.

    Raises:
        RecipeError: for a miner beside a loss that takes none, a loss that is to be held against the batch alone, and
            cached features of an encoder that trains.
    """

    by_class = plain_features = True
    done: Tensor

    def __init__(
        self,
        network: Network,
        /,
        *,
        loss: Loss,
        memory: Memory,
        miner: Miner | None = None,
        weight: Annotated[float, Ge(0)] = 1.0,
        weighting: Literal["constant", "positives"] = "constant",
        batch_in_memory: bool = False,
        positives: Literal["all", "across-groups"] = "all",
        start_step: Annotated[int, Ge(0), RunStep("the memory never counts, and training is supervised alone")] = 1000,
        features: Features = "online",
    ) -> None:
        super().__init__()
        check_miner_fits(loss, miner)
        if any(part.against == "batch" for part in parts_of(loss).values()):
            raise RecipeError(
                "method 'xbm' holds each loss against the batch, and against the memory besides",
                help='leave out against = "batch"',
            )
        self.network = network
        self.loss = loss
        self.memory = memory
        self.miner = miner
        self.weight = weight
        self.weighting: Literal["constant", "positives"] = weighting
        self.batch_in_memory = batch_in_memory
        self.needs = ("groups",) if positives == "across-groups" else ()
        self.start_step = start_step
        self.trains_on = trains_on(features, network)
        self.register_buffer("done", torch.tensor(0))  # steps
        self.memory_counts = start_step == 0  # on the host: to read the buffer in each step would wait for the device
        self.register_load_state_dict_post_hook(_decide)  # type: ignore[no-untyped-call]  # of torch

    def forward(self, batch: Batch) -> Rows:
        return embed_batch(self.network, batch, batch.groups if self.needs else None)

    def objective(self, local: Rows, world: Rows) -> Objective:
        earlier = self.memory.rows()
        loss = apply_loss(self.loss, local, world, miner=self.miner)
        alike = count_positives(world, world)
        weight = loss.new_full((), self.weight * self.memory_counts)
        if self.memory_counts:
            held = concatenate([world.detach(), earlier]) if self.batch_in_memory else earlier
            alike = alike + count_positives(world, held)
            weight, remembered = self._of_memory(weight, local, world, held)
            loss = loss if remembered is None else loss + remembered
        metrics = {
            "memory_filled": (earlier.labels >= 0).sum() / max(1, len(earlier)),
            "memory_weight": weight,
            "anchors_without_positives": (alike == 0).float().mean(),  # in place of those that are alone in the batch
        }
        return Objective(loss, metrics)

    def _of_memory(self, weight: Tensor, local: Rows, world: Rows, held: Rows) -> tuple[Tensor, Tensor | None]:
        """The factor of the memory's part, averaged over several losses by their weights, and that part."""
        parts = parts_of(self.loss)
        if self.weighting == "constant" or all(part.labels == "method" for part in parts.values()):
            factor = weight if self.weighting == "constant" else _times_share(weight, world, held)
            if self.weight == 0:
                return factor, None
            return factor, factor * apply_loss(self.loss, local, world, held, miner=self.miner)
        factors, values = [], []
        for part in parts.values():  # who is alike differs among them, and so does how many find somebody
            by_item = part.labels == "item"
            sides = (replace(one, labels=one.items, groups=None) if by_item else one for one in (world, held))
            factors.append(part.weight * _times_share(weight, *sides))
            values.append(factors[-1] * apply_loss(part, local, world, held))
        mean = torch.stack(factors).sum() / sum(part.weight for part in parts.values())
        return mean, torch.stack(values).sum() if self.weight > 0 else None

    def after_step(self, world: Rows, step: int) -> None:
        self.memory.push(world)
        self.done.fill_(step + 1)
        self.memory_counts = step + 1 >= self.start_step


def _times_share(weight: Tensor, world: Rows, held: Rows) -> Float[Tensor, ""]:
    """The weight times the share of the anchors of known label that have a positive in the memory."""
    return weight * (count_positives(world, held) > 0).sum() / (world.labels >= 0).sum().clamp(min=1)


def _decide(method: XBM, _: object) -> None:
    """Whether the memory counts in the step after those of a loaded state."""
    method.memory_counts = bool(method.done >= method.start_step)
