"""Definition: a component's signature, read as the schema of its recipe table; or why it cannot be a component."""

from __future__ import annotations

import inspect
import types
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NoReturn, Union, get_args, get_origin, get_type_hints

from metriclab.errors import PluginError, RecipeError
from metriclab.registry.docstring import parse_docstring
from metriclab.registry.entry import ComponentEntry, is_builtin
from metriclab.registry.kinds import KINDS, Kind
from metriclab.registry.params import (
    REQUIRED,
    ComponentParameter,
    NotPlain,
    Parameter,
    ParameterProblem,
    checked_type,
)
from metriclab.registry.toml import toml_key, toml_value
from metriclab.registry.values import check_values


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
        """The values with every default filled, and all that is wrong with them; see `check_values`."""
        return check_values(self.entry, self.model, self.parameters, values, self.components)

    def build(self, /, *given: Any, **params: Any) -> Any:
        """The component, built with what the run gives by position, the components it asks for, and its values.

        Raises:
            RecipeError: where something is wrong, missing or too much.
        """
        components = {name: params.pop(name) for name in self.components if name in params}
        values, problems = self.check(params)
        for needed in self.components.values():
            if needed.required and needed.name not in components:
                help = f"pass {needed.name}=build({needed.kind!r}, ...)"
                raise RecipeError(f"{self.entry} needs a {needed.kind}", help=help)
        if problems:
            first, *others = problems
            raise RecipeError("\n".join([first.message, *map(str, others)]), help=first.help)
        if len(given) not in (len(self.given), len(self.kind.given)):
            call = ", ".join([repr(self.entry.kind), repr(self.entry.name), *self.given])
            raise RecipeError(
                f"{self.entry} is built with {len(self.given)} positional arguments, not {len(given)}",
                help=f"build({call}, ...)",
            )
        return self.make(*given, **components, **values)

    def make(self, /, *given: Any, **values: Any) -> Any:
        """The component of values that have been checked, with as much as it takes of all that its kind is given."""
        return self.factory(*given[: len(self.given)], **values)

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


_COMPONENT_KINDS = {"Loss": "loss", "Miner": "miner", "Memory": "memory"}


def define(entry: ComponentEntry, component: Any) -> Definition:
    """The definition of a component.

    Raises:
        PluginError: naming the parameter, the component, its package and version.
    """
    if not (inspect.isclass(component) or inspect.isfunction(component)):
        _refuse(entry, f"{entry.target} is a {type(component).__name__}", "a component is a class or a function")
    signature = inspect.signature(component)
    given = _given(entry, signature)
    documented = parse_docstring(component.__doc__)
    scope = _scope(component)
    parameters, components = [], {}
    for parameter in signature.parameters.values():
        if parameter.kind is not parameter.KEYWORD_ONLY:
            continue
        annotation = _resolve(entry, parameter, scope)
        taken = _taken(entry, parameter, annotation)
        if taken is not None:
            components[parameter.name] = taken
            continue
        default = REQUIRED if parameter.default is parameter.empty else parameter.default
        text = documented.arguments.get(parameter.name, "")
        parameters.append(Parameter(parameter.name, annotation, default, text))
    _check_tables(entry, parameters)
    model = _model(entry, parameters)
    definition = Definition(
        entry, component, given, tuple(parameters), components, documented.summary, documented.paper, model
    )
    _check_defaults(definition)
    return definition


def _given(entry: ComponentEntry, signature: inspect.Signature) -> tuple[str, ...]:
    """What it takes by position. Positional-only parameters are the run's, keyword-only ones the recipe's."""
    given = 0
    for name, parameter in signature.parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            stars = "**" if parameter.kind is parameter.VAR_KEYWORD else "*"
            _refuse(entry, f"it takes {stars}{name}", "write each parameter out: they are the keys of a recipe")
        if parameter.kind is parameter.POSITIONAL_OR_KEYWORD:
            help = "put a * before the parameters a recipe sets, and a / after those the run gives"
            _refuse(entry, f"parameter '{name}' may be given by position and by keyword", help)
        given += parameter.kind is parameter.POSITIONAL_ONLY
    kind = KINDS[entry.kind]
    allowed = sorted({len(kind.given), len(kind.given) - kind.optional})
    if given not in allowed:
        forms = [_form(kind.given[:count]) for count in reversed(allowed)]
        _refuse(
            entry,
            f"it has {given} positional-only parameters, where a {entry.kind} has {' or '.join(map(str, allowed))}",
            f"its signature is {' or '.join(forms)}",
        )
    return kind.given[:given]


def _form(given: tuple[str, ...]) -> str:
    return f"({', '.join(given)}, /, *, ...)" if given else "(*, ...)"


