"""What tells early that a run has gone wrong: divergence, collapse, and anchors that learn nothing."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from metriclab import distributed
from metriclab.core.protocols import Dataset
from metriclab.core.rows import count_positives
from metriclab.errors import DivergedError
from metriclab.runs.files import write_json
from metriclab.runs.folder import RunFolder
from metriclab.training.fit import StepResult
from metriclab.training.objective import rows_in

COLLAPSED = 0.01
MANY = 0.5


def health(world: Any) -> dict[str, Tensor]:
    """Numbers that show a run's health, from the first `Rows` among a method's outputs; none without one.

    `spread` is the root of the summed variances of the unit embeddings: 1 where they point everywhere, 0 where all
    are the same (collapse). `anchors_without_positives` is the share of such rows among all, `zero_rows` that of rows
    without a direction.
    """
    for rows in rows_in(world):
        return {
            "spread": (rows.z.square().sum(1).mean() - rows.z.mean(0).square().sum()).clamp(min=0).sqrt(),
            "anchors_without_positives": (count_positives(rows, rows) == 0).float().mean(),
            "zero_rows": (rows.z == 0).all(1).float().mean(),
        }
    return {}


def warnings_of(values: dict[str, float]) -> Iterator[tuple[str, str]]:
    """Names and texts of the warnings that logged values call for."""
    if values.get("spread", 1.0) < COLLAPSED:
        yield (
            "collapse",
            f"the embeddings have collapsed: their spread is {values['spread']:.4f} of at most 1; "
            "lower the learning rate, or look at the loss and its temperature",
        )
    if values.get("anchors_without_positives", 0.0) > MANY:
        yield (
            "anchors_without_positives",
            f"{values['anchors_without_positives']:.0%} of the anchors have no positive and teach nothing; "
            "use a larger batch, more views, or a sampler that draws several items of a class",
        )
    if values.get("zero_rows", 0.0) > 0:
        yield "zero_rows", f"{values['zero_rows']:.1%} of the embeddings are zero and get no gradient"


def stop_if_diverged(step: StepResult, data: Dataset, folder: RunFolder) -> None:
    """Stops a run whose loss or gradient is not finite, after writing down the batch that did it.

    Raises:
        DivergedError: on every rank alike.
    """
    loss, norm = float(distributed.mean(step.loss)), float(step.gradient_norm)
    if math.isfinite(loss) and math.isfinite(norm):
        return
    parts = distributed.gather_objects(step.batch.items.tolist())
    items = [item for part in parts for item in part]
    if distributed.rank() == 0:
        names = [data.names[item] for item in items]
        written = {"step": step.done, "loss": str(loss), "gradient_norm": str(norm), "items": items, "names": names}
        write_json(folder.diverged_file, written)
    what = "loss" if not math.isfinite(loss) else "gradient"
    raise DivergedError(
        f"the {what} of step {step.done} is not finite (loss {loss}, gradient norm {norm})",
        help=f"{folder.diverged_file} names the images of that step; lower optimizer.learning_rate, "
        "set train.clip_gradient, or raise loss.temperature",
    )


def logged(step: StepResult, method: nn.Module) -> dict[str, float]:
    """The values of a step as plain numbers, the same on every rank. Reads the device: only where it is shown."""
    told: list[dict[str, Tensor]] = [getattr(module, "logged_values", dict)() for module in method.modules()]
    tensors = {
        "loss": distributed.mean(step.loss),
        "gradient_norm": step.gradient_norm,
        **{name: value for values in told for name, value in values.items()},
        **health(step.world),
        **step.metrics,
    }
    numbers = torch.stack([value.float() for value in tensors.values()]).tolist()
    return {**dict(zip(tensors, numbers, strict=True)), "learning_rate": step.learning_rate}
