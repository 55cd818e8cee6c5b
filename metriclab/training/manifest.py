"""The manifest of a run: what its numbers depend on besides the recipe."""

from __future__ import annotations

import os
import platform
import re
import sys
from collections.abc import Iterator
from importlib import metadata
from typing import Any

import torch

from metriclab import distributed
from metriclab.assembly.splits import Splits, benchmark
from metriclab.errors import DataError
from metriclab.recipe import Recipe
from metriclab.runs.folder import RunFolder

_FOLDERS = re.compile(r"""(^|[=,'"\[ ])[/~][^'"]*/""")
"""The folders of this machine on an absolute path: no part of what a run hands on."""


def manifest_of(recipe: Recipe, splits: Splits) -> dict[str, Any]:
    """Versions, plugins, hardware, threads, data, and what may be compared with this run."""
    chosen = [*recipe.components.values(), *recipe.evaluators, *recipe.trackers]
    return {
        **environment(),
        "plugins": {part.definition.entry.package: part.definition.entry.version for part in chosen},
        "data": splits.fingerprints(),
        "classes": splits.classes(),
        "benchmark": benchmark(recipe, splits),
    }


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
    names = ("torch", "torchvision", "timm", "numpy", "pillow", "matplotlib", "safetensors", "scikit-learn", "scipy")
    return {
        "python": platform.python_version(),
        "platform": platform.platform(),
        "processor": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "accelerator": torch.cuda.get_device_name() if torch.cuda.is_available() else None,
        "ranks": distributed.world_size(),
        "versions": {name: metadata.version(name) for name in names},
        "command": [_FOLDERS.sub(r"\1", word) for word in sys.argv[1:]],
    }
