"""A component that a recipe names."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from metriclab.errors import RecipeError
from metriclab.recipe.document import Document
from metriclab.recipe.problems import RecipeProblems
from metriclab.recipe.syntax import KeyPath
from metriclab.registry import KINDS, Definition, load_component

LABEL = "as"
"""The key by which a recipe calls one of several components something else than its name. No parameter can have it."""


@dataclass(frozen=True, slots=True)
class ComponentSpec:
    """A component that a recipe names.

    Attributes:
        kind: "loss", "dataset" and so on.
        name: as the recipe has it.
        params: every parameter, defaults filled in.
        definition: what the registry knows of the component.
        label: what it is called in results, its name unless the recipe says otherwise.
        document, where: the recipe, and the path of its table there.
    """

    kind: str
    name: str
    params: dict[str, Any]
    definition: Definition = field(compare=False, repr=False)
    label: str
    document: Document = field(compare=False, repr=False)
    where: KeyPath = field(compare=False, repr=False)

    def build(self, *given: Any, **components: Any) -> Any:
        """The component, built with what it takes of all that its kind is given, and the components it asks for.

        Raises:
            RecipeProblems: where it cannot be built so, at the place in the recipe.
            PluginError: where a plugin builds what the protocol of its kind does not allow.
        """
        try:
            component = self.definition.make(*given, **self.params, **components)
        except RecipeProblems:
            raise
        except RecipeError as error:
            raise self.refusal(error.message, error.help) from error
        return self.definition.held(component, *given)

    def refusal(self, message: str, help: str | None = None) -> RecipeProblems:
        """What is wrong with it, at the place of the key that the message names first, or else of its name."""
        place = self.document.named(message, KINDS[self.kind].table, self.where)
        return RecipeProblems([(place or self.document.value(*self.where, "name")).problem(message, help)])

    def inner(self, kind: str, table: Mapping[str, Any]) -> ComponentSpec:
        """The component of a table that is, as a rule, the value of one of its parameters.

        Raises:
            RecipeProblems: for all that is wrong with the table.
        """
        key = [key for key, value in self.params.items() if value == table][:1]
        where, params = (*self.where, *key), dict(table)
        name = str(params.pop("name", ""))
        definition = load_component(kind, name)
        filled, problems = definition.check(params)
        if problems:
            raise RecipeProblems([self.document.problem(problem, *where) for problem in problems])
        return ComponentSpec(kind, name, filled, definition, name, self.document, where)

    def as_dict(self) -> dict[str, Any]:
        """The recipe's table of this component."""
        label = {} if self.label == self.name else {LABEL: self.label}
        return {"name": self.name, **label, **self.params}
