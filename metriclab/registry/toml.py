"""Plain values written as TOML."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

_BARE_KEY = re.compile(r"[A-Za-z0-9_-]+")
_LONGEST = 60  # characters of a value in a message


def toml_value(value: Any) -> str:
    """A bool, int, float, str, or a list, tuple or dict of such, as TOML on one line.

    Raises:
        TypeError: for anything else; TOML has no null.
    """
    match value:
        case bool():
            return "true" if value else "false"
        case int():
            return str(value)
        case float():
            return _float(value)
        case str():
            return toml_string(value)
        case Mapping():
            pairs = (f"{toml_key(key)} = {toml_value(item)}" for key, item in value.items())
            return "{ " + ", ".join(pairs) + " }" if value else "{}"
        case Sequence():
            return "[" + ", ".join(map(toml_value, value)) + "]"
    raise TypeError(f"TOML has no {type(value).__name__}")


def show(value: Any) -> str:
    """A value as TOML writes it, or as Python does where TOML has none, cut to a readable length."""
    try:
        text = toml_value(value)
    except TypeError:
        text = str(value)
    return text if len(text) <= _LONGEST else f"{text[: _LONGEST - 3]}..."


def toml_key(key: str) -> str:
    """The key, quoted where TOML needs it."""
    return key if _BARE_KEY.fullmatch(key) else toml_string(key)


def toml_string(text: str) -> str:
    """The text in double quotes. JSON's escapes are TOML's, but for the delete character, which JSON leaves bare."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def _float(value: float) -> str:
    if not math.isfinite(value):
        return str(value)  # inf, -inf and nan are spelt alike in both
    text = repr(value)
    return text if any(mark in text for mark in ".e") else text + ".0"
