"""SimCLR."""

from __future__ import annotations

from torch import nn

from metriclab.core.batch import Batch
from metriclab.core.call_loss import apply_loss, check_miner_fits
from metriclab.core.network import Network
from metriclab.core.protocols import Loss, Miner, Objective
from metriclab.core.rows import Rows
from metriclab.registry import register


@register("method", "simclr")
class SimCLR(nn.Module):
    """Views of one image attract, views of different images repel. Any number of views, any loss over rows.

    It is supervised learning in which every image is its own class, so any registered loss can take NT-Xent's place.
    An image drawn twice in a step gives two rows of one class: a positive.

    Paper: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, algorithm 1.

    Args:
        network: encoder and head.
        loss: nt-xent in the paper.
        miner: chooses among the pairs; with one, the loss must be a loss over pairs. `false-negatives` leaves out
            negatives that look like the anchor's own class.

    Raises:
        RecipeError: for a miner beside a loss that takes none.
    """

    def __init__(self, network: Network, /, *, loss: Loss, miner: Miner | None = None) -> None:
        super().__init__()
        check_miner_fits(loss, miner)
        self.network = network
        self.loss = loss
        self.miner = miner

    def forward(self, batch: Batch) -> Rows:
        embedded = self.network.views(batch.views)
        return batch.rows([view.z for view in embedded], labels=batch.items)

    def objective(self, local: Rows, world: Rows) -> Objective:
        return Objective(apply_loss(self.loss, local, world, miner=self.miner), {})

    def after_step(self, world: Rows, step: int) -> None:
        pass
