"""A checked recipe."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from metriclab.errors import RecipeError
from metriclab.recipe.document import Document
from metriclab.recipe.losses import LossList
from metriclab.recipe.problems import RecipeProblems
from metriclab.recipe.spec import ComponentSpec
from metriclab.recipe.train import Train
from metriclab.registry.kinds import KINDS
from metriclab.registry.toml import toml_key, toml_value

REQUIRES = "requires"
"""The key, outside of all tables, that lists the packages without which a recipe cannot run."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """A recipe without a mistake, every default filled in. Equal recipes run alike, whatever their files.

    Attributes:
        path: the file it was read from.
        document: what stands in it.
        components: by kind, all but evaluators and trackers; without the losses, miners and memories the method has
            no use for.
        evaluators: in the order of the recipe.
        trackers: in the order of the recipe.
        train: the settings of the loop.
        requires: packages that must be installed, as `metriclab-circle>=0.1`.
        losses: the tables of `[[loss]]`, in place of the component `loss`.
    """

    path: Path = field(compare=False)
    document: Document = field(compare=False, repr=False)
    components: dict[str, ComponentSpec]
    evaluators: list[ComponentSpec]
    trackers: list[ComponentSpec]
    train: Train
    requires: tuple[str, ...] = ()
    losses: LossList | None = None

    def specs(self) -> list[ComponentSpec]:
        """Every component that is named."""
        losses = self.losses.specs() if self.losses else []
        return [*self.components.values(), *losses, *self.evaluators, *self.trackers]

    @contextmanager
    def telling_places(self) -> Iterator[None]:
        """Around what a recipe is built or run by: errors of it are told at the place of the key that they name."""
        try:
            yield
        except RecipeProblems:
            raise
        except RecipeError as error:
            place = self.document.named(error.message) or self.document.named(error.help or "")
            if place is None:
                raise
            raise RecipeProblems([place.problem(error.message, error.help)]) from error

    def as_dict(self) -> dict[str, Any]:
        """The recipe as plain data, table by table, None where a parameter is not set."""
        chosen = {KINDS[kind].table: chosen.as_dict() for kind, chosen in self.components.items()}
        return {
            **({REQUIRES: list(self.requires)} if self.requires else {}),
            **chosen,
            **({"loss": self.losses.as_dict()} if self.losses else {}),
            "train": self.train.model_dump(),
            KINDS["evaluator"].table: [evaluator.as_dict() for evaluator in self.evaluators],
            KINDS["tracker"].table: [tracker.as_dict() for tracker in self.trackers],
        }

    def to_toml(self) -> str:
        """The whole recipe as TOML; reading it gives an equal one."""
        whole = self.as_dict()
        required = whole.pop(REQUIRES, None)
        lists = {table: value for table, value in whole.items() if isinstance(value, list)}
        tables = {table: value for table, value in whole.items() if table not in lists}
        parts = [f"{REQUIRES} = {toml_value(required)}\n"] if required else []
        parts += [f"{table} = []\n" for table, entries in lists.items() if not entries]
        parts += [_table(f"[{table}]", values) for table, values in tables.items()]
        parts += [_table(f"[[{table}]]", entry) for table, entries in lists.items() for entry in entries]
        return "\n".join(parts)


def _table(header: str, values: dict[str, Any]) -> str:
    # A parameter that is not set has no key: TOML has no null, and not set is its default.
    lines = [f"{toml_key(key)} = {toml_value(value)}" for key, value in values.items() if value is not None]
    return "\n".join([header, *lines, ""])
