"""Recipes that runs of earlier versions left behind, by today's keys."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_TRAINABLE = {
    "all": {"trainable": "all", "frozen_mode": "eval"},
    "none": {"trainable": "none", "frozen_mode": "eval"},
    "head": {"trainable": "none", "frozen_mode": "train"},
}


def upgrade(tables: Mapping[str, Any]) -> dict[str, Any]:
    """A stored recipe's plain tables with the keys that were renamed since; those of today stay as they are."""
    upgraded = dict(tables)
    if isinstance(head := tables.get("head"), Mapping):
        upgraded["head"] = {"embedding_dim" if key == "width" else key: value for key, value in head.items()}
    if isinstance(encoder := tables.get("encoder"), Mapping) and encoder.get("train") in _TRAINABLE:
        kept = {key: value for key, value in encoder.items() if key != "train"}
        upgraded["encoder"] = {**kept, **_TRAINABLE[encoder["train"]]}
    return upgraded
