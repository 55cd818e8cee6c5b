"""The manifest of a run: what its numbers depend on besides the recipe."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from importlib import import_module, metadata
from typing import Any

import torch

from metriclab import distributed
from metriclab.errors import DataError
from metriclab.recipe import Recipe
from metriclab.recipe.renamed import SCHEMA
from metriclab.runs.folder import RunFolder

_LIBRARIES = {
    **{name: name for name in ("torch", "torchvision", "timm", "numpy", "matplotlib", "safetensors", "scipy")},
    "pillow": "PIL",
    "scikit-learn": "sklearn",
}
"""Distributions that numbers depend on, and the modules they bring."""

_FOLDERS = re.compile(r"""(^|[=,'"\[ ])[/~][^'"]*/""")
"""The folders of this machine on an absolute path: no part of what a run hands on."""


def manifest_of(
    recipe: Recipe, *, data: Mapping[str, str], classes: list[int], benchmark: Mapping[str, Any]
) -> dict[str, Any]:
    """Versions, plugins, hardware, threads, data, and what may be compared with this run.

    Args:
        recipe: of the run.
        data: fingerprint of each split.
        classes: sorted training labels.
        benchmark: what runs must share to be compared.
    """
    return {
        **environment(),
        "recipe_schema": SCHEMA,
        "plugins": packages(recipe),
        "data": dict(data),
        "classes": classes,
        "benchmark": dict(benchmark),
    }


def packages(recipe: Recipe) -> dict[str, str]:
    """Versions of the packages that a recipe's components are from."""
    return {one.definition.entry.package: one.definition.entry.version for one in recipe.specs()}


def changes(folder: RunFolder, now: dict[str, Any]) -> Iterator[str]:
    """What changed since a run began and may change its last digits.

    Raises:
        DataError: where the data changed: that would be another run.
    """
    before = folder.manifest() if folder.manifest_file.exists() else now
    if before["data"] != now["data"]:
        raise DataError(
            f"the data have changed since {folder.path} was started",
            help="start a new run with --out, or put the data back",
        )
    for key in ("threads", "ranks", "processor", "accelerator", "python", "versions", "plugins"):
        if before.get(key) != now[key]:
            yield (
                f"{key} changed since the run began ({before.get(key)} to {now[key]}): "
                "the last digits may differ from those of a run that was never stopped"
            )


def environment() -> dict[str, Any]:
    """What the numbers of a run may depend on besides its recipe."""
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "ranks": distributed.world_size(),
        "versions": {name: _version(name, module) for name, module in _LIBRARIES.items()},
        "command": [_FOLDERS.sub(r"\1", word) for word in sys.argv[1:]],
    }


def _version(distribution: str, module: str) -> str | None:
    """Of an installed library, whoever distributes it (pillow-simd, conda); None where there is none."""
    try:
        return metadata.version(distribution)
    except metadata.PackageNotFoundError:
        pass
    try:
        return str(import_module(module).__version__)
    except (ImportError, AttributeError):
        return None
