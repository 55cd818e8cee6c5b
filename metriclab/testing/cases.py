"""Rows to try a loss on, and one call of a loss on them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

from metriclab.core.protocols import Loss
from metriclab.core.rows import Rows, rows


@dataclass(frozen=True, slots=True)
class Case:
    """Raw embeddings with their labels.

    Attributes:
        name: what is special about them, for messages.
        z, labels, ids: see `rows`.
    """

    name: str
    z: Float[Tensor, "n d"]
    labels: Int64[Tensor, "n"]
    ids: Int64[Tensor, "n"]

    def rows(self, z: Tensor | None = None) -> Rows:
        """The rows, of other embeddings where some are given."""
        return rows(self.z if z is None else z, self.labels, self.ids, self.ids)

    def __getitem__(self, index: Tensor) -> Case:
        return replace(self, z=self.z[index], labels=self.labels[index], ids=self.ids[index])

    def to(self, dtype: torch.dtype) -> Case:
        return replace(self, name=f"{self.name} in {dtype}", z=self.z.to(dtype))


def case(name: str, labels: list[int], width: int = 5, seed: int = 0) -> Case:
    """Random float64 rows with these labels: no row among them is special."""
    generator = torch.Generator().manual_seed(seed)
    z = torch.randn(len(labels), width, generator=generator, dtype=torch.float64)
    return Case(name, z, torch.tensor(labels, dtype=torch.int64), torch.arange(len(labels)))


def plain() -> Case:
    """Classes of 4, 3, 2 and 1 rows, and two rows of unknown label."""
    return case("plain rows", [0, 1, 2, 0, 1, 3, 0, -1, 2, 1, 0, -1])


def edges() -> list[Case]:
    """The cases in which losses of this field have failed."""
    usual = plain()
    identical = replace(usual, name="identical rows", z=usual.z[:1].expand_as(usual.z).contiguous())
    zero = replace(usual, name="zero rows", z=usual.z.index_fill(0, torch.tensor([0, 1, 4]), 0))
    tiny = replace(usual, name="rows of length 1e-20", z=usual.z * 1e-20)
    huge = replace(usual, name="rows of length 1e15", z=usual.z * 1e15)
    opposite = replace(usual, name="opposite rows", z=usual.z[:1] * torch.tensor([1.0, -1.0]).repeat(6)[:, None])
    return [
        usual,
        identical,
        zero,
        tiny,
        huge,
        opposite,
        case("no positive pair", [0, 1, 2, 3, 4]),
        case("no negative pair", [7, 7, 7, 7]),
        case("one positive and one negative pair", [0, 0, 1]),
        case("a single row", [0]),
        case("labels all unknown", [-1, -1, -1]),
    ]


def pairless() -> list[Case]:
    """Cases in which a loss over pairs has nothing to say."""
    return [case("a single row", [0]), case("labels all unknown", [-1, -2, -1])]


def shuffle(n: int) -> Int64[Tensor, "{n}"]:
    """An order in which few neighbours stay neighbours, whichever way round: what looks at the next row is caught."""
    return torch.randperm(n, generator=torch.Generator().manual_seed(n))


Call = Callable[[Loss, Rows], Tensor]


def square(loss: Loss, all_rows: Rows) -> Tensor:
    """All rows against themselves."""
    return loss(all_rows, all_rows)


def oblong(loss: Loss, all_rows: Rows) -> Tensor:
    """Two thirds of the rows as anchors against all, as on one of several ranks."""
    return loss(all_rows[: (2 * len(all_rows) + 2) // 3], all_rows)


def evaluate(loss: Loss, given: Case, call: Call = square) -> tuple[Tensor, Tensor]:
    """Value, and gradient of the raw embeddings, of a copy of the loss in the precision of the case."""
    loss = fresh(loss, given.z.dtype)
    z = given.z.clone().requires_grad_()
    value = call(loss, given.rows(z))
    (gradient,) = torch.autograd.grad(value, z, allow_unused=True)
    return value.detach(), torch.zeros_like(z) if gradient is None else gradient


def fresh(loss: Loss, dtype: torch.dtype = torch.float64) -> Loss:
    """A copy of the loss, with parameters of this dtype, float32 at least."""
    loss = copy.deepcopy(loss)
    if isinstance(loss, nn.Module):
        loss.to(torch.float64 if dtype == torch.float64 else torch.float32)
    return loss
