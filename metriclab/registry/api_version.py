"""The version of `metriclab.api` that plugins are written for. Read from metadata: nothing is imported."""

from __future__ import annotations

import re

API_VERSION = 1
"""Raised when something in `metriclab.api` or in the protocol of a kind changes so that plugins have to follow."""

API_CHANGES: dict[int, str] = {}
"""What each version from the second on changed, as its authors of plugins have to know it."""

UNDECLARED = 1
"""What a package is written for that does not say: it may be older than the way to say it."""

GROUP = "metriclab.api"
"""The entry-point group by which a package says its version: `1 = "its_module"`."""


def declared_version(names: list[str]) -> int:
    """The version that a package declares.

    Args:
        names: of its entry points in `GROUP`.

    Raises:
        ValueError: for anything but one whole number from 1.
    """
    if not names:
        return UNDECLARED
    if len(names) > 1 or not re.fullmatch("[1-9][0-9]{0,8}", names[0]):
        raise ValueError(f"[{GROUP}] holds one version, such as {API_VERSION}, not {', '.join(names)}")
    return int(names[0])


def mismatch(version: int) -> str | None:
    """Why a plugin written for that version cannot be used, or None."""
    if version == API_VERSION:
        return None
    reason = f"it is written for version {version} of {GROUP}, and this metriclab has version {API_VERSION}"
    changes = [f"version {number}: {text}" for number, text in sorted(API_CHANGES.items()) if number > version]
    return f"{reason}, which changed this: {'; '.join(changes)}" if changes else reason
