"""What a suite searches: ranges and choices of recipe keys, each held against the recipe before anything runs."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal

from metriclab.recipe import Recipe
from metriclab.registry import suggest
from metriclab.registry.toml import show, toml_value

if TYPE_CHECKING:
    from metriclab.comparison.check_suite import SuiteChecker

Where = tuple[str | int, ...]

_FORM = "write { low = 0.02, high = 0.5, log = true } or { choices = [16, 32] }"
_RANGE = {"low", "high", "log"}
_TABLES = ("data", "evaluate", "track", "requires", "extends")
_TRAIN = ("seed", "steps", "epochs", "select", "baselines")


@dataclass(frozen=True, slots=True)
class Dimension:
    """A key of the recipe that is searched.

    Attributes:
        key: dotted, as `--set` takes it.
        low, high: the ends of a range, which are tried too.
        log: whether its orders of magnitude are equally likely.
        whole: whether only whole numbers are tried.
        choices: in place of a range, the values themselves.
    """

    key: str
    low: int | float = 0.0
    high: int | float = 0.0
    log: bool = False
    whole: bool = False
    choices: tuple[Any, ...] = ()

    @property
    def ends(self) -> tuple[Any, ...]:
        """The values that all others lie between; of choices all."""
        return self.choices or (self.low, self.high)

    def option(self, value: Any) -> str:
        """What gives the key this value, as `--set` takes it."""
        return f"{self.key}={toml_value(value)}"

    def described(self) -> str:
        """As a suite has it."""
        if self.choices:
            return toml_value({"choices": list(self.choices)})
        return toml_value({"low": self.low, "high": self.high, **({"log": True} if self.log else {})})


@dataclass(frozen=True, slots=True)
class Search:
    """How every entry of a suite that has a space is tuned.

    Attributes:
        trials: settings that are tried, of each entry as many.
        folds: parts of the training classes, each of which is held out once.
        sampler: how settings are proposed: Optuna's TPE, or at random.
        rungs: fractions of an entry's steps at which the poorer trials stop; see `EntrySearch`.
        seed: of all proposals.
    """

    trials: int
    folds: int = 4
    sampler: Literal["tpe", "random"] = "tpe"
    rungs: tuple[float, ...] = ()
    seed: int = 0

    @property
    def train_seed(self) -> int:
        """Of all trials: far from what final runs have, which see none of the luck by which settings are chosen."""
        return 2**31 - 1 - self.seed % 2**30

    def survivors(self) -> list[int]:
        """How many trials train at each rung and, last, for all steps: as many as keep the steps of a rung equal."""
        lengths, counts = [*self.rungs, 1.0], [self.trials]
        for shorter, longer in itertools.pairwise(lengths):
            counts.append(max(1, math.ceil(counts[-1] * shorter / longer - 1e-9)))
        return counts


def _is_count(least: int) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, int) and value is not True and value is not False and value >= least


def _are_rungs(value: Any) -> bool:
    return (
        isinstance(value, list)
        and all(isinstance(part, float) and 0 < part < 1 for part in value)
        and sorted(set(value)) == value
    )


SEARCH: dict[str, tuple[Callable[[Any], bool], str]] = {
    "trials": (_is_count(1), "a number of at least 1: trials = 20"),
    "folds": (_is_count(2), "a number of at least 2: folds = 4"),
    "sampler": (lambda value: value in ("tpe", "random"), 'one of two texts: sampler = "tpe" or "random"'),
    "rungs": (_are_rungs, "a rising list of fractions of the steps between 0 and 1: rungs = [0.25]"),
    "seed": (_is_count(0), "a number of at least 0: seed = 0"),
    "space": (lambda value: isinstance(value, dict), "keys: space.loss.margin = { low = 0.1, high = 0.5 }"),
}
"""The keys of [suite.search]."""

Space = dict[str, tuple[Where, Dimension]]
"""By key of the recipe, the dimension and its place in the suite."""


def read_space(checker: SuiteChecker, table: Any, *where: str | int) -> Space:
    """The sound dimensions in a table; what is wrong with the others is reported."""
    return {one.key: (place, one) for place, one in _dimensions(checker, table, where, "")}


def _dimensions(checker: SuiteChecker, table: Any, where: Where, prefix: str) -> Iterator[tuple[Where, Dimension]]:
    for name, value in table.items():
        key, at = f"{prefix}{name}", (*where, name)
        if isinstance(value, dict) and value and not value.keys() & {*_RANGE, "choices"}:
            yield from _dimensions(checker, value, at, f"{key}.")
            continue
        refused = _refusal(key)
        if refused is not None:
            checker.report(checker.document.key(*at), *refused)
            continue
        found = _dimension(key, value)
        if isinstance(found, Dimension):
            yield at, found
        else:
            checker.report(checker.document.value(*at), *found)


def _refusal(key: str) -> tuple[str, str] | None:
    """Why a key cannot be searched, and what to do; None where it can."""
    table, _, name = key.partition(".")
    if table in _TABLES:
        return f"'{key}' cannot be searched: all trials are measured alike", "search what is trained with"
    if table == "train" and name in _TRAIN:
        return f"'{key}' cannot be searched: all trials are trained and chosen alike", "set it for all entries"
    return None


def _dimension(key: str, value: Any) -> Dimension | tuple[str, str]:
    """The dimension, or what is wrong with it and the repair."""
    if not isinstance(value, dict) or not value:
        return f"'{key}' is searched, and {show(value)} is no range", _FORM
    if "choices" in value:
        return _choices(key, value)
    for other in sorted(value.keys() - _RANGE):
        return f"a range has no '{other}'", suggest(other, sorted(_RANGE)) or _FORM
    low, high, log = value.get("low"), value.get("high"), value.get("log", False)
    for end, name in ((low, "low"), (high, "high")):
        if isinstance(end, bool) or not isinstance(end, int | float):
            return f"{name} of '{key}' must be a number, not {'missing' if end is None else show(end)}", _FORM
    assert low is not None
    assert high is not None
    if low >= high:
        return f"low of '{key}' is {show(low)}, which is not below its high, {show(high)}", "exchange them, or set it"
    if not isinstance(log, bool) or (log and low <= 0):
        return f"'{key}' cannot be searched by orders of magnitude from {show(low)} on", "raise low above 0"
    whole = isinstance(low, int) and isinstance(high, int)
    return Dimension(key, low, high, log, whole)


def _choices(key: str, value: dict[str, Any]) -> Dimension | tuple[str, str]:
    choices = value["choices"]
    if len(value) > 1:
        return f"'{key}' has choices, and {', '.join(sorted(value.keys() - {'choices'}))} besides", "keep one of both"
    if not isinstance(choices, list) or len({show(one) for one in choices}) != len(choices) or len(choices) < 2:
        return f"choices of '{key}' must be a list of at least two different values", _FORM
    return Dimension(key, choices=tuple(choices))


def of_type(dimension: Dimension, recipe: Recipe) -> Dimension:
    """The dimension as the recipe takes it: the range 0 to 1 of a parameter that is a float is none of two numbers."""
    value: Any = recipe.as_dict()
    for part in dimension.key.split("."):
        value = value[int(part)] if isinstance(value, list) else value.get(part) if isinstance(value, dict) else None
    return replace(dimension, whole=False) if dimension.whole and isinstance(value, float) else dimension
