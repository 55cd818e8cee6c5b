"""How losses are called: by people, with raw embeddings and labels or with rows; and on any number of ranks."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping
from typing import Any, overload

from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.copies import is_copy
from metriclab.core.promises import check_scalar
from metriclab.core.protocols import Loss, Memory, Miner
from metriclab.core.rows import Labels, Rows, rows
from metriclab.errors import RecipeError


@overload
def call_loss(self: nn.Module, z: Tensor, labels: Labels, /) -> Tensor: ...
@overload
def call_loss(self: nn.Module, anchors: Rows, references: Rows | None = None, /) -> Tensor: ...
def call_loss(self: nn.Module, anchors: Tensor | Rows, references: Labels | Rows | None = None, /) -> Float[Tensor, ""]:
    """The `__call__` of a loss: `criterion(z, labels)` or `criterion(anchors, references)`, references the anchors by
    default. Hooks run as in any module."""
    value: Tensor = nn.Module.__call__(self, *_both_sides(anchors, references))
    return value


@overload
def call_pair_loss(self: nn.Module, z: Tensor, labels: Labels, /, *, miner: Miner | None = None) -> Tensor: ...
@overload
def call_pair_loss(
    self: nn.Module, anchors: Rows, references: Rows | None = None, /, *, miner: Miner | None = None
) -> Tensor: ...
def call_pair_loss(
    self: nn.Module,
    anchors: Tensor | Rows,
    references: Labels | Rows | None = None,
    /,
    *,
    miner: Miner | None = None,
) -> Float[Tensor, ""]:
    """The `__call__` of a loss over pairs: as `call_loss`, and a miner may choose among the pairs."""
    value: Tensor = nn.Module.__call__(self, *_both_sides(anchors, references), miner=miner)
    return value


def _both_sides(anchors: Tensor | Rows, references: Labels | Rows | None) -> tuple[Rows, Rows]:
    if isinstance(anchors, Rows) and references is None:
        return anchors, anchors
    if isinstance(anchors, Rows) and isinstance(references, Rows):
        _warn_of_copy(anchors, references)
        return anchors, references
    if isinstance(anchors, Rows) or references is None or isinstance(references, Rows):
        raise TypeError("a loss takes (z, labels), or (anchors, references), both of them Rows: rows(z, labels)")
    batch = rows(anchors, references)
    return batch, batch


def _warn_of_copy(anchors: Rows, references: Rows) -> None:
    """Rows made twice of one batch are strangers to each other, and each would be its own positive."""
    if anchors.z.device.type != "cpu" or len(anchors) == 0:  # a GPU would have to wait for the answer
        return
    numbered_here = anchors.ids.numpy()[0] < 0  # those of a run know each other
    if numbered_here and is_copy(references, anchors):
        warnings.warn(
            "the references are a copy of the anchors under other ids, so each row is its own positive: "
            "make the rows once, and call loss(batch) or loss(batch, batch)",
            UserWarning,
            stacklevel=4,
        )


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

    Raises:
        PluginError: where the loss gives anything but a scalar.
    """
    anchors = local if getattr(loss, "pairwise", False) else world
    references = world if references is None else references
    mining: Any = loss  # the protocol of losses knows no miners
    value: Tensor = loss(anchors, references) if miner is None else mining(anchors, references, miner=miner)
    check_scalar(loss, value)
    return value


def takes_miner(loss: Loss) -> bool:
    """Whether the loss is one over pairs, which can be told which of them to leave out."""
    call = getattr(loss, "forward", loss)  # a module's own call hides its parameters
    return "miner" in inspect.signature(call).parameters


def check_miner_fits(loss: Loss, miner: Miner | None) -> None:
    """Checks that the loss can be given this miner; methods that take one call it when they are built.

    Raises:
        RecipeError: where the loss takes none.
    """
    if miner is None or takes_miner(loss):
        return
    if parts_of(loss):
        raise RecipeError(
            "several losses at once take no miner together",
            help="give the miner to the loss that it is for: miner = { name = ... } in its [[loss]]",
        )
    raise RecipeError(
        f"the loss {type(loss).__name__} takes no miner: it is no loss over pairs",
        help="remove [miner], or name a loss over pairs, such as contrastive",
    )


def parts_of(loss: Loss) -> Mapping[str, Any]:
    """The losses that a `Composite` is made of, by name; none of any other."""
    return dict(zip(getattr(loss, "names", ()), getattr(loss, "parts", ()), strict=False))


def check_parts_fit_classes(loss: Loss, memory: Memory | None) -> None:
    """Checks what a method does that holds its batch against a memory alone: images are not told apart by classes.

    Raises:
        RecipeError: where the memory has rows of classes, and a part of the loss takes each image for a class.
    """
    if memory is None or not bool((memory.rows().labels >= 0).any()):
        return
    for name, part in parts_of(loss).items():
        if part.labels == "item" and part.against == "method":
            raise RecipeError(
                f"the memory {type(memory).__name__} holds classes, and the loss '{name}' tells images apart: it would "
                "find no pair there",
                help='hold that loss against the batch: against = "batch"',
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
