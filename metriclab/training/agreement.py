"""Whether all ranks run the same: nothing later could tell, as each of them computes well by itself."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metriclab import __version__, distributed
from metriclab.errors import RecipeError
from metriclab.recipe import Recipe
from metriclab.runs.files import digest, digest_of
from metriclab.runs.folder import differing_keys
from metriclab.runs.manifest import environment, packages

_ENVIRONMENT = ("python", "versions")
"""What of it has to be equal; processors and threads may differ."""


def require_same_recipe(recipe: Recipe) -> None:
    """Checks that all ranks have read one recipe, and run it by the same packages. Raises as `require_same`."""
    own = environment()
    plugins = {**packages(recipe), **_plugin_files(recipe)}
    there = {"metriclab": __version__, "plugins": plugins, **{key: own[key] for key in _ENVIRONMENT}}
    require_same({**recipe.as_dict(), **there}, help="start every rank by one command, with the same packages")


def _plugin_files(recipe: Recipe) -> dict[str, str]:
    """Digests of one-file plugins, which have no version."""
    factories = {
        one.definition.entry.package: one.definition.factory
        for one in recipe.specs()
        if one.definition.entry.version == "file"
    }
    return {name: digest(Path(inspect.getfile(factory)).read_bytes()) for name, factory in factories.items()}


def require_same(values: Mapping[str, Any], help: str) -> None:
    """Compares a digest over ranks, and where it differs the values themselves.

    Raises:
        RecipeError: on every rank, naming the keys and what the ranks have there.
    """
    if len(set(distributed.gather_objects(digest_of(values)))) == 1:
        return
    of_ranks = distributed.gather_objects(dict(values))
    other = next(rank for rank, theirs in enumerate(of_ranks) if digest_of(theirs) != digest_of(of_ranks[0]))
    keys = sorted(differing_keys(of_ranks[0], of_ranks[other]))
    texts = [f"{key} ({_at(of_ranks[0], key)} on rank 0, {_at(of_ranks[other], key)} on rank {other})" for key in keys]
    raise RecipeError(f"the ranks do not run the same: they differ in {', '.join(texts)}", help=help)


def _at(values: Any, key: str) -> str:
    """The value of a dotted key, as a message shows it."""
    while isinstance(values, Mapping) and key:
        name = next((name for name in values if key == name or key.startswith(f"{name}.")), None)
        values, key = (None, "") if name is None else (values[name], key[len(name) + 1 :])
    return "nothing" if values is None else str(values)
