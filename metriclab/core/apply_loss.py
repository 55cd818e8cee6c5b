"""How a loss is called on any number of ranks."""

from __future__ import annotations

import inspect
from typing import Any

from jaxtyping import Float
from torch import Tensor

from metriclab.core.protocols import Loss, Miner
from metriclab.core.rows import Rows
from metriclab.errors import RecipeError


def apply_loss(
    loss: Loss, local: Rows, world: Rows, references: Rows | None = None, *, miner: Miner | None = None
) -> Float[Tensor, ""]:
    """The loss whose mean over ranks is that of one process holding all rows.

    With parameter gradients averaged over ranks, as by DistributedDataParallel, the gradient is that of one process
    too. `loss(world)` on every rank is the same loss and gradient, with all of the work on each of them.

    Args:
        loss: `pairwise` losses get this rank's rows as anchors; any other gets the rows of all ranks.
        local: this rank's rows.
        world: `gather(local)`.
        references: what the anchors are held against, the same on every rank; `world` by default.
        miner: chooses among the pairs, for a loss that `takes_miner`.
    """
    anchors = local if getattr(loss, "pairwise", False) else world
    references = world if references is None else references
    if miner is None:
        return loss(anchors, references)
    mining: Any = loss  # the protocol of losses knows no miners
    return mining(anchors, references, miner=miner)  # type: ignore[no-any-return]


def takes_miner(loss: Loss) -> bool:
    """Whether the loss is one over pairs, which can be told which of them to leave out."""
    call = getattr(loss, "forward", loss)  # a module's own call hides its parameters
    return "miner" in inspect.signature(call).parameters


def check_miner_fits(loss: Loss, miner: Miner | None) -> None:
    """Checks that the loss can be given this miner; methods that take one call it when they are built.

    Raises:
        RecipeError: where the loss takes none.
    """
    if miner is not None and not takes_miner(loss):
        raise RecipeError(
            f"the loss {type(loss).__name__} takes no miner: it is no loss over pairs",
            help="remove [miner], or name a loss over pairs, such as contrastive",
        )


def check_memory_fits(loss: Loss | None, memory: object | None) -> None:
    """Checks that a loss that is meant for learned rows of classes has a memory, where they are.

    Raises:
        RecipeError: where there is none, and it would hold the batch against itself.
    """
    if memory is None and getattr(loss, "needs_memory", False):
        raise RecipeError(
            f"the loss {type(loss).__name__} holds images against learned rows of classes, and there is no memory",
            help='add [memory] with name = "proxies", and a method that takes one, such as supervised',
        )
