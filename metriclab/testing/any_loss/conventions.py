"""How people's losses are called: with embeddings and labels, with two views, or with anchors and references."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from metriclab.core.call_loss import apply_loss
from metriclab.core.protocols import Loss
from metriclab.core.rows import Rows, concatenate, rows
from metriclab.distributed import gather
from metriclab.errors import RecipeError
from metriclab.testing.cases import Call

Calls = Literal["labels", "views", "rows"]
WAYS = (
    "labels is loss(embeddings, labels), views is loss(first, second), "
    "rows is loss(anchors, labels, references, labels)"
)
_LABELS = ("label", "target", "classes")


@dataclass(frozen=True, slots=True)
class Convention:
    """One way to call a loss. Rows of `views` 0 are anchors or first views, those of 1 references or second views.

    Attributes:
        name: as `--calls` has it.
        call: the loss of a batch in one process.
        on_rank: that of a rank, from its share of the batch.
    """

    name: Calls
    call: Call
    on_rank: Call

    @property
    def sides(self) -> int:
        return 1 if self.name == "labels" else 2


def find_convention(loss: Any, asked: Calls | None) -> Convention:
    """The convention of a loss, by the parameters of its `forward`, or the one that is asked for.

    Raises:
        RecipeError: where the parameters fit none.
    """
    if not callable(loss):
        raise RecipeError(f"{_name(loss)} cannot be called", help="name a class whose objects are losses")
    names = _parameters(loss)
    required = [name for name, parameter in names.items() if parameter.default is parameter.empty]
    if [str(names[name].annotation).rpartition(".")[2] for name in required] == ["Rows", "Rows"]:
        return Convention("labels", _tables, _tables_on_rank)
    if asked is None:
        asked = _guess(list(names), required)
    if asked is None:
        listed = ", ".join(required)
        raise RecipeError(
            f"{_name(loss)} takes ({listed}), which is none of the three ways to call a loss: {WAYS}",
            help="give --calls, or write a class that calls it in one of these ways into a file: my_loss.py:MyLoss",
        )
    if asked == "labels":
        return Convention("labels", _Scalar(_labels), _Scalar(_labels))
    if asked == "views":
        return Convention("views", _Scalar(_views), _Scalar(_views))
    call = _Scalar(_against(loss, list(names)))
    return Convention("rows", call, lambda loss, local: call(loss, _with_all_references(local)))


def _against(loss: Any, names: list[str]) -> Call:
    """The call with anchors, references and the labels of both, by where the labels are among the parameters."""
    given = [name for name in names if name.startswith("ref_")]
    if len(given) == 2:
        return _by_reference_names(given)
    if sum(map(_is_label, names[:4])) != 2:
        raise RecipeError(f"{_name(loss)} takes ({', '.join(names)}), and no labels of two sides", help=WAYS)
    return _by_position([_is_label(name) for name in names])


def _parameters(loss: Any) -> dict[str, inspect.Parameter]:
    """What must be given, or can be by position."""
    found = inspect.signature(getattr(loss, "forward", loss)).parameters
    several = (inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD)
    optional = {name for name, one in found.items() if one.kind is one.KEYWORD_ONLY and one.default is not one.empty}
    return {name: one for name, one in found.items() if one.kind not in several and name not in optional}


def _guess(names: list[str], required: list[str]) -> Calls | None:
    if len(required) == 4 and sum(map(_is_label, required)) == 2:
        return "rows"
    if len(names) > 1 and len(required) <= 2 and _is_label(names[1]):
        return "labels"
    return "views" if len(required) == 2 else None


def _is_label(name: str) -> bool:
    return name == "y" or any(word in name.lower() for word in _LABELS)


def _labels(loss: Any, given: Rows) -> Tensor:
    return loss(given.z, given.labels)  # type: ignore[no-any-return]


def _views(loss: Any, given: Rows) -> Tensor:
    first, second = _sides(given)
    return loss(first.z, second.z)  # type: ignore[no-any-return]


def _by_position(labelled: list[bool]) -> Call:
    def call(loss: Any, given: Rows) -> Tensor:
        sides = _sides(given)
        z, labels = iter([side.z for side in sides]), iter([side.labels for side in sides])
        return loss(*(next(labels if is_label else z) for is_label in labelled[:4]))  # type: ignore[no-any-return]

    return call


def _by_reference_names(names: list[str]) -> Call:
    def call(loss: Any, given: Rows) -> Tensor:
        anchors, references = _sides(given)
        named = {name: references.labels if _is_label(name) else references.z for name in names}
        return loss(anchors.z, anchors.labels, **named)  # type: ignore[no-any-return]

    return call


def _tables(loss: Loss, given: Rows) -> Tensor:
    table = rows(given.z, given.labels, given.items, given.ids)
    return loss(table, table)


def _tables_on_rank(loss: Loss, local: Rows) -> Tensor:
    table = rows(local.z, local.labels, local.items, local.ids)
    return apply_loss(loss, table, gather(table))


def _with_all_references(local: Rows) -> Rows:
    anchors, references = _sides(local)
    return concatenate([anchors, gather(references)])


def _sides(given: Rows) -> tuple[Rows, Rows]:
    return given[given.views == 0], given[given.views == 1]


class _Scalar:
    """The same call, from one random state, and its result as a scalar; and whether it drew at random."""

    def __init__(self, call: Callable[[Any, Rows], Tensor]) -> None:
        self.call, self.draws = call, False

    def __call__(self, loss: Loss, given: Rows) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            before = torch.get_rng_state()
            value = self.call(loss, given)
            self.draws |= not torch.equal(before, torch.get_rng_state())
        if not isinstance(value, Tensor) or value.numel() != 1:
            shape = f"a tensor of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
            raise RecipeError(
                f"{_name(loss)} returns {shape}, expected one number",
                help="write a class that returns the number into a file, and name that: my_loss.py:MyLoss",
            )
        return value.reshape(())


def _name(loss: Any) -> str:
    return str(getattr(loss, "__qualname__", type(loss).__name__))
