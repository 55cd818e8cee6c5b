"""Keys of recipes that have a new name. Who still writes the old one is told; a recipe that a run stored is upgraded.

Only built-in components are meant: what a key of a third party's component is called is that party's business.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from metriclab.registry.kinds import BUILTIN, KINDS
from metriclab.registry.toml import toml_key, toml_value

SCHEMA = 2
"""The version of recipes, which a run stores: one more with every entry of the tables below. Version 1 stored none."""

_EMBEDDING_DIM = {"width": "embedding_dim"}

RENAMED: dict[tuple[str, str], dict[str, str]] = {
    ("head", "linear"): _EMBEDDING_DIM,
    ("head", "mlp"): _EMBEDDING_DIM,
    ("encoder", "timm"): {"train": "trainable"},
}
"""By kind and name of a component: its old keys, and what they are called now."""

REPLACED: dict[tuple[str, str, str], dict[str, Any]] = {
    ("encoder", "train", "head"): {"trainable": "none", "frozen_mode": "train"},
}
"""Values of old keys, by kind, key and value, that more than one key says now."""

ADDED: dict[tuple[str, str], dict[str, Any]] = {
    ("encoder", "timm"): {"frozen_mode": "eval"},
}
"""By kind and name of a component: keys that a stored recipe may be too old to have, and what was done without them."""


def renamed_help(kind: str, name: str, key: str, value: object) -> str | None:
    """What an old key is called now, or None for what was never a key."""
    new = _renamed(kind, name, key, value)
    if new is None:
        return None
    if len(new) == 1:
        return f"it is called '{next(iter(new))}' now"
    return f"write {' and '.join(f'{toml_key(key)} = {toml_value(value)}' for key, value in new.items())} now"


def is_stored(path: Path) -> bool:
    """Whether a file is the complete recipe that a run has left in its folder."""
    return path.name == "recipe.toml" and path.with_name("manifest.json").is_file()


def upgrade(tables: Mapping[str, Any]) -> dict[str, Any]:
    """The tables of a stored recipe, with today's keys in place of old ones. Today's recipe stays as it is."""
    kinds = {kind.table: kind.name for kind in KINDS.values()}
    return {
        table: _upgraded(kinds[table], values) if table in kinds and isinstance(values, Mapping) else values
        for table, values in tables.items()
    }


def _upgraded(kind: str, values: Mapping[str, Any]) -> dict[str, Any]:
    upgraded: dict[str, Any] = {}
    for key, value in values.items():
        upgraded |= _renamed(kind, values.get("name"), key, value) or {key: value}
    added = ADDED.get((kind, str(values.get("name")).removeprefix(f"{BUILTIN}:")), {})
    return {**upgraded, **{key: value for key, value in added.items() if key not in upgraded}}


def _renamed(kind: str, name: object, key: str, value: object) -> dict[str, Any] | None:
    own_keys = RENAMED.get((kind, str(name).removeprefix(f"{BUILTIN}:")), {})
    if key not in own_keys:
        return None
    replaced = REPLACED.get((kind, key, value)) if isinstance(value, str) else None
    return replaced or {own_keys[key]: value}
