"""The bridge to pytorch-metric-learning: any of its losses and miners by name."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Literal

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from metriclab.core.call_loss import call_loss
from metriclab.core.random import absorb, mix
from metriclab.core.rows import Rows, count_positives, rows, wide
from metriclab.errors import RecipeError
from metriclab.losses.pml_classes import BY_LABEL, LIBRARY, NO_REFERENCES, STATE, make, names, parameters
from metriclab.registry import register

if TYPE_CHECKING:
    LossName = str
    MinerName = str
else:  # what the installed version has, so that a recipe with any other name is refused when it is checked
    LossName, MinerName = Literal[names("loss")], Literal[names("miner")]


@register("loss", "pml")
class PML(nn.Module):
    """Any loss of pytorch-metric-learning, with any of its miners, under that library's names and parameters.

    That library comes with the extra `pml`: `pip install "metriclab-toolkit[pml]"`.

    A batch against itself is what that library means by a loss; against a memory its reference embeddings are the
    memory's rows. No row is paired with itself, also where the memory holds the batch. Weights that a loss learns have
    the embedding_dim of the embeddings, one row or more a training class; they are optimized with it.

    Rows of unknown label and zero rows are left out; without any row or pair left, the loss is 0. Rows are taken in
    the order of their ids, and what is drawn at random is drawn from the run's seed and these ids: so neither the
    order of rows nor the number of ranks matters. Every call waits for the device, and holds all pairs (triplets, for
    losses of triplets) at once, as that library does: where metriclab has a loss of its own, that one is preferable.

    Paper: Musgrave et al., PyTorch Metric Learning, 2020, arXiv 2008.09164.

    Args:
        embedding_dim: dimensions of the embeddings.
        classes: sorted training labels.
        loss: name of its class, such as "CircleLoss".
        params: of the loss, by that library's names; embedding_dim and number of classes come from the run. A distance,
            reducer or regularizer is a name, or a table of it and its parameters: { name = "LpDistance", power = 2 }.
        miner: name of its class, such as "MultiSimilarityMiner"; it chooses what the loss sees. None by default.
        miner_params: of the miner, by that library's names.

    Raises:
        RecipeError: for names or parameters that the library does not have, for a loss or miner that cannot be used;
            when it is called, for a memory beside a loss without references, for one that holds the batch beside a
            miner, and for a label that is no training class beside a loss with weights for these.

    Example:
        >>> criterion = PML(8, torch.arange(3), loss="CircleLoss", params={"gamma": 80})
        >>> criterion(torch.randn(6, 8, requires_grad=True), [0, 0, 1, 1, 2, 2]).backward()
    """

    __call__ = call_loss

    classes: Tensor
    seed: Tensor

    def __init__(
        self,
        embedding_dim: int,
        classes: Int64[Tensor, "c"],
        /,
        *,
        loss: LossName,
        params: dict[str, object] | None = None,
        miner: MinerName | None = None,
        miner_params: dict[str, object] | None = None,
    ) -> None:
        super().__init__()
        params = params or {}
        if miner is None and miner_params:
            raise RecipeError("loss.miner_params has no loss.miner", help='add miner = "...", or remove miner_params')
        self.name, self.params, self.miner_params = loss, params, miner_params or {}
        self.by_class = _has_weights(loss, params, len(classes))
        self.register_buffer("classes", classes, persistent=False)
        self.register_buffer("seed", torch.randint(2**31, ()))
        filled = {"num_classes": len(classes), "embedding_size": embedding_dim, "descriptors_dim": embedding_dim}
        self.loss: nn.Module = make("loss", loss, params, "loss.params", filled)
        self.miner: nn.Module | None = None
        if miner is not None:
            self.miner = make("miner", miner, self.miner_params, "loss.miner_params")
        if loss in STATE:
            state = getattr(self.loss, STATE[loss])
            delattr(self.loss, STATE[loss])
            self.loss.register_buffer(STATE[loss], state)
        self.no_references: str | None = None
        self.no_references = self._try_out(embedding_dim)

    def extra_repr(self) -> str:
        miner = "" if self.miner is None else f", miner={type(self.miner).__name__!r}, miner_params={self.miner_params}"
        return f"loss={self.name!r}, params={self.params}{miner}"

    def forward(self, anchors: Rows, references: Rows) -> Float[Tensor, ""]:
        in_batch = references.z is anchors.z
        if not (anchors.groups is None or references.groups is None):
            raise RecipeError(
                f"{self.name} of {LIBRARY} goes by labels, and knows of no groups",
                help="leave positives = 'across-groups' out, or take a loss of metriclab",
            )
        if self.no_references is not None and not in_batch:
            raise RecipeError(
                f"{self.name} of {LIBRARY} holds a batch against itself alone: {self.no_references}",
                help="remove [memory], or take a loss that runs with references: docs/pytorch-metric-learning.md",
            )
        # A row that is not a number must show: reducers that average what is above 0 would hide it.
        nothing = 0 * (wide(anchors.z, references.z).sum() + references.z.sum())
        batch = _usable(anchors)
        others = batch if in_batch else _usable(references)
        if len(batch) == 0 or len(others) == 0:
            return nothing
        if self.name in BY_LABEL and not count_positives(batch, others).any():
            return nothing
        device = batch.z.device
        with (
            torch.autocast(device.type, enabled=False),
            torch.random.fork_rng([device] if device.type == "cuda" else []),
        ):
            torch.manual_seed(int(absorb(absorb(self.seed, mix(batch.ids).sum()), mix(others.ids).sum())))
            value: Tensor = self._against_itself(batch) if in_batch else self._against(batch, others)
        if self.name in STATE:  # the library leaves the graph of this call on it
            self.loss.get_buffer(STATE[self.name]).detach_()
        return nothing + value.to(nothing.dtype).reshape(())

    def _against_itself(self, batch: Rows) -> Tensor:
        z = wide(batch.z)
        (labels,) = self._positions(batch)
        chosen = None if self.miner is None else self.miner(z, labels)
        return self.loss(z, labels, chosen)  # type: ignore[no-any-return]

    def _against(self, batch: Rows, others: Rows) -> Tensor:
        z, other_z = wide(batch.z, others.z), wide(others.z, batch.z)
        labels, other_labels = self._positions(batch, others)
        chosen = None if self.miner is None else self.miner(z, labels, other_z, other_labels)
        if torch.isin(batch.ids, others.ids).any():
            if self.miner is not None or self.name in BY_LABEL:
                raise RecipeError(
                    f"{type(self.miner or self.loss).__name__} of {LIBRARY} takes a row that the memory holds too for "
                    "its own neighbour",
                    help="use a memory of earlier batches alone, or metriclab's own losses and miners",
                )
            alike = labels[:, None] == other_labels[None, :]
            apart = batch.ids[:, None] != others.ids[None, :]
            chosen = (*torch.where(alike & apart), *torch.where(~alike))
        return self.loss(z, labels, chosen, other_z, other_labels)  # type: ignore[no-any-return]

    def _positions(self, *sides: Rows) -> tuple[Tensor, ...]:
        """The labels counted from 0: among the training classes where there are weights for them."""
        labels = torch.cat([side.labels for side in sides])
        sizes = [len(side) for side in sides]
        if not self.by_class:
            return torch.split(torch.unique(labels, return_inverse=True)[1], sizes)
        positions = torch.searchsorted(self.classes, labels).clamp(max=len(self.classes) - 1)
        strange = labels[self.classes[positions] != labels]
        if len(strange):
            raise RecipeError(
                f"{self.name} of {LIBRARY} learns weights for the training classes, and {int(strange[0])} is none",
                help="use it in a method whose labels are classes, such as supervised",
            )
        return torch.split(positions, sizes)

    @torch.no_grad()
    def _try_out(self, embedding_dim: int) -> str | None:
        """Tries a copy on rows of two classes. Raises where it fails; says why it takes no references, if so."""
        tried = copy.deepcopy(self)
        z = torch.randn(10, embedding_dim, generator=torch.Generator().manual_seed(0))
        labels = torch.arange(10) % 2
        labels = self.classes[labels.clamp(max=len(self.classes) - 1)] if self.by_class else labels
        # More references than anchors: a position among them must not do as one among the anchors.
        batch, others = rows(z[:4], labels[:4]), rows(z[4:], labels[4:])
        try:
            tried(batch, batch)
        except Exception as error:
            beside = "" if self.miner is None else f" beside {type(self.miner).__name__}"
            raise RecipeError(
                f"{self.name} of {LIBRARY} fails{beside} on a batch of two classes: {error}",
                help=None if self.miner is None else "remove loss.miner, or name another",
            ) from error
        if self.name in NO_REFERENCES:
            return NO_REFERENCES[self.name]
        try:
            tried(batch, others)
        except IndexError:
            return "it looks its references up among the batch"
        except Exception as error:
            return "it takes no ref_emb" if "ref_emb" in str(error) else str(error)
        return None


def _has_weights(loss: str, params: dict[str, object], classes: int) -> bool:
    """Whether the loss learns something for each training class: it must, or the recipe says how many there are."""
    wanted = parameters("loss", loss).get("num_classes")
    if wanted is None:
        return False
    if wanted.default is not wanted.empty:
        said = params.get("num_classes")
        if said is not None and said != classes:
            message = f"loss.params.num_classes of {loss} is {said}, but there are {classes} training classes"
            raise RecipeError(message, help=f"set num_classes = {classes}")
        return said is not None
    if classes == 0:
        raise RecipeError(f"{loss} of {LIBRARY} learns weights for the training classes, but no label is known")
    return True


def _usable(given: Rows) -> Rows:
    """The rows of known label that are not zero, in the order of their ids."""
    kept = ((given.labels >= 0) & (given.z != 0).any(1)).nonzero()[:, 0]
    return given[kept[given.ids[kept].argsort()]]
