"""Parameters: the plain values a recipe may set, how their types read, and what can be wrong with them."""

from __future__ import annotations

import difflib
import functools
import operator
import re
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from enum import Enum
from typing import Annotated, Any, Final, Literal, Union, get_args, get_origin

import annotated_types

from metriclab.registry.kinds import KINDS
from metriclab.registry.marks import CheckedBy, OwnKeys, RunStep, TableOf, TrueWith, mark_of
from metriclab.registry.toml import show


class Required(Enum):
    """The default of a parameter that has none."""

    REQUIRED = "required"


REQUIRED: Final = Required.REQUIRED

_UNQUOTED = re.compile(r"true|false|[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")  # what TOML writes without quotes
_SCALARS = (int, float, bool, str, type(None))
_SIGNS: dict[type, tuple[str, str]] = {
    annotated_types.Gt: ("gt", "> {}"),
    annotated_types.Ge: ("ge", ">= {}"),
    annotated_types.Lt: ("lt", "< {}"),
    annotated_types.Le: ("le", "<= {}"),
    annotated_types.MultipleOf: ("multiple_of", "a multiple of {}"),
    annotated_types.MinLen: ("min_length", "with at least {} entries"),
    annotated_types.MaxLen: ("max_length", "with at most {} entries"),
}


class NotPlain(Exception):
    """An annotation that no value of a recipe can satisfy."""


@dataclass(frozen=True, slots=True)
class Parameter:
    """One key of a component's table.

    Attributes:
        name: the key.
        annotation: its type, resolved, with the ranges of `Annotated`.
        default: a plain value, None for "not set", or REQUIRED.
        help: its line in the docstring's `Args:`, "" where there is none.
    """

    name: str
    annotation: Any
    default: Any
    help: str

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    @property
    def type_text(self) -> str:
        """The type in words: `float > 0`, `"all" | "hardest"`, `list[int >= 1]`."""
        return type_text(self.annotation)

    @property
    def table_of(self) -> TableOf | None:
        """The component whose table it is, if it is one."""
        return mark_of(self.annotation, TableOf)

    @property
    def own_keys(self) -> tuple[str, ...]:
        """Those of the component that it may have other values of, if it is a table of such."""
        own = mark_of(self.annotation, OwnKeys)
        return () if own is None else own.keys

    @property
    def run_step(self) -> RunStep | None:
        """What it says of the steps of a run, if it is one."""
        return mark_of(self.annotation, RunStep)

    def problems_inside(self, value: object) -> list[ParameterProblem]:
        """What is wrong inside of a value of the right type."""
        mark = mark_of(self.annotation, CheckedBy)
        if mark is None or value is None:
            return []
        return [
            replace(problem, parameter=self.name, inside=(*where, *problem.path))
            for where, problem in mark.check(value)
        ]

    def filled(self, values: Mapping[str, object]) -> object:
        """Its value among those of its table, of which each is given or a default."""
        others = mark_of(self.annotation, TrueWith)
        value = values[self.name]
        return value if value is not None or others is None else any(values[other] for other in others)

    @property
    def choices(self) -> tuple[str, ...]:
        """The strings it may be, where its type lists them."""
        return tuple(text for text in _literals(self.annotation) if isinstance(text, str))


@dataclass(frozen=True, slots=True)
class ComponentParameter:
    """A component that a method asks for by a keyword-only parameter."""

    name: str
    kind: str
    required: bool


def checked_type(annotation: Any) -> Any:
    """The annotation in the form in which pydantic checks it.

    Raises:
        NotPlain: for what is neither a plain scalar, a Literal, nor a list, tuple, dict or union of such.
    """
    from pydantic import JsonValue, Strict

    origin, arguments = get_origin(annotation), get_args(annotation)
    if any(annotation is scalar for scalar in _SCALARS):
        return annotation
    if origin is Annotated:
        return Annotated[(checked_type(arguments[0]), *arguments[1:])]
    if origin is Literal and all(isinstance(value, str | int | None) for value in arguments):
        return annotation
    if origin in (Union, types.UnionType):
        return functools.reduce(operator.or_, map(checked_type, arguments))
    if origin is list:
        return list[checked_type(arguments[0])]  # type: ignore[misc]
    if origin is tuple:  # TOML has arrays only: a strict tuple would refuse them
        parts = (part if part is Ellipsis else checked_type(part) for part in arguments)
        return Annotated[tuple[tuple(parts)], Strict(False)]  # type: ignore[misc]
    if origin is dict and arguments[0] is str:  # `object` stands for any plain value
        return dict[str, JsonValue if arguments[1] is object else checked_type(arguments[1])]  # type: ignore[misc]
    raise NotPlain(annotation)


