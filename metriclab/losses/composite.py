"""Several losses as one: each with its weight, and with its own dimensions, labels, references and miner."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Literal, overload

from jaxtyping import Float
from torch import Tensor, nn

from metriclab.core.call_loss import call_loss, check_miner_fits
from metriclab.core.protocols import Loss, Miner
from metriclab.core.rows import Labels, Rows, normalize
from metriclab.errors import RecipeError


class Part(nn.Module):
    """One loss of a `Composite`, and what it is shown of the rows. Called alone it gives the loss without its weight.

    Args:
        loss: any over rows.
        weight: factor in the sum, above 0.
        dims: how many of the leading dimensions it sees, as rows of norm 1 again; all by default.
        labels: who is alike to it. "method": as the method says, classes for `supervised`, images for `simclr`. "item":
            rows of one image, whatever their class, so that images of unknown class take part as well.
        against: what rows are held against. "method": as the method says, be it the batch or a memory. "batch": the
            batch itself, where the method would hold them against a memory. Each rank then works on the batch of all.
        miner: chooses among the pairs of this loss alone, which must be a loss over pairs.

    Raises:
        RecipeError: for a weight or a number of dimensions that is not above 0, a miner beside a loss that takes none,
            and images as classes beside a loss for learned rows of classes; when it is called, for more dimensions than
            the embeddings have.
    """

    def __init__(
        self,
        loss: Loss,
        *,
        weight: float = 1.0,
        dims: int | None = None,
        labels: Literal["method", "item"] = "method",
        against: Literal["method", "batch"] = "method",
        miner: Miner | None = None,
    ) -> None:
        super().__init__()
        if not weight > 0:
            raise RecipeError(f"the weight of a loss must be above 0, not {weight}", help="leave the loss out instead")
        if dims is not None and dims < 1:
            raise RecipeError(f"a loss sees 1 dimension or more, not dims = {dims}", help="leave dims out for all")
        check_miner_fits(loss, miner)
        if labels == "item" and getattr(loss, "needs_memory", False):
            raise RecipeError(
                f"the loss {type(loss).__name__} is for learned rows of classes, and cannot tell images apart",
                help='leave out labels = "item", or choose a loss such as nt-xent',
            )
        self.loss, self.weight, self.dims, self.miner = loss, float(weight), dims, miner
        self.labels: Literal["method", "item"] = labels
        self.against: Literal["method", "batch"] = against

    @property
    def pairwise(self) -> bool:
        """Whether this rank's rows are enough as anchors."""
        return self.against == "method" and bool(getattr(self.loss, "pairwise", False))

    def extra_repr(self) -> str:
        return f"weight={self.weight}, dims={self.dims}, labels={self.labels!r}, against={self.against!r}"

    def forward(self, anchors: Rows, references: Rows) -> Float[Tensor, ""]:
        same = references is anchors or self.against == "batch"  # several losses are quicker, or right, with one object
        shown = self._shown(anchors)
        held_against = shown if same else self._shown(references)
        if self.miner is None:
            return self.loss(shown, held_against)
        return self.loss(shown, held_against, miner=self.miner)  # type: ignore[call-arg]  # one over pairs takes it

    def _shown(self, rows: Rows) -> Rows:
        if self.dims is not None and self.dims > rows.embedding_dim:
            raise RecipeError(
                f"dims = {self.dims} of a loss is above the {rows.embedding_dim} dimensions of the embeddings",
                help="lower it, or leave it out for all dimensions",
            )
        if self.dims not in (None, rows.embedding_dim):
            rows = replace(rows, z=normalize(rows.z[:, : self.dims]))
        return replace(rows, labels=rows.items, groups=None) if self.labels == "item" else rows


