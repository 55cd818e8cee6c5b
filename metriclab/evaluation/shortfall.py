"""Whether a fine-tune ends below the encoder that it started from, which then was better left as it was."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

BELOW_FROZEN = "below_frozen"
"""What a result calls that warning."""

FROZEN = {
    "frozen": "the frozen encoder",
    "frozen_pca": "its PCA",
    "frozen_whitened": "its whitened PCA",
}
"""The baselines that loaded weights give without a step of training."""


def better_frozen(result: Mapping[str, Any], metric: str) -> dict[str, float]:
    """Those of the frozen baselines with more of "evaluator.metric" than the run; none where nothing was loaded."""
    evaluator, _, name = metric.partition(".")
    value = result["metrics"].get(evaluator, {}).get(name)
    frozen = {column: result["baselines"].get(column, {}).get(evaluator, {}).get(name) for column in FROZEN}
    return {column: other for column, other in frozen.items() if None not in (value, other) and other > value}


def shortfall(result: Mapping[str, Any], metric: str) -> str | None:
    """A sentence on a run that ends below the encoder it started from; None for any other."""
    better = better_frozen(result, metric)
    if not better:
        return None
    evaluator, _, name = metric.partition(".")
    held = ", ".join(f"{FROZEN[column]} {value:.4f}" for column, value in better.items())
    return (
        f"this run ends below the encoder that it started from: {metric} is {result['metrics'][evaluator][name]:.4f}, "
        f"that of {held}"
    )
