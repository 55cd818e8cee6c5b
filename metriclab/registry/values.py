"""The values of a recipe's table against the schema that a signature is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from metriclab.registry.params import ComponentParameter, Parameter, ParameterProblem, missing, unknown, wrong


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
        return {parameter.name: parameter.filled(valid) for parameter in parameters}, []
    except ValidationError as error:
        faulty = {str(fault["loc"][0]) for fault in error.errors()}
    known = {parameter.name: parameter for parameter in parameters}
    problems = [unknown(component, key, known, components) for key in values if key not in known]
    problems += [wrong(component, known[key], values[key]) for key in values if key in known and key in faulty]
    problems += [missing(component, p) for p in parameters if p.required and p.name not in values]
    return {**{p.name: p.default for p in parameters if not p.required}, **values}, problems
