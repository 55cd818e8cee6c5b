"""`requires`: the packages, beside metriclab itself, without which a recipe cannot run."""

from __future__ import annotations

from importlib import metadata
from typing import Any

from metriclab.recipe.document import Document
from metriclab.recipe.problems import Problem, show
from metriclab.recipe.recipe import REQUIRES

_LONGEST = 200
_FORM = 'name a package and, where it matters, its versions: requires = ["metriclab-circle>=0.1"]'


def check_requires(document: Document) -> tuple[tuple[str, ...], list[Problem]]:
    """What a recipe requires, and what of it is wrong or not installed. From metadata: nothing is imported."""
    stated = document.values.get(REQUIRES, [])
    if not isinstance(stated, list):
        message = f"'{REQUIRES}' is {show(stated)}, not a list"
        return (), [document.value(REQUIRES).problem(message, _FORM)]
    problems = []
    for index, requirement in enumerate(stated):
        wrong = _wrong(requirement)
        if wrong is not None:
            problems.append(document.value(REQUIRES, index).problem(*wrong))
    return tuple(map(str, stated)), problems


def _wrong(text: Any) -> tuple[str, str] | None:
    """What is wrong with one requirement, with the repair; None where what it asks for is installed."""
    from packaging.requirements import InvalidRequirement, Requirement
    from packaging.version import InvalidVersion

    try:
        if not isinstance(text, str) or len(text) > _LONGEST:
            raise InvalidRequirement
        asked = Requirement(text)
    except InvalidRequirement:
        return f"{show(text)} is no requirement", _FORM
    if asked.url or asked.marker or asked.extras:
        return f"{show(text)} asks for more than a package and its versions", _FORM
    install = f'pip install "{asked}"'
    try:
        version = metadata.version(asked.name)
    except metadata.PackageNotFoundError:
        return f"this recipe requires {asked}, which is not installed", install
    try:
        fits = asked.specifier.contains(version, prereleases=True)
    except (InvalidVersion, TypeError):  # its metadata are damaged
        fits = False
    return None if fits else (f"this recipe requires {asked}, and {asked.name} {version} is installed", install)