def type_text(annotation: Any) -> str:
    """The type as a user of a recipe reads it. None is left out: TOML cannot say it."""
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        table = mark_of(annotation, TableOf) or mark_of(annotation, OwnKeys)
        for one in arguments[1:]:
            if isinstance(one, annotated_types.DocInfo):
                return one.documentation
        return " ".join(filter(None, [str(table or type_text(arguments[0])), _range_text(arguments[1:])]))
    if origin is Literal:
        return " | ".join(f'"{value}"' if isinstance(value, str) else str(value) for value in arguments)
    if origin in (Union, types.UnionType):
        return " | ".join(type_text(argument) for argument in arguments if argument is not type(None))
    if origin in (list, tuple, dict):
        parts = ("..." if part is Ellipsis else type_text(part) for part in arguments)
        return f"{origin.__name__}[{', '.join(parts)}]"
    if annotation is object:
        return "any plain value"
    return annotation.__name__ if isinstance(annotation, type) else str(annotation)


def _range_text(metadata: tuple[Any, ...]) -> str:
    texts = []
    for group in metadata:
        for limit in group if isinstance(group, annotated_types.GroupedMetadata) else (group,):
            if type(limit) in _SIGNS:
                attribute, text = _SIGNS[type(limit)]
                texts.append(text.format(getattr(limit, attribute)))
    return " and ".join(texts)


def _literals(annotation: Any) -> tuple[Any, ...]:
    if get_origin(annotation) is Literal:
        return get_args(annotation)
    return tuple(value for argument in get_args(annotation) for value in _literals(argument))


@dataclass(frozen=True, slots=True)
class ParameterProblem:
    """One thing that is wrong with a component's parameters.

    Attributes:
        parameter: the key.
        message: what is wrong, naming component and key.
        help: how to repair it, where that can be told.
        unknown: whether there is no such key.
        within: the parameter in whose table the key stands, if it is in one.
        inside: the way on from the parameter, to the place inside of its value.
    """

    parameter: str
    message: str
    help: str | None = None
    unknown: bool = False
    within: str | None = None
    inside: tuple[str | int, ...] = ()

    @property
    def path(self) -> tuple[str | int, ...]:
        """The way to the key from the component's table."""
        outer = () if self.within is None else (self.within,)
        return (*outer, self.parameter, *self.inside)

    def __str__(self) -> str:
        return self.message if self.help is None else f"{self.message}\n  help: {self.help}"


def unknown(
    component: object, key: str, known: Mapping[str, Parameter], components: Mapping[str, ComponentParameter]
) -> ParameterProblem:
    """The key of a table that its component does not have."""
    message = f"{component} has no parameter '{key}'"
    if key in components:
        header = KINDS[components[key].kind].header
        return ParameterProblem(
            key, message, f"it takes its {components[key].kind} from the table {header}", unknown=True
        )
    those = f"it has {', '.join(known)}" if known else "it has no parameters"
    return ParameterProblem(key, message, suggest(key, known) or those, unknown=True)


def missing(component: object, parameter: Parameter) -> ParameterProblem:
    """A parameter without default that was not given."""
    return ParameterProblem(
        parameter.name,
        f"{component} needs {parameter.name} ({parameter.type_text})",
        f"{parameter.name}: {parameter.help}" if parameter.help else f"add {parameter.name} = ...",
    )


def wrong(component: object, parameter: Parameter, value: object) -> ParameterProblem:
    """A value of the wrong type or out of range."""
    message = f"{parameter.name} of {component} must be {parameter.type_text}, not {show(value)}"
    return ParameterProblem(parameter.name, message, _repair(parameter, value))


def foreign(component: object, table: Parameter, key: str, known: Mapping[str, Parameter]) -> ParameterProblem:
    """The key of a table of own keys that may not stand there."""
    message = f"{table.name} of {component} has no key '{key}'"
    help = suggest(key, table.own_keys) or f"it has {', '.join(table.own_keys)}"
    if key in known and key != table.name:
        help = f"leave it out: '{key}' of the table around it is for both"
    return ParameterProblem(key, message, help, unknown=True, within=table.name)


def suggest(word: str, words: Iterable[str]) -> str | None:
    """`did you mean 'x'?` for the nearest of the words, if one is near."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"did you mean '{near[0]}'?" if near else None


def _repair(parameter: Parameter, value: object) -> str | None:
    if isinstance(value, str):
        if near := suggest(value, parameter.choices):
            return near
        if not parameter.choices and re.fullmatch(
            r"true|false|[+-]?(\d+\.?\d*|\.\d+)(e[+-]?\d+)?", value, re.IGNORECASE
        ):
            return f"write it without quotes: {parameter.name} = {value}"
    if parameter.default is REQUIRED:
        return f"{parameter.name}: {parameter.help}" if parameter.help else None
    return "leave it out" if parameter.default is None else f"leave it out for its default, {show(parameter.default)}"