class Composite(nn.Module):
    """The weighted sum of several losses, itself a loss: in tiles, on any number of ranks, against any references.

    Where all of its parts are losses over pairs, so is it, and each rank works on its own anchors. Where one is not,
    every rank works on the rows of all, for all parts.

    A run logs `loss.NAME` for each part, what it would log as `loss` with that part alone at weight 1, and
    `gradient_norm.NAME`, the norm of that loss's gradient with respect to the embeddings.

    Args:
        parts: losses, or `Part`s of them, by name; or in a sequence, whose names are their positions.

    Raises:
        RecipeError: where there is no part; when it is called, for more dimensions than the embeddings have.

    Example:
        >>> from metriclab.losses import NTXent, SupCon
        >>> criterion = Composite({"classes": SupCon(), "images": Part(NTXent(), weight=0.5, labels="item")})
        >>> items = torch.tensor([0, 1, 2, 0, 1, 2])  # two views of each; the class of the last image is unknown
        >>> criterion(rows(torch.randn(6, 8, requires_grad=True), [7, 7, -1, 7, 7, -1], items)).backward()
    """

    def __init__(self, parts: Mapping[str, Loss | Part] | Sequence[Loss | Part]) -> None:
        super().__init__()
        named = parts if isinstance(parts, Mapping) else {str(place): part for place, part in enumerate(parts)}
        if not named:
            raise RecipeError("a composite of no loss has nothing to say", help="give it one loss at least")
        self.names = tuple(named)
        self.parts = nn.ModuleList([part if isinstance(part, Part) else Part(part) for part in named.values()])

    @property
    def pairwise(self) -> bool:
        """Whether this rank's rows are enough as anchors."""
        return all(part.pairwise for part in self._parts())

    @property
    def needs_memory(self) -> bool:
        """Whether a part is meant for learned rows of classes."""
        return any(getattr(part.loss, "needs_memory", False) for part in self._parts())

    @overload
    def __call__(self, z: Tensor, labels: Labels, /) -> Tensor: ...
    @overload
    def __call__(self, anchors: Rows, references: Rows | None = None, /) -> Tensor: ...
    def __call__(self, anchors: Tensor | Rows, references: Labels | Rows | None = None, /) -> Float[Tensor, ""]:
        """As any loss is called; raw embeddings know no images, so parts that tell images apart need rows.

        Raises:
            TypeError: for raw embeddings beside such a part.
        """
        if isinstance(anchors, Tensor) and any(part.labels == "item" for part in self._parts()):
            raise TypeError('labels = "item" needs to know whose image a row is: call it with rows(z, labels, items)')
        return call_loss(self, anchors, references)  # type: ignore[arg-type]  # as given

    def forward(self, anchors: Rows, references: Rows) -> Float[Tensor, ""]:
        first, *others = (part.weight * part(anchors, references) for part in self._parts())
        total: Tensor = sum(others, first)
        return total

    def extra_repr(self) -> str:
        return ", ".join(self.names)

    def _parts(self) -> list[Part]:
        return list(self.parts)  # type: ignore[arg-type]  # of a module list, which knows modules


def matryoshka(loss: Loss, *, dims: Sequence[int]) -> Composite:
    """A loss on several prefixes of the embedding, so that each of them is an embedding by itself.

    Paper: Kusupati et al., Matryoshka Representation Learning, NeurIPS 2022, arXiv 2205.13147, equation 1, with equal
    importance for each prefix.

    Args:
        loss: any over rows; each prefix has a copy of it, with parameters of its own.
        dims: lengths of the prefixes, all different; each is of norm 1 again.

    Raises:
        RecipeError: where dims are none, not above 0, or repeated; when it is called, above those of the embeddings.

    Example:
        >>> from metriclab.losses import SupCon
        >>> criterion = matryoshka(SupCon(), dims=[2, 4, 8])
        >>> criterion(torch.randn(6, 8, requires_grad=True), [0, 0, 0, 1, 1, 1]).backward()
    """
    if len(set(dims)) < len(dims):
        raise RecipeError(f"dims = {list(dims)} has a number twice", help="keep one of them")
    return Composite({str(dim): Part(copy.deepcopy(loss), dims=dim) for dim in dims})
