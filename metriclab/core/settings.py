"""What a component was told: its keyword-only parameters, which it keeps as attributes of the same names."""

from __future__ import annotations

import inspect

from torch import nn


def show_settings(component: nn.Module) -> str:
    """The `extra_repr` of a module whose settings are attributes: `temperature=0.1`, as `print` shows it."""
    parameters = inspect.signature(type(component)).parameters.values()
    names = [parameter.name for parameter in parameters if parameter.kind is parameter.KEYWORD_ONLY]
    return ", ".join(f"{name}={getattr(component, name)!r}" for name in names)
