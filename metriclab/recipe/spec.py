"""A component that a recipe names."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from metriclab.registry import Definition

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
    """

    kind: str
    name: str
    params: dict[str, Any]
    definition: Definition = field(compare=False, repr=False)
    label: str

    def build(self, *given: Any, **components: Any) -> Any:
        """The component, built with what it takes of all that its kind is given, and the components it asks for.

        Raises:
            PluginError: where a plugin builds what the protocol of its kind does not allow.
        """
        return self.definition.held(self.definition.make(*given, **self.params, **components), *given)

    def as_dict(self) -> dict[str, Any]:
        """The recipe's table of this component."""
        label = {} if self.label == self.name else {LABEL: self.label}
        return {"name": self.name, **label, **self.params}
