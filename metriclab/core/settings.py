"""What a component was told: its keyword-only parameters, as `print` shows them."""

from __future__ import annotations

import inspect
from collections.abc import Mapping
from typing import Any


def show_settings(component: Any) -> str:
    """The `extra_repr` of a module: `temperature=0.1`.

    Settings are attributes of the same names, as they are now; a component that keeps them in no such attributes calls
    `keep_settings` in its constructor.
    """
    kept = vars(component).get("settings")
    values = {name: getattr(component, name) for name in _names(component)} if kept is None else kept
    return ", ".join(f"{name}={value!r}" for name, value in values.items())


def repr_settings(component: Any) -> str:
    """The `__repr__` of a component that is no module: `Balanced(classes_per_batch=8, per_class=4, small='skip')`."""
    return f"{type(component).__name__}({show_settings(component)})"


def keep_settings(component: Any, values: Mapping[str, Any]) -> None:
    """Keeps what a constructor was told, as `component.settings`, to be shown: `keep_settings(self, locals())`."""
    component.settings = {name: values[name] for name in _names(component)}


def _names(component: Any) -> list[str]:
    parameters = inspect.signature(type(component)).parameters.values()
    return [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
