"""Annotations of metriclab executed, each once: types by beartype, and names in shapes agree within a call.

jaxtyping's own wrapper binds the arguments of each call once more and has them checked twice, also where there are no
shapes, as in most functions: reading a recipe calls thousands of them.
"""

from __future__ import annotations

import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from types import FunctionType
from typing import Any, get_args, get_type_hints

import jaxtyping

_of_jaxtyping = jaxtyping.jaxtyped


def install() -> None:
    """Checks every function and dataclass of metriclab that is imported from now on."""
    jaxtyping.jaxtyped = _checked  # what the hook decorates with
    jaxtyping.install_import_hook("metriclab", "beartype.beartype")


def _checked(target: Any = None, *, typechecker: Callable[[Any], Any]) -> Any:
    if target is None:
        return functools.partial(_checked, typechecker=typechecker)
    if isinstance(target, type):
        if dataclasses.is_dataclass(target) and "__init__" in vars(target):
            target.__init__ = _checked(target.__init__, typechecker=typechecker)
        return target
    hints = {name: _resolved(hint, target.__globals__) for name, hint in target.__annotations__.items()}
    shapes = [shape for hint in hints.values() for shape in _shapes(hint)]
    if inspect.isgeneratorfunction(target) or any("{" in shape for shape in shapes):  # of an argument's value
        return _of_jaxtyping(target, typechecker=typechecker)
    if not hints:
        return target
    typed = typechecker(_copy(target, hints))
    return functools.update_wrapper(_with_shapes(typed) if shapes else typed, target)


def _copy(function: FunctionType, hints: dict[str, Any]) -> FunctionType:
    """The function, annotated with the types themselves instead of their text."""
    names = function.__globals__, function.__name__, function.__defaults__, function.__closure__
    copy = FunctionType(function.__code__, *names)
    copy.__kwdefaults__, copy.__annotations__ = function.__kwdefaults__, hints
    copy.__module__, copy.__qualname__ = function.__module__, function.__qualname__
    return copy


def _with_shapes(typed: Callable[..., Any]) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        with _of_jaxtyping("context"):
            return typed(*args, **kwargs)

    return call


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """The type itself; Any for one that is not there while its module is imported, as for jaxtyping."""

    def probe() -> None: ...

    probe.__annotations__ = {"hint": hint}
    try:
        return get_type_hints(probe, names, include_extras=True)["hint"]
    except Exception:
        return Any


def _shapes(hint: Any) -> Iterator[str]:
    if isinstance(hint, type) and issubclass(hint, jaxtyping.AbstractArray):
        yield hint.dim_str
    for part in hint if isinstance(hint, list) else get_args(hint):  # a list: the parameters of a Callable
        yield from _shapes(part)