def _scope(component: Any) -> dict[str, Any]:
    """The names its annotations may use: those of the module in which its constructor is written."""
    function = component.__init__ if inspect.isclass(component) else component
    return getattr(inspect.unwrap(function), "__globals__", {})


def _resolve(entry: ComponentEntry, parameter: inspect.Parameter, scope: dict[str, Any]) -> Any:
    if parameter.annotation is parameter.empty:
        _refuse(entry, f"parameter '{parameter.name}' has no annotation", "say which values it takes, as in `k: int`")
    holder = types.SimpleNamespace(__annotations__={parameter.name: parameter.annotation})
    try:
        return get_type_hints(holder, globalns=scope, include_extras=True)[parameter.name]
    except Exception as error:
        _refuse(
            entry,
            f"the annotation of parameter '{parameter.name}' cannot be read: {error}",
            "import its names at the top of the module, not under TYPE_CHECKING",
        )


def _taken(entry: ComponentEntry, parameter: inspect.Parameter, annotation: Any) -> ComponentParameter | None:
    """The component asked for by a protocol, or None for a plain value."""
    options = get_args(annotation) if get_origin(annotation) in (Union, types.UnionType) else (annotation,)
    kinds = [
        _COMPONENT_KINDS[option.__name__]
        for option in options
        if getattr(option, "__module__", "") == "metriclab.core.protocols" and option.__name__ in _COMPONENT_KINDS
    ]
    if not kinds:
        return None
    name = parameter.name
    if entry.kind != "method":
        _refuse(entry, f"parameter '{name}' asks for a {kinds[0]}", "only a method may ask for other components")
    optional = type(None) in options
    if len(options) != 1 + optional or parameter.default is not (None if optional else parameter.empty):
        form = f"{name}: {kinds[0].title()}"
        _refuse(
            entry,
            f"parameter '{name}' asks for a {kinds[0]} in a form that no recipe can fill",
            f"write `{form}` for a required one, or `{form} | None = None`",
        )
    return ComponentParameter(name, kinds[0], required=not optional)


def _check_tables(entry: ComponentEntry, parameters: list[Parameter]) -> None:
    """What is said to be the table of another component, or of own keys, must be one that can be found."""
    names = {parameter.name for parameter in parameters}
    for parameter in parameters:
        strangers = [key for key in parameter.own_keys if key not in names or key == parameter.name]
        if strangers:
            reason = f"parameter '{parameter.name}' is said to hold the key '{strangers[0]}', which is not beside it"
            _refuse(entry, reason, "name other parameters of the component")
        table = parameter.table_of
        if table is not None and (table.kind not in KINDS or table.named_by not in {None, *names}):
            reason = f"parameter '{parameter.name}' is said to be the table of what is not there: {table!r}"
            _refuse(entry, reason, f"name one of {', '.join(KINDS)}, and a parameter beside it or none")


def _model(entry: ComponentEntry, parameters: list[Parameter]) -> type[Any]:
    from pydantic import ConfigDict, Field, create_model

    fields: dict[str, Any] = {}
    for parameter in parameters:
        try:
            annotation = checked_type(parameter.annotation)
        except NotPlain as error:
            _refuse(
                entry,
                f"parameter '{parameter.name}' is annotated with {error}, which no recipe can hold",
                "use int, float, bool, str, Literal, or lists, tuples, dicts and unions of them",
            )
        # The alias keeps parameters such as `copy` or `schema` apart from pydantic's own methods.
        name, default = parameter.name, ... if parameter.required else parameter.default
        field: Any = Field(default, alias=name, title=name, description=parameter.help or None)
        fields[f"parameter_{name}"] = (annotation, field)
    config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())
    try:
        model: type[Any] = create_model(f"{entry.kind}:{entry.name}", __config__=config, **fields)
    except Exception as error:
        _refuse(entry, f"its parameters cannot be checked: {error}", "see which ranges pydantic knows for these types")
    return model


def _check_defaults(definition: Definition) -> None:
    """Every default must be a value that a recipe could have said."""
    defaults = {p.name: p.default for p in definition.parameters if not p.required}
    for name, default in defaults.items():
        try:
            default is None or toml_value(default)
        except TypeError as error:
            _refuse(definition.entry, f"the default of parameter '{name}' is not a plain value: {error}", None)
    required = {p.name for p in definition.parameters if p.required}
    try:
        _, problems = definition.check(defaults)
    except Exception as error:  # a range that does not fit its type shows at the first value only
        _refuse(definition.entry, f"its defaults cannot be checked: {error}", "give each type a range that fits it")
    for problem in problems:
        if problem.parameter not in required:
            _refuse(definition.entry, f"a default is refused: {problem.message}", "change the default or the type")


def _refuse(entry: ComponentEntry, reason: str, help: str | None) -> NoReturn:
    raise PluginError(f"{entry} of {entry.source} ({entry.target}) is refused: {reason}", help=help)
