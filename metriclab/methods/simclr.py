"""SimCLR."""

from __future__ import annotations

from torch import nn

from metriclab.core.batch import Batch
from metriclab.core.call_loss import apply_loss, check_miner_fits
from metriclab.core.network import Network
from metriclab.core.protocols import Loss, Memory, Miner, Objective
from metriclab.core.rows import Rows, concatenate
from metriclab.errors import RecipeError
from metriclab.registry import register


@register("method", "simclr")
class SimCLR(nn.Module):
    """Views of one image attract, views of different images repel. Any number of views, any loss over rows.

    It is supervised learning in which every image is its own class, so any registered loss can take NT-Xent's place.
    An image drawn twice in a step gives two rows of one class: a positive.

    With a memory, the batch is held against itself and the views of earlier steps at once, without labels: those of
    other images are further negatives, and an image is alike to its own. Logged then is `memory_filled`, as by `xbm`.

    Paper: Chen et al., A Simple Framework for Contrastive Learning of Visual Representations, ICML 2020, algorithm 1.

    Args:
        network: encoder and head.
        loss: nt-xent in the paper.
        memory: holds views of earlier steps; a ring smaller than the data set has hardly an image twice. The paper has
            none, and larger batches instead.
        miner: chooses among the pairs; with one, the loss must be a loss over pairs. `false-negatives` leaves out
            negatives that look like the anchor's own class.

    Raises:
        RecipeError: for a miner beside a loss that takes none, and for a memory that holds classes, such as proxies.
    """

    def __init__(
        self, network: Network, /, *, loss: Loss, memory: Memory | None = None, miner: Miner | None = None
    ) -> None:
        super().__init__()
        check_miner_fits(loss, miner)
        if memory is not None and bool((memory.rows().labels >= 0).any()):
            raise RecipeError(
                f"the memory {type(memory).__name__} holds classes, but to simclr each image is a class of its own",
                help="choose a memory of embeddings, such as ring, or method.name = 'supervised'",
            )
        self.network = network
        self.loss = loss
        self.memory = memory
        self.miner = miner

    def forward(self, batch: Batch) -> Rows:
        embedded = self.network.views(batch.views)
        return batch.rows([view.z for view in embedded], labels=batch.items)

    def objective(self, local: Rows, world: Rows) -> Objective:
        if self.memory is None:
            return Objective(apply_loss(self.loss, local, world, miner=self.miner), {})
        earlier = self.memory.rows()
        loss = apply_loss(self.loss, local, world, concatenate([world, earlier]), miner=self.miner)
        return Objective(loss, {"memory_filled": (earlier.labels >= 0).sum() / max(1, len(earlier))})

    def after_step(self, world: Rows, step: int) -> None:
        if self.memory is not None:
            self.memory.push(world)
