"""`[[loss]]`: several losses at once, each with a weight and with dimensions, labels, references and a miner."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from annotated_types import Ge, Gt, MinLen
from pydantic import BaseModel, ConfigDict

from metriclab.errors import RecipeError
from metriclab.recipe.problems import show
from metriclab.recipe.spec import ComponentSpec
from metriclab.registry.marks import TableOf
from metriclab.registry.params import suggest


class LossOptions(BaseModel):
    """What a table of `[[loss]]` says beside the parameters of its loss. A key that the loss has too is the loss's."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    weight: Annotated[float, Gt(0)] = 1.0
    """Factor of the loss in the sum."""

    dims: Annotated[int, Ge(1)] | Annotated[list[Annotated[int, Ge(1)]], MinLen(1)] | None = None
    """How many leading dimensions of the embedding the loss sees, as rows of norm 1 again; all by default. A list is
    that many losses, each with the whole weight and with parameters of its own."""

    labels: Literal["method", "item"] = "method"
    """Who is alike: "method" as the method says; "item" views of one image, so that images of unknown class take part
    as well, and [views] makes two or more."""

    against: Literal["method", "batch"] = "method"
    """What is held against: "method" as the method says; "batch" the batch itself, where the method would hold it
    against a memory alone."""

    miner: Annotated[dict[str, object], TableOf("miner")] | None = None
    """Table of a miner that chooses among the pairs of this loss alone: miner = { name = "semihard-pairs" }."""


@dataclass(frozen=True, slots=True)
class LossEntry:
    """One table of `[[loss]]`.

    Attributes:
        spec: of the loss.
        options: the rest of its table, but for the miner.
        miner: what chooses among its pairs.
    """

    spec: ComponentSpec
    options: LossOptions
    miner: ComponentSpec | None

    def parts(self) -> Iterator[tuple[str, int | None]]:
        """Name and dimensions of each loss that it stands for."""
        name, dims = self.spec.label.rpartition(":")[2], self.options.dims
        if isinstance(dims, list):
            yield from ((f"{name}-{one}", one) for one in dims)
        else:
            yield name, dims

    def build(self, dims: int | None, embedding_dim: int, classes: Any) -> Any:
        """One of them. What cannot be is told at its place.

        Raises:
            RecipeProblems: for more dimensions than the embedding has, and for what the loss or its miner refuses.
        """
        from metriclab.losses.composite import Part

        if dims is not None and dims > embedding_dim:
            raise self.spec.refusal(*too_many(dims, embedding_dim))
        loss = self.spec.build(dims or embedding_dim, classes)
        miner = None if self.miner is None else self.miner.build()
        kept = self.options
        try:
            return Part(loss, weight=kept.weight, dims=dims, labels=kept.labels, against=kept.against, miner=miner)
        except RecipeError as error:
            raise self.spec.refusal(error.message, error.help) from None

    def as_dict(self) -> dict[str, Any]:
        """The recipe's table."""
        own = self.spec.as_dict()
        miner = {} if self.miner is None else {"miner": _without_none(self.miner.as_dict())}
        return {"name": own["name"], **self.options.model_dump(exclude={"miner"}), **miner, **own}


@dataclass(frozen=True, slots=True)
class LossList:
    """All tables of `[[loss]]`, in their order; it is built as one loss."""

    entries: tuple[LossEntry, ...]

    def specs(self) -> list[ComponentSpec]:
        """The losses and their miners."""
        return [spec for entry in self.entries for spec in (entry.spec, entry.miner) if spec is not None]

    def build(self, embedding_dim: int, classes: Any) -> Any:
        """The losses as one. Raises as `LossEntry.build`."""
        from metriclab.losses.composite import Composite

        every = [(entry, name, dims) for entry in self.entries for name, dims in entry.parts()]
        return Composite({name: entry.build(dims, embedding_dim, classes) for entry, name, dims in every})

    def as_dict(self) -> list[dict[str, Any]]:
        """The recipe's tables."""
        return [entry.as_dict() for entry in self.entries]


def option_help(key: str, *, several: bool) -> str | None:
    """The repair of a key that a loss does not have, where one of the options is meant."""
    if several:
        return suggest(key, LossOptions.model_fields)
    known = LossOptions.model_fields
    return f"write [[loss]], whose tables have {', '.join(known)}" if key in known else None


def too_many(dims: int, embedding_dim: int) -> tuple[str, str]:
    """What is said of dimensions that an embedding does not have, and the repair."""
    return f"dims = {dims} is above the {embedding_dim} dimensions of the embedding", "lower it, or widen the head"


def wrong_dims(dims: list[Any], limit: Any) -> Iterator[tuple[str, str]]:
    """What is wrong with lengths of prefixes, and the repair.

    Args:
        dims: the lengths; nothing is said where one is no number.
        limit: dimensions of the embedding, or anything but a number where they are not known yet.
    """
    if not all(isinstance(one, int) for one in dims):
        return
    if len(set(dims)) < len(dims):
        yield f"dims = {show(dims)} has a number twice", "keep one of them"
    if isinstance(limit, int):
        yield from (too_many(one, limit) for one in sorted(set(dims)) if one > limit)


def _without_none(table: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in table.items() if value is not None}
