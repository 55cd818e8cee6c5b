"""The transforms of torchvision.transforms.v2 as tables of a recipe: names, and parameters by their signatures."""

from __future__ import annotations

import functools
import inspect
import numbers
import operator
import types
from collections.abc import Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

import torch
from torchvision.transforms import v2  # type: ignore[import-untyped]

from metriclab.registry import REQUIRED, Parameter, ParameterProblem, suggest
from metriclab.registry.params import NotPlain, checked_type, missing, unknown, wrong
from metriclab.registry.toml import show

LIBRARY = "torchvision.transforms.v2"

_BOXES = ("it is about boxes or key points, and there are none", None)
_BATCH = ("it mixes the images of a batch and their labels, and views are of one image", None)
_SEVERAL = ("it makes several images of one", "set views.count, and crop by RandomCrop")
_FORM = ("views take and give tensors already", "leave it out")
REFUSED: dict[str, tuple[str, str | None]] = {
    "Transform": ("it is the base class of all others", None),
    "Lambda": ("it is made of code, which no recipe can hold", "write views of your own as a plugin"),
    "LinearTransformation": ("it takes tensors, which no recipe can hold", None),
    "Normalize": ("mean and standard deviation belong to the encoder", "leave it out: encoders apply their own"),
    "UniformTemporalSubsample": ("it is for videos", None),
    **dict.fromkeys(("ConvertBoundingBoxFormat", "ClampBoundingBoxes", "ClampKeyPoints", "SetClampingMode"), _BOXES),
    **dict.fromkeys(("SanitizeBoundingBoxes", "SanitizeKeyPoints", "RandomIoUCrop"), _BOXES),
    **dict.fromkeys(("CutMix", "MixUp"), _BATCH),
    **dict.fromkeys(("FiveCrop", "TenCrop"), _SEVERAL),
    **dict.fromkeys(("ToTensor", "PILToTensor", "ToPILImage", "ToImage", "ToPureTensor"), _FORM),
}
"""Transforms that no view can be made by: why, and what to do instead."""

_DTYPES = ("uint8", "float32")
_HIDDEN = ("inplace",)  # images are never written into
_NESTED = "transforms"


def names() -> tuple[str, ...]:
    """The transforms that a recipe may name, sorted."""
    classes = {name: value for name, value in vars(v2).items() if inspect.isclass(value)}
    found = (name for name, value in classes.items() if issubclass(value, v2.Transform) and name not in REFUSED)
    return tuple(sorted(found))


def problems(tables: Sequence[Mapping[str, object]]) -> Iterator[tuple[tuple[str | int, ...], ParameterProblem]]:
    """All that is wrong with a list of transforms, each with the way to the table where it stands."""
    for index, table in enumerate(tables):
        for path, problem in _problems(table):
            yield (index, *path), problem


def make(table: Mapping[str, Any]) -> Any:
    """The transform of a table in which nothing is wrong."""
    cls = getattr(v2, table["name"])
    hints = _hints(cls)
    return cls(**{key: _made(value, hints.get(key)) for key, value in table.items() if key != "name"})


def _problems(table: Mapping[str, object]) -> Iterator[tuple[tuple[str | int, ...], ParameterProblem]]:
    name = table.get("name")
    if not isinstance(name, str) or name not in names():
        yield (), _no_such(name)
        return
    known, what = _parameters(getattr(v2, name)), f"transform '{name}'"
    found: list[tuple[tuple[str | int, ...], ParameterProblem]] = []
    for key, value in table.items():
        if key == "name":
            continue
        if key not in known:
            found.append(((), unknown(what, key, known, {})))
        elif not _fits(value, known[key].annotation):
            found.append(((), wrong(what, known[key], value)))
        elif key == _NESTED and isinstance(value, list):
            found += [((key, *path), problem) for path, problem in problems(value)]
    found += [((), missing(what, p)) for p in known.values() if p.required and p.name not in table]
    yield from found
    if not found:
        try:
            make(table)
        except Exception as error:  # of whatever type the library chose
            yield (), ParameterProblem("name", f"{what} of {LIBRARY} refuses these values: {error}")


def _no_such(name: object) -> ParameterProblem:
    if name is None:
        return ParameterProblem("name", "this transform has no name", f'add name = "...", of {LIBRARY}')
    if isinstance(name, str) and name in REFUSED:
        reason, repair = REFUSED[name]
        return ParameterProblem("name", f"transform '{name}' of {LIBRARY} cannot be used: {reason}", repair)
    help = suggest(str(name), names()) or f"there are {', '.join(names())}"
    return ParameterProblem("name", f"{LIBRARY} has no transform {show(name)}", help)


@functools.cache
def _parameters(cls: Any) -> Mapping[str, Parameter]:
    """What its constructor takes of plain values."""
    hints, found = _hints(cls), {}
    for name, parameter in inspect.signature(cls).parameters.items():
        default = parameter.default.value if isinstance(parameter.default, Enum) else parameter.default
        default = REQUIRED if default is parameter.empty else default
        try:
            annotation = _plain(hints.get(name, type(parameter.default)), nested=name == _NESTED)
        except NotPlain:
            continue
        if name not in _HIDDEN:
            found[name] = Parameter(name, annotation, default, "")
    return found


def _hints(cls: Any) -> dict[str, Any]:
    return get_type_hints(cls.__init__)


def _plain(annotation: Any, nested: bool = False) -> Any:
    """What a recipe may say for this annotation of the library.

    Raises:
        NotPlain: where that is nothing.
    """
    if nested:
        return list[dict[str, object]]
    origin, arguments = get_origin(annotation), get_args(annotation)
    if origin in (Union, types.UnionType):
        chosen = [part for part in arguments if _is_choice(part)]
        kept = [part for part in arguments if not chosen or part in (*chosen, type(None))]
        parts = [plain for part in kept for plain in _plain_or_none(part)]
        if not any(part is not type(None) for part in parts):
            raise NotPlain(annotation)
        return functools.reduce(operator.or_, parts)
    if annotation is torch.dtype:
        return Literal[_DTYPES]
    if _is_choice(annotation):
        return Literal[tuple(member.value for member in annotation)]
    if annotation is numbers.Number:
        return float
    if annotation is Sequence or origin is Sequence or origin is list:
        return list[_plain(arguments[0]) if arguments else float]  # type: ignore[misc]
    if origin in (tuple, Literal) or annotation in (int, float, bool, str, type(None)):
        return annotation
    raise NotPlain(annotation)


def _plain_or_none(annotation: Any) -> list[Any]:
    try:
        return [_plain(annotation)]
    except NotPlain:
        return []


def _is_choice(annotation: Any) -> bool:
    return inspect.isclass(annotation) and issubclass(annotation, Enum)


def _fits(value: object, annotation: Any) -> bool:
    from pydantic import ConfigDict, TypeAdapter, ValidationError

    config = ConfigDict(strict=True, allow_inf_nan=False)
    try:
        TypeAdapter(checked_type(annotation), config=config).validate_python(value)
    except ValidationError:
        return False
    return True


def _made(value: Any, annotation: Any) -> Any:
    """What the library takes for a plain value."""
    if isinstance(value, list) and any(isinstance(part, dict) for part in value):
        return [make(part) for part in value]
    if isinstance(value, str):
        parts = get_args(annotation) or (annotation,)
        if torch.dtype in parts:
            return getattr(torch, value)
        choice = next((part for part in parts if _is_choice(part)), None)
        return value if choice is None else choice(value)
    return value
