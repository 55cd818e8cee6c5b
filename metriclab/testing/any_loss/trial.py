"""A loss that is tried out: built, with the way to call it, and rows for that way."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from jaxtyping import Int64
from torch import Tensor

from metriclab.core.rows import Rows
from metriclab.testing.any_loss.conventions import Convention, find_convention
from metriclab.testing.any_loss.target import Target
from metriclab.testing.cases import Case, evaluate

Side = Sequence[int] | Int64[Tensor, "n"]


@dataclass(frozen=True, slots=True)
class RawCase(Case):
    """Rows as they come from a network, neither normalised nor raised to float32, each on a side.

    Attributes:
        sides: 0 for anchors and first views, 1 for references and second views.
    """

    sides: Int64[Tensor, "n"]

    def rows(self, z: Tensor | None = None) -> Rows:
        return Rows(self.z if z is None else z, self.labels, self.ids, self.ids, self.sides)

    def __getitem__(self, index: Tensor) -> RawCase:
        z, labels, ids, sides = self.z[index], self.labels[index], self.ids[index], self.sides[index]
        return replace(self, z=z, labels=labels, ids=ids, sides=sides)


@dataclass(frozen=True, slots=True)
class Trial:
    """What checks are given.

    Attributes:
        target: which loss is meant, for building it elsewhere.
        loss: it, built; checks copy it.
        convention: how it is called.
    """

    target: Target
    loss: Any
    convention: Convention

    @classmethod
    def of(cls, target: Target) -> Trial:
        """The trial of a loss.

        Raises:
            RecipeError: see `Target.build` and `find_convention`.
        """
        loss = target.build()
        return cls(target, loss, find_convention(loss, target.calls))

    @property
    def two_views(self) -> bool:
        return self.convention.name == "views"

    @property
    def draws(self) -> bool:
        """Whether a call so far drew at random: other numbers in each precision."""
        return bool(getattr(self.convention.call, "draws", False))

    def evaluate(self, given: Case) -> tuple[Tensor, Tensor]:
        """Value and gradient of the raw embeddings; see `metriclab.testing.cases.evaluate`."""
        return evaluate(self.loss, given, self.convention.call)

    def case(self, name: str, first: Side, second: Side | None = None, *, seed: int = 0) -> RawCase:
        """Rows of these labels that lie about the centres of their classes; the second side is for two of them.

        Two views have the same labels on both sides, which say nothing but which rows belong together.
        """
        given = [first] if self.convention.sides == 1 else [first, first if second is None else second]
        sides = [torch.as_tensor(labels, dtype=torch.int64) for labels in given]
        labels = torch.cat(sides)
        generator = torch.Generator().manual_seed(seed)
        classes, place = torch.unique(labels, return_inverse=True)
        draw = {"generator": generator, "dtype": torch.float64}
        centres = torch.randn(len(classes), self.target.dims, **draw)  # type: ignore[call-overload]
        z = centres[place] + torch.randn(len(labels), self.target.dims, **draw)  # type: ignore[call-overload]
        which = torch.cat([torch.full_like(side, place) for place, side in enumerate(sides)])
        return RawCase(name, z, labels, torch.arange(len(labels)), which)

    def plain(self, n: int = 24, seed: int = 0) -> RawCase:
        """n rows of 4 classes, or n / 2 pairs of views; any half and third of them has all classes too."""
        if self.two_views:
            return self.case("plain rows", torch.arange(n // 2), seed=seed)
        return self.case("plain rows", torch.arange(n // self.convention.sides) % 4, seed=seed)

    def shuffled(self, given: RawCase, seed: int = 1) -> Int64[Tensor, "n"]:
        """Another order of the rows, in which pairs of views stay pairs."""
        generator = torch.Generator().manual_seed(seed)
        parts, order = [(given.sides == side).nonzero()[:, 0] for side in range(self.convention.sides)], None
        for part in parts:
            if order is None or not self.two_views:
                order = torch.randperm(len(part), generator=generator)
            parts = [part[order] if one is part else one for one in parts]
        return torch.cat(parts)
