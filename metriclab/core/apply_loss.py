"""How a loss is called on any number of ranks."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from metriclab.core.protocols import Loss
from metriclab.core.rows import Rows


def apply_loss(loss: Loss, local: Rows, world: Rows) -> Float[Tensor, ""]:
    """The loss whose mean over ranks is that of one process holding all rows.

    Args:
        loss: `pairwise` losses get this rank's rows as anchors; any other gets the rows of all ranks on both sides.
        local: this rank's rows.
        world: `gather(local)`.
    """
    anchors = local if getattr(loss, "pairwise", False) else world
    return loss(anchors, world)
