"""The classes of pytorch-metric-learning: which there are, what each takes, and their making from plain values.

That library hands unknown keywords up its class hierarchy, where some class the user never wrote refuses them; so what
a class takes is read along that hierarchy here, and checked before anything is built.
"""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from metriclab.errors import RecipeError, needing
from metriclab.registry.params import ParameterProblem, suggest
from metriclab.registry.toml import toml_value

LIBRARY = "pytorch-metric-learning"

with needing("pml", LIBRARY, "loss 'pml'"):
    from pytorch_metric_learning import (  # type: ignore[import-untyped]
        distances,
        losses,
        miners,
        reducers,
        regularizers,
    )

_MODULES: dict[str, ModuleType] = {
    "loss": losses,
    "miner": miners,
    "distance": distances,
    "reducer": reducers,
    "regularizer": regularizers,
}
_PARTS = {
    "distance": "distance",
    "reducer": "reducer",
    "default_reducer": "reducer",
    "embedding_regularizer": "regularizer",
    "weight_regularizer": "regularizer",
}
"""Parameters that are objects of the library, each by its kind: a recipe names their class."""

_NOT_PLAIN = {
    "weight_init_func": "a function",
    "aggregation_func": "a function",
    "iter_fn": "a function",
    "weights": "a tensor",
    "reducers": "a dictionary of objects",
}
_INTERNAL = ("mat_based_loss", "is_inverted", "collect_stats")
_FIXED = {
    "BatchHardMiner": ("pos_strategy", "neg_strategy"),
    "CosineSimilarity": ("normalize_embeddings",),
    "AvgNonZeroReducer": ("low",),
}
"""Parameters of a base class that a class sets for itself."""

REFUSED: dict[str, tuple[str, str | None]] = {
    "CrossBatchMemory": ("it is a memory and no loss", "use the method 'xbm' with the memory 'ring'"),
    "MultipleLosses": ("it is made of other losses, which no recipe can hold", "name one of them"),
    "SelfSupervisedLoss": ("it wraps another loss, which no recipe can hold", "name that loss, in the method 'simclr'"),
    "ManifoldLoss": ("it takes no labels and draws classes of its own", None),
    "VICRegLoss": ("it takes no labels and compares two views row by row", None),
    "InstanceLoss": ("it takes the number of a class for the position of a row", "use NPairsLoss or NTXentLoss"),
    "SmoothAPLoss": ("its values are wrong unless a batch has as many classes as rows of each", None),
    "EmbeddingsAlreadyPackagedAsTriplets": ("it goes by the order of rows, which means nothing here", None),
}
"""Losses and miners that cannot be used: why, and what to do instead."""

NO_REFERENCES = {"LiftedStructureLoss": "it takes a reference for the row of the batch at the same position"}
"""Losses that take references and go wrong with them."""

BY_LABEL = ("NCALoss",)
"""Losses that look for positives by label alone, whatever pairs they are given, and cannot do without one."""

STATE = {"DynamicSoftMarginLoss": "hist_"}
"""What changes from call to call and is no buffer in that library."""


def names(kind: str) -> tuple[str, ...]:
    """The classes of one kind that can be named, sorted."""
    classes = [name for name, value in vars(_MODULES[kind]).items() if inspect.isclass(value)]
    return tuple(sorted(name for name in classes if not name.startswith(("Base", "Generic")) and "Mixin" not in name))


def parameters(kind: str, name: str) -> dict[str, inspect.Parameter]:
    """What the constructor takes, its own parameters first, then those of the classes that its `**kwargs` reach.

    Raises:
        RecipeError: for a class that there is not.
    """
    if name not in names(kind):
        help = suggest(name, names(kind)) or f"there are {', '.join(names(kind))}"
        raise RecipeError(f"{LIBRARY} has no {kind} '{name}'", help=help)
    found: dict[str, inspect.Parameter] = {}
    for base in getattr(_MODULES[kind], name).__mro__:
        if "__init__" in vars(base):
            _, *own = inspect.signature(vars(base)["__init__"]).parameters.values()
            for parameter in own:
                found.setdefault(parameter.name, parameter)
            if all(parameter.kind is not parameter.VAR_KEYWORD for parameter in own):
                break
    stars = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    hidden = (*_INTERNAL, *_FIXED.get(name, ()))
    return {key: value for key, value in found.items() if value.kind not in stars and key not in hidden}


