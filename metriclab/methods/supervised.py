"""Supervised metric learning."""

from __future__ import annotations

import inspect
from typing import Any, NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.apply_loss import apply_loss
from metriclab.core.batch import Batch
from metriclab.core.errors import RecipeError
from metriclab.core.network import Embedded, Network
from metriclab.core.protocols import Loss, Miner, Objective
from metriclab.core.rows import Rows
from metriclab.registry import register


class Outputs(NamedTuple):
    rows: Rows


@register("method", "supervised")
class Supervised(nn.Module):
    """Images of one class attract, images of different classes repel. All views of a batch are used, one is enough.

    Images of unknown class have no part in the loss.

    Paper: Musgrave et al., A Metric Learning Reality Check, ECCV 2020, for this setting and its losses.

    Args:
        network: encoder and head.
        loss: any.
        miner: chooses among the pairs of the batch; with one, the loss must be a loss over pairs.

    Raises:
        RecipeError: for a miner beside a loss that takes none.
    """

    def __init__(self, network: Network, /, *, loss: Loss, miner: Miner | None = None) -> None:
        super().__init__()
        if miner is not None and not _takes_miner(loss):
            raise RecipeError(
                f"the loss {type(loss).__name__} takes no miner: it is no loss over pairs",
                help="remove [miner], or name a loss over pairs, such as contrastive",
            )
        self.network = network
        self.loss: Any = loss
        self.miner = miner

    def forward(self, batch: Batch) -> Outputs:
        embedded = self.network.views(batch.views)
        return Outputs(batch.rows([view.z for view in embedded], labels=batch.labels))

    def objective(self, local: Outputs, world: Outputs) -> Objective:
        if self.miner is None:
            return Objective(apply_loss(self.loss, local.rows, world.rows), {})
        return Objective(self.loss(local.rows, world.rows, mine=self.miner), {})

    def after_step(self, world: Outputs, step: int) -> None:
        pass

    def embed(self, images: Float[Tensor, "n c h w"]) -> Embedded:
        embedded: Embedded = self.network(images)
        return embedded


def _takes_miner(loss: Any) -> bool:
    call = getattr(loss, "forward", loss)  # a module's own call hides its parameters
    return getattr(loss, "pairwise", False) and "mine" in inspect.signature(call).parameters
