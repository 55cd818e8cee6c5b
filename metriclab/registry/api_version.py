"""The version of `metriclab.api` that plugins are written for. Read from metadata: nothing is imported."""

from __future__ import annotations

import re

API_VERSION = 2
"""Raised when something in `metriclab.api` or in the protocol of a kind changes so that plugins have to follow."""

API_CHANGES: dict[int, str] = {
    2: "compare is all_pairs, mine= is miner=, Rows.width and Pairs.width are embedding_dim, Subject is "
    "EvaluatedEncoder, CellLoss is PointwisePairLoss, Draws is RandomKeys with repeats and stream, and memories and "
    "losses are given embedding_dim"
}
"""What each version from the second on changed, as its authors of plugins have to know it."""

GROUP = "metriclab.api"
"""The entry-point group by which a package says its version: `1 = "its_module"`."""


def declared_version(names: list[str]) -> int | None:
    """The version that a package declares, or None where it declares none.

    A package that declares none is tried: it may use nothing that has changed, and one that does mostly fails as it is
    imported, which `import_help` explains. To refuse it would lock out what works.

    Args:
        names: of its entry points in `GROUP`.

    Raises:
        ValueError: for anything but one whole number from 1.
    """
    if not names:
        return None
    if len(names) > 1 or not re.fullmatch("[1-9][0-9]{0,8}", names[0]):
        raise ValueError(f"[{GROUP}] holds one version, such as {API_VERSION}, not {', '.join(names)}")
    return int(names[0])


def mismatch(version: int | None) -> str | None:
    """Why a plugin written for that version cannot be used, or None."""
    if version is None or version == API_VERSION:
        return None
    reason = f"it is written for version {version} of {GROUP}, and this metriclab has version {API_VERSION}"
    changes = _changes(version)
    return f"{reason}, which changed this: {changes}" if changes else reason


def import_help(error: BaseException) -> str | None:
    """What helps where code imports from metriclab what is not there: it may be written for another version."""
    if not isinstance(error, ImportError) or (error.name or "").partition(".")[0] != "metriclab":
        return None
    return f"this metriclab has version {API_VERSION} of {GROUP}, which changed since version 1: {_changes(1)}"


def _changes(since: int) -> str:
    return "; ".join(f"version {number}: {text}" for number, text in sorted(API_CHANGES.items()) if number > since)
