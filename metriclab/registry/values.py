"""The values of a recipe's table against the schema that a signature is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from metriclab.registry.params import ComponentParameter, Parameter, ParameterProblem, foreign, missing, unknown, wrong


def check_values(
    component: object,
    model: type[Any],
    parameters: Sequence[Parameter],
    values: Mapping[str, object],
    components: Mapping[str, ComponentParameter] = {},  # never changed
) -> tuple[dict[str, object], list[ParameterProblem]]:
    """The values of a component's table with every default filled, and all that is wrong with them.

    Where something is wrong, that parameter is left as it was given, or left out.
    """
    from pydantic import ValidationError

    try:
        valid = model.model_validate(dict(values)).model_dump(by_alias=True)
        filled = {parameter.name: parameter.filled(valid) for parameter in parameters}
        filled, problems = _with_own_keys(component, model, parameters, filled)
        return filled, [*_inside(parameters, filled), *problems]
    except ValidationError as error:
        faulty = {str(fault["loc"][0]) for fault in error.errors()}
    known = {parameter.name: parameter for parameter in parameters}
    problems = [unknown(component, key, known, components) for key in values if key not in known]
    problems += [wrong(component, known[key], values[key]) for key in values if key in known and key in faulty]
    problems += [missing(component, p) for p in parameters if p.required and p.name not in values]
    problems += _inside([p for p in parameters if p.name not in faulty], values)
    known_values = {**{p.name: p.default for p in parameters if not p.required}, **values}
    filled, of_tables = _with_own_keys(component, model, parameters, known_values)
    return filled, problems + [problem for problem in of_tables if problem.within not in faulty]


def _with_own_keys(
    component: object, model: type[Any], parameters: Sequence[Parameter], filled: dict[str, Any]
) -> tuple[dict[str, Any], list[ParameterProblem]]:
    """The values with those of tables of own keys checked as the component's own are, and all that is wrong there."""
    from pydantic import ValidationError

    known = {parameter.name: parameter for parameter in parameters}
    problems: list[ParameterProblem] = []
    for table in parameters:
        given = filled.get(table.name)
        if not table.own_keys or not isinstance(given, Mapping):
            continue
        problems += [foreign(component, table, key, known) for key in given if key not in table.own_keys]
        required = {p.name: filled[p.name] for p in parameters if p.required and p.name in filled}
        own = {key: value for key, value in given.items() if key in table.own_keys}
        try:
            checked = model.model_validate({**required, **own}).model_dump(by_alias=True)
            filled = {**filled, table.name: {key: checked.get(key, value) for key, value in given.items()}}
            problems += _inside(parameters, own, table.name)
        except ValidationError as error:
            help = f"leave it out of {table.name}: it is then as in the table around it"
            faulty = {str(fault["loc"][0]) for fault in error.errors()}
            found = [wrong(component, known[key], own[key]) for key in own if key in faulty]
            problems += [replace(problem, help=help, within=table.name) for problem in found]
    return filled, problems


def _inside(
    parameters: Sequence[Parameter], values: Mapping[str, object], within: str | None = None
) -> list[ParameterProblem]:
    """What is wrong inside of values that are of the right types."""
    given = (parameter for parameter in parameters if parameter.name in values)
    found = (problem for parameter in given for problem in parameter.problems_inside(values[parameter.name]))
    return [replace(problem, within=within) for problem in found]
