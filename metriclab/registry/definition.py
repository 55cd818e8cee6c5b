"""Definition: a component's signature, read as the schema of its recipe table."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from metriclab.errors import PluginError, RecipeError
from metriclab.registry.entry import ComponentEntry, is_builtin
from metriclab.registry.kinds import KINDS, Kind
from metriclab.registry.params import REQUIRED, ComponentParameter, Parameter
from metriclab.registry.problems import ParameterProblem, missing, unknown, wrong
from metriclab.registry.toml import toml_key, toml_value


@dataclass(frozen=True, eq=False)
class Definition:
    """A loaded component and everything its signature says.

    Attributes:
        entry: its names and where it comes from.
        factory: the class or function itself.
        given: what it takes by position of what its kind is given.
        parameters: the keys of its table, in the order of the signature.
        components: the components a method asks for, by parameter.
        summary, paper: from its docstring; "" where there is none.
        model: pydantic model of the table without its `name`. It refuses unknown keys; "0.1" is no float, true is no
            int, but 1 is a float.
    """

    entry: ComponentEntry
    factory: Callable[..., Any]
    given: tuple[str, ...]
    parameters: tuple[Parameter, ...]
    components: dict[str, ComponentParameter]
    summary: str
    paper: str
    model: type[Any]

    @property
    def kind(self) -> Kind:
        return KINDS[self.entry.kind]

    def check(self, values: Mapping[str, object]) -> tuple[dict[str, object], list[ParameterProblem]]:
        """The values with every default filled, and all that is wrong with them.

        Where something is wrong, that parameter is left as it was given, or left out.
        """
        from pydantic import ValidationError

        try:
            return self.model.model_validate(dict(values)).model_dump(by_alias=True), []
        except ValidationError as error:
            defaults = {p.name: p.default for p in self.parameters if not p.required}
            return {**defaults, **values}, self._problems(values, {str(fault["loc"][0]) for fault in error.errors()})

    def build(self, /, *given: Any, **params: Any) -> Any:
        """The component, built with what the run gives by position, the components it asks for, and its values.

        Raises:
            RecipeError: where something is wrong, missing or too much.
        """
        components = {name: params.pop(name) for name in self.components if name in params}
        values, problems = self.check(params)
        missing_components = [c for c in self.components.values() if c.required and c.name not in components]
        if missing_components:
            needed = missing_components[0]
            raise RecipeError(
                f"{self.entry} needs a {needed.kind}", help=f"pass {needed.name}=build({needed.kind!r}, ...)"
            )
        if problems:
            first, *others = problems
            raise RecipeError("\n".join([first.message, *map(str, others)]), help=first.help)
        if len(given) == len(self.kind.given):  # all that its kind is given, of which it may take less
            given = given[: len(self.given)]
        if len(given) != len(self.given):
            call = ", ".join([repr(self.entry.kind), repr(self.entry.name), *self.given])
            raise RecipeError(
                f"{self.entry} is built with {len(self.given)} positional arguments, not {len(given)}",
                help=f"build({call}, ...)",
            )
        return self.factory(*given, **components, **values)

    def held(self, component: Any, *given: Any) -> Any:
        """The component, once a plugin's was looked at. Raises as `hold` does."""
        from metriclab.core.promises import check_built

        self.hold(check_built, self.entry.kind, component, *given)
        return component

    def hold(self, check: Callable[..., None], /, *arguments: Any) -> None:
        """Makes a check of `core.promises`, of plugins alone: what metriclab brings is tested.

        Raises:
            PluginError: where the component does not keep what is checked.
        """
        from metriclab.core.promises import BrokenPromise

        if is_builtin(self.entry):
            return
        try:
            check(*arguments)
        except BrokenPromise as error:
            raise PluginError(
                f"{self.entry} of {self.entry.source}: {error}",
                help=f"its author must mend that; `metriclab check-plugin {self.entry.package}` tests all of it",
            ) from error

    def snippet(self) -> str:
        """The component's table as TOML, with every default; what has none is a comment."""
        lines = [self.kind.header, f"name = {toml_value(self.entry.name)}"]
        for parameter in self.parameters:
            key = toml_key(parameter.name)
            if parameter.required:
                lines.append(f"# {key} = ...  (required: {parameter.type_text})")
            elif parameter.default is None:
                lines.append(f"# {key} = ...  (not set: {parameter.type_text})")
            else:
                lines.append(f"{key} = {toml_value(parameter.default)}")
        for component in self.components.values():
            need = "required" if component.required else "optional"
            lines += ["", f"# {KINDS[component.kind].header} {need}: see `metriclab list {component.kind}`"]
        return "\n".join(lines) + "\n"

    def _problems(self, values: Mapping[str, object], faulty: set[str]) -> list[ParameterProblem]:
        known = {parameter.name: parameter for parameter in self.parameters}
        problems = [unknown(self.entry, key, known, self.components) for key in values if key not in known]
        problems += [wrong(self.entry, known[key], values[key]) for key in values if key in known and key in faulty]
        problems += [missing(self.entry, p) for p in self.parameters if p.default is REQUIRED and p.name not in values]
        return problems
