"""How names and numbers of a result are written for a reader."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Any

from metriclab.report.blocks import Cell, Number

_AT = re.compile(r"^(r|p|map|mrr)_at_(\w+)$")
_PREFIX = re.compile(r"^dim_(\d+)_(.+)$")
_NAMES = {
    "r_precision": "R-precision",
    "map": "mAP",
    "mrr": "MRR",
    "nmi": "NMI",
    "ami": "AMI",
    "f1": "F1",
    "pca": "PCA of pixels",
    "frozen": "frozen encoder",
    "frozen_pca": "frozen, PCA",
    "frozen_whitened": "frozen, whitened",
    "below_frozen": "below the frozen encoder",
    "jpeg": "JPEG",
    "train_seconds": "training",
    "images_per_second": "trained on",
    "peak_memory_mb": "peak memory",
    "peak_gpu_memory_mb": "peak GPU memory",
    "flops_per_image": "operations per image",
    "embedded_per_second": "embedding",
    "raw_pixels": "raw pixels",
}
_UNITS = {
    "train_seconds": "s",
    "images_per_second": "images/s",
    "peak_memory_mb": "MB",
    "peak_gpu_memory_mb": "MB",
    "flops_per_image": "FLOP",
    "embedded_per_second": "images/s",
}
_BASELINES = {
    "raw_pixels": "the pixels of the test view, averaged down to 32 x 32 where it is larger",
    "pca": "as many principal components of these pixels as the embedding has numbers",
    "untrained": "the same network before its first step",
    "frozen": "the features of the encoder as its weights were loaded",
    "frozen_pca": "as many principal components of these features as the head gives numbers",
    "frozen_whitened": "the same, each stretched to variance 1",
}
_PREFIXES = ((1e12, "T"), (1e9, "G"), (1e6, "M"))


def own_column(result: Mapping[str, Any]) -> str:
    """What the run's own network is called beside its baselines; a run of no steps measures a network as it is."""
    return "trained" if result["steps"] else "not trained"


def label(name: str) -> str:
    """map_at_r is MAP@R, and what has no better name is written with spaces."""
    if prefix := _PREFIX.match(name):
        return f"{label(prefix[2])}, {prefix[1]} dimensions"
    found = _AT.match(name)
    if found:
        kind, depth = found.groups()
        return f"{kind.upper()}@{depth.upper()}"
    return _NAMES.get(name, name.replace("_", " "))


def describe_baselines(names: Iterable[str]) -> str:
    """What these baselines are, in a sentence; nothing where there are none."""
    said = "; ".join(_BASELINES[name] for name in names if name in _BASELINES)
    return f"Baselines: {said}." if said else ""


def metric_label(metric: str) -> str:
    """Of "evaluator.metric" the metric, with the evaluator where that is not retrieval."""
    evaluator, _, name = metric.partition(".")
    return label(name or evaluator) if evaluator == "retrieval" or not name else f"{evaluator} {label(name)}"


def format_number(value: Any) -> Cell:
    """A metric: four digits after the point, whole counts without."""
    if not isinstance(value, int | float):
        return Cell("-")
    whole = abs(value) > 1 and value == int(value)
    return Cell(f"{value:,.0f}" if whole else f"{value:.4f}", float(value))


def format_cost(name: str, value: Any) -> Cell:
    """A cost with its unit."""
    if not isinstance(value, int | float):
        return Cell("-")
    unit = _UNITS.get(name, "")
    return Cell(f"{format_compact(float(value))} {unit}".strip(), float(value))


def format_compact(value: Number) -> str:
    """At most three digits that matter: 1,234,567 is 1.23 M."""
    for factor, prefix in _PREFIXES:
        if abs(value) >= factor:
            return f"{value / factor:.3g} {prefix}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"