def make(
    kind: str, name: str, values: Mapping[str, object], place: str, filled: Mapping[str, object] | None = None
) -> Any:
    """An object of the library.

    Args:
        kind: "loss", "miner", "distance", "reducer" or "regularizer".
        name: of its class.
        values: what its constructor is given, plain; a distance, reducer or regularizer is the name of its class, or
            a table of that `name` and its parameters.
        place: the key of the recipe that holds the values, for messages.
        filled: given besides, as far as the constructor cannot do without.

    Raises:
        RecipeError: for a class that there is not or that cannot be used, for a parameter that there is not, that is
            missing, not plain or of another type than its default, and for values that the class itself refuses.
    """
    if name in REFUSED:
        reason, repair = REFUSED[name]
        raise RecipeError(f"{name} of {LIBRARY} cannot be used: {reason}", help=repair)
    known = parameters(kind, name)
    required = [key for key, parameter in known.items() if parameter.default is parameter.empty]
    given = {key: value for key, value in (filled or {}).items() if key in required}
    left = {key: parameter for key, parameter in known.items() if key not in given}
    _check(name, values, left, given, place)
    made = {
        key: _part(_PARTS[key], value, f"{place}.{key}") if key in _PARTS else value for key, value in values.items()
    }
    try:
        return getattr(_MODULES[kind], name)(**made, **given)
    except Exception as error:  # of whatever type the library chose
        raise RecipeError(f"{place}: {name} of {LIBRARY} refuses these values: {error}") from error


def _part(kind: str, value: object, place: str) -> Any:
    table = {"name": value} if isinstance(value, str) else value
    if not isinstance(table, dict) or not isinstance(table.get("name"), str):
        form = f'"{names(kind)[-1]}"'
        raise RecipeError(
            f"{place} must be the name of a {kind} of {LIBRARY}, or a table with it, not {toml_value(value)}",
            help=f"write {form}, or {{ name = {form}, ... }} with its parameters",
        )
    return make(kind, table["name"], {key: item for key, item in table.items() if key != "name"}, place)


def _check(
    name: str,
    values: Mapping[str, object],
    known: Mapping[str, inspect.Parameter],
    given: Mapping[str, object],
    place: str,
) -> None:
    """Raises a RecipeError that tells all that is wrong with the values."""
    takes = f"{name} takes {', '.join(known)}" if known else f"{name} takes no parameters"
    problems = []
    for key, value in values.items():
        where = f"{place}.{key} of {name}"
        if key in given:
            problems.append(ParameterProblem(key, f"{where} is given by the run", f"remove {key}"))
        elif key not in known:
            near = suggest(key, known)
            help = f"{near} {takes}" if near else takes
            problems.append(ParameterProblem(key, f"{place}.{key}: {name} has no parameter '{key}'", help))
        elif key in _NOT_PLAIN:
            message = f"{where} is {_NOT_PLAIN[key]}, which no recipe can hold"
            problems.append(ParameterProblem(key, message, f"remove {key}"))
        elif not _fits(value, known[key].default):
            usual = toml_value(known[key].default)
            problems.append(ParameterProblem(key, f"{where} is {toml_value(value)}, where its default is {usual}"))
    for key, parameter in known.items():
        if parameter.default is parameter.empty and key not in values:
            problems.append(ParameterProblem(key, f"{name} needs {place}.{key}", f"add {key} = ..."))
    if problems:
        first, *others = problems
        raise RecipeError("\n".join([first.message, *map(str, others)]), help=first.help)


def _fits(value: object, default: object) -> bool:
    """Whether a value is of a type that the default allows: a number or a bool stays one, anything else may vary."""
    if isinstance(default, bool):
        return isinstance(value, bool)
    if isinstance(default, int | float):
        return isinstance(value, int | float) and not isinstance(value, bool)
    return True
