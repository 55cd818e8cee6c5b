"""What is said about a wrong parameter: one text, whether it came from a recipe or from a call of `build`."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from metriclab.registry.kinds import KINDS
from metriclab.registry.params import ComponentParameter, Parameter
from metriclab.registry.toml import show


@dataclass(frozen=True, slots=True)
class ParameterProblem:
    """One thing that is wrong with a component's parameters.

    Attributes:
        parameter: the key.
        message: what is wrong, naming component and key.
        help: how to repair it, where that can be told.
    """

    parameter: str
    message: str
    help: str | None = None

    def __str__(self) -> str:
        return self.message if self.help is None else f"{self.message}\n  help: {self.help}"


def unknown(
    component: object, key: str, known: Mapping[str, Parameter], components: Mapping[str, ComponentParameter]
) -> ParameterProblem:
    """The key of a table that its component does not have."""
    message = f"{component} has no parameter '{key}'"
    if key in components:
        header = KINDS[components[key].kind].header
        return ParameterProblem(key, message, f"it takes its {components[key].kind} from the table {header}")
    return ParameterProblem(key, message, suggest(key, known) or _those_there_are(known))


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


def suggest(word: str, words: Iterable[str]) -> str | None:
    """`did you mean 'x'?` for the nearest of the words, if one is near."""
    near = difflib.get_close_matches(word, list(words), n=1)
    return f"did you mean '{near[0]}'?" if near else None


def _those_there_are(known: Mapping[str, Parameter]) -> str:
    return f"it has {', '.join(known)}" if known else "it has no parameters"


def _repair(parameter: Parameter, value: Any) -> str | None:
    if not isinstance(value, str):
        return None
    if parameter.choices:
        return suggest(value, parameter.choices)
    if value in ("true", "false") or _is_number(value):
        return f"write it without quotes: {parameter.name} = {value}"
    return None


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True
