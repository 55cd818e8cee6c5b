"""What runs of earlier versions measured and logged, by today's names."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

_NAMES = {"lone_queries": "queries_without_matches", "lone_anchors": "anchors_without_positives"}


def rename(key: str) -> str:
    """Today's name of a number that may be of an earlier version; a prefix like "val.retrieval." stays."""
    prefix, dot, name = key.rpartition(".")
    return f"{prefix}{dot}{_NAMES.get(name, name)}"


def upgrade(value: Any) -> Any:
    """A value read from a run folder's JSON, in which every key has its name of today."""
    if isinstance(value, Mapping):
        return {rename(key): upgrade(part) for key, part in value.items()}
    return value
