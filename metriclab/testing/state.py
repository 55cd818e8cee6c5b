"""What a component keeps between calls besides parameters and buffers, which nobody saves."""

from __future__ import annotations

import functools
import itertools
import random
import types
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

_DEEPEST = 8


def assert_stateless(name: str, component: Any, call: Callable[[], Any], advice: str) -> None:
    """Asserts that the same call again leaves every number as it is; caches that the first one fills are no fault."""
    call()
    before = dict(_numbers(component, "", set()))
    call()
    after = dict(_numbers(component, "", set()))
    moved = [path for path, value in before.items() if after.get(path, value) != value]
    assert not moved, f"{name} keeps state between calls: {moved[0]!r} is another one after each: {advice}"


def _numbers(value: Any, path: str, seen: set[int]) -> Iterator[tuple[str, Any]]:
    """Every number in it by where it is: attributes, items, what functions hold; not parameters and buffers."""
    if isinstance(value, bool | int | float | str | np.number | itertools.count):
        yield path, repr(value)
        return
    if id(value) in seen or path.count(".") > _DEEPEST or isinstance(value, type | types.ModuleType | nn.Parameter):
        return
    seen.add(id(value))
    if isinstance(value, Tensor):
        yield path, repr(value.detach().cpu().tolist())
    elif isinstance(value, np.ndarray):
        yield path, value.tobytes()
    elif isinstance(value, np.random.Generator):
        yield path, repr(value.bit_generator.state)
    elif isinstance(value, random.Random):
        yield path, value.getstate()
    elif isinstance(value, torch.Generator):
        yield path, value.get_state().tolist()
    else:
        for key, inner in _inside(value):
            yield from _numbers(inner, f"{path}.{key}".lstrip("."), seen)


def _inside(value: Any) -> Iterator[tuple[str, Any]]:
    if isinstance(value, dict):
        yield from ((str(key), inner) for key, inner in value.items())
    elif isinstance(value, list | tuple):
        yield from ((str(place), inner) for place, inner in enumerate(value))
    elif isinstance(value, functools.partial):
        yield from (("func", value.func), ("args", value.args), ("keywords", value.keywords))
    elif isinstance(value, types.MethodType):
        yield "self", value.__self__
    elif isinstance(value, types.FunctionType):
        cells = zip(value.__code__.co_freevars, value.__closure__ or (), strict=False)
        yield from ((name, cell.cell_contents) for name, cell in cells if cell != types.CellType())
        yield from (("defaults", value.__defaults__ or ()), ("attributes", vars(value)))
    elif hasattr(value, "__dict__"):
        hidden = ("_buffers", "_parameters") if isinstance(value, nn.Module) else ()
        yield from ((key, inner) for key, inner in vars(value).items() if key not in hidden)
