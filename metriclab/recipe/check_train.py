"""The checks of `[train]`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, get_type_hints

from pydantic import ValidationError

from metriclab.recipe.document import Document
from metriclab.recipe.problems import Problem, show
from metriclab.recipe.settings import Train
from metriclab.registry.params import REQUIRED, Parameter
from metriclab.registry.problems import unknown, wrong

_ACCUMULATION = ("accumulate", "accumulate_grad_batches", "gradient_accumulation", "gradient_accumulation_steps")


def check_train(document: Document, evaluators: Sequence[str]) -> tuple[Train | None, list[Problem]]:
    """The settings of the loop, or None with all that is wrong with them.

    Args:
        document: tables and their places.
        evaluators: the names of those that the recipe has.
    """
    values = document.values.get("train", {})
    if not isinstance(values, dict):
        help = "write [train] and below it the settings of the loop"
        return None, [document.value("train").problem("'train' is not a table", help)]
    problems = [*_values(document, values), *_length(document, values), *_selection(document, values, evaluators)]
    return (None, problems) if problems else (Train(**values), [])


def default_help(parameter: Parameter) -> str | None:
    """The repair of a wrong value where nothing better is known."""
    if parameter.default is REQUIRED:
        return f"{parameter.name}: {parameter.help}" if parameter.help else None
    return "leave it out" if parameter.default is None else f"leave it out for its default, {show(parameter.default)}"


def _values(document: Document, values: dict[str, Any]) -> Iterator[Problem]:
    known = {parameter.name: parameter for parameter in parameters()}
    for key in values:
        if key in _ACCUMULATION:
            reason = "gradients summed over small batches see only the negatives of each: that is another loss"
            help = "use a larger batch_size, or a method with a memory"
            yield document.key("train", key).problem(f"'{key}' is refused: {reason}", help)
        elif key not in known:
            problem = unknown("[train]", key, known, {})
            yield document.key("train", key).problem(problem.message, problem.help)
    try:
        Train(**values)
    except ValidationError as error:
        faulty = dict.fromkeys(str(fault["loc"][0]) for fault in error.errors())
        for key in (key for key in faulty if key in known):
            problem = wrong("[train]", known[key], values[key])
            yield document.value("train", key).problem(problem.message, problem.help or default_help(known[key]))


def _length(document: Document, values: dict[str, Any]) -> Iterator[Problem]:
    if "steps" in values and "epochs" in values:
        help = "keep the one that is meant"
        yield document.key("train", "epochs").problem("steps and epochs are both given, and both say how long", help)
    elif "steps" not in values and "epochs" not in values:
        help = "add steps = ... or epochs = ... to [train]"
        yield document.key("train").problem("neither steps nor epochs says how long to train", help)


def _selection(document: Document, values: dict[str, Any], evaluators: Sequence[str]) -> Iterator[Problem]:
    """The best checkpoint is chosen by an evaluator that must be there, unless nothing is trained or measured."""
    select = values.get("select", Train.model_fields["select"].default)
    if not isinstance(select, str) or values.get("steps") == 0 or not evaluators:
        return
    if not any(select.startswith(f"{name}.") for name in evaluators):
        place = document.value("train", "select") if "select" in values else document.key("evaluate")
        message = f"train.select = {show(select)} names an evaluator that the recipe does not have"
        yield place.problem(message, f"it has {', '.join(evaluators)}: set train.select to one of their metrics")


def parameters() -> list[Parameter]:
    """The keys of `[train]`."""
    hints = get_type_hints(Train, include_extras=True)
    return [
        Parameter(name, hints[name], field.default, field.description or "")
        for name, field in Train.model_fields.items()
    ]
