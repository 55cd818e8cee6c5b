"""Supervised metric learning."""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from torch import nn

from metriclab.core.batch import Batch
from metriclab.core.call_loss import apply_loss, check_miner_fits, check_parts_fit_classes, parts_of
from metriclab.core.network import Network
from metriclab.core.protocols import Loss, Memory, Miner, Objective
from metriclab.core.rows import Rows, count_positives
from metriclab.errors import RecipeError
from metriclab.methods.cached import Features, embed_batch, trains_on
from metriclab.registry import register


@register("method", "supervised")
class Supervised(nn.Module):
    """Images of one class attract, images of different classes repel. All views of a batch are used, one is enough.

    The batch is held against itself, or against a memory alone where there is one: with `proxies`, against one learned
    row a class. (To hold it against itself and earlier batches, see the method `xbm`.) Images of unknown class have no
    part in the loss.

    Paper: Musgrave et al., A Metric Learning Reality Check, ECCV 2020, for this setting and its losses.

    Args:
        network: encoder and head.
        loss: any.
        miner: chooses among the pairs; with one, the loss must be a loss over pairs.
        memory: what the batch is held against in place of itself.
        positives: images of one class, or only those of different groups (cameras, sequences): such of one class and
            group are then no pair at all.
        features: of a frozen encoder, computed in each step (online), or once before the first (cached), with the same
            result in a fraction of the time; cached, no image is read in training, and views must be `plain`.

    Raises:
        RecipeError: for a miner beside a loss that takes none, for a loss that tells images apart beside a memory of
            classes, for positives of other groups beside a memory whose rows are of none, and for cached features of
            an encoder that trains.
    """

    by_class = plain_features = True

    def __init__(
        self,
        network: Network,
        /,
        *,
        loss: Loss,
        miner: Miner | None = None,
        memory: Memory | None = None,
        positives: Literal["all", "across-groups"] = "all",
        features: Features = "online",
    ) -> None:
        super().__init__()
        if positives == "across-groups" and memory is not None and memory.rows().groups is None:
            raise RecipeError(
                "method.positives = 'across-groups' has no effect beside a memory whose rows are of no group",
                help="leave it out, or hold the batch against itself, without [memory]",
            )
        check_miner_fits(loss, miner)
        check_parts_fit_classes(loss, memory)
        self.network = network
        self.loss = loss
        self.miner = miner
        self.memory = memory
        self.needs = ("groups",) if positives == "across-groups" else ()
        self.trains_on = trains_on(features, network)

    def forward(self, batch: Batch) -> Rows:
        return embed_batch(self.network, batch, batch.groups if self.needs else None)

    def objective(self, local: Rows, world: Rows) -> Objective:
        if self.memory is None:
            loss = apply_loss(self.loss, local, world, miner=self.miner)
            if not any(part.labels == "item" for part in parts_of(self.loss).values()):
                return Objective(loss, {})
            by_item = replace(world, labels=world.items, groups=None)
            return Objective(
                loss, {"anchors_without_positives": (count_positives(by_item, by_item) == 0).float().mean()}
            )
        references = self.memory.rows()
        # In place of those that are alone of their class in the batch.
        without = (count_positives(world, references) == 0).float().mean()
        loss = apply_loss(self.loss, local, world, references, miner=self.miner)
        return Objective(loss, {"anchors_without_positives": without})

    def after_step(self, world: Rows, step: int) -> None:
        if self.memory is not None:
            self.memory.push(world)
