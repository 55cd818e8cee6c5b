"""`[train]`: how long, how precisely and on what a recipe trains, and the checks of that table."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Annotated, Any, Literal, get_type_hints

from annotated_types import Ge, Gt, Lt
from pydantic import BaseModel, ConfigDict

from metriclab.recipe.document import Document
from metriclab.recipe.problems import Problem, show
from metriclab.registry.marks import RunStep
from metriclab.registry.params import Parameter
from metriclab.registry.values import check_values

Count = Annotated[int, Ge(1)]


class Train(BaseModel):
    """The settings of the loop. Either `steps` or `epochs` is given."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )

    seed: Annotated[int, Ge(0)] = 0
    """Of everything random in the run."""

    steps: Annotated[int, Ge(0)] | None = None
    """Length of the training in steps; 0 measures without training."""

    epochs: Count | None = None
    """Length of the training in passes over the data."""

    output: Literal["h", "z"] = "h"
    """What is measured, and used after training: the encoder's features h, or what the head makes of them, z."""

    precision: Literal["float32", "bfloat16"] = "float32"
    """Of the encoder and the head; similarities and losses are always float32."""

    chunk: Count | None = None
    """Images embedded at a time in training; the gradient is that of the whole batch, in the memory of a chunk."""

    clip_gradient: Annotated[float, Gt(0)] | None = None
    """Largest norm of the gradient of all parameters together; not clipped by default."""

    ema: Annotated[float, Gt(0), Lt(1)] | None = None
    """Decay a step of a moving average of the network's weights, which is measured, saved and used in their place; in
    the first steps it is less, so that these are forgotten. No average by default."""

    learning_rate_scaling: Literal["none", "linear", "sqrt"] = "none"
    """Multiplies the learning rate by batch / 256 (linear) or by the square root of the batch (sqrt)."""

    evaluate_every: Annotated[Count | None, RunStep("val is measured at the end alone", "epochs", every=True)] = None
    """Epochs between evaluations on val; by default only at the end."""

    checkpoint_every: Annotated[Count | None, RunStep("only the end is saved", every=True)] = None
    """Steps between checkpoints; an epoch by default."""

    keep_checkpoints: bool = False
    """Keep all that resuming needs after the run's end too; by default the weights of the best step alone."""

    log_every: Annotated[Count, RunStep("only the last step is logged", every=True)] = 10
    """Steps between logged lines."""

    drift_images: Count | None = None
    """Images of val, spread over it, whose drift is logged: how far their z moved in 10, 100 and 1000 steps."""

    drift_every: Annotated[Count, RunStep("no drift is measured", every=True, beside="drift_images")] = 100
    """Steps between logged drifts; at 100 they cost two embeddings of the images in 100 steps."""

    channels_last: bool = True
    """Memory layout of images in which most convolutional encoders are faster."""

    compile: bool = False
    """torch.compile of the encoder: minutes at the start and for each new size of batch, and needs a C++ compiler."""

    device: Literal["auto", "cpu", "cuda", "mps"] = "auto"
    """Auto takes a GPU where there is one."""

    threads: Count | None = None
    """CPU threads; as many as PyTorch chooses by default."""

    synchronize_batch_norm: bool = True
    """BatchNorm statistics over the batches of all ranks instead of each rank's own."""

    deterministic: bool = False
    """Only deterministic algorithms, which may be slower."""

    select: str = "retrieval.map_at_r"
    """The evaluator.metric on val that chooses the best checkpoint; or "loss", the lowest loss on val."""

    evaluation_batch_size: Count = 512
    """Images embedded at a time."""

    baselines: bool = True
    """Measure what needs no training too: raw pixels, their principal components, the network before its first step."""


LOSS = "loss"
"""What chooses by the run's own loss on val."""

_ACCUMULATION = ("accumulate", "accumulate_grad_batches", "gradient_accumulation", "gradient_accumulation_steps")


def check_train(document: Document, evaluators: Sequence[str]) -> tuple[Train | None, list[Problem]]:
    """The settings of the loop, or None with all that is wrong with them, beside evaluators of these names."""
    values = document.values.get("train", {})
    if not isinstance(values, dict):
        help = "write [train] and below it the settings of the loop"
        return None, [document.value("train").problem("'train' is not a table", help)]
    problems = [*_values(document, values), *_length(document, values), *_selection(document, values, evaluators)]
    return (None, problems) if problems else (Train(**values), [])


def _values(document: Document, values: dict[str, Any]) -> Iterator[Problem]:
    for key in _ACCUMULATION:
        if key in values:
            reason = "gradients summed over small batches see only the negatives of each: that is another loss"
            help = "use a larger batch_size, or a method with a memory"
            yield document.key("train", key).problem(f"'{key}' is refused: {reason}", help)
    others = {key: value for key, value in values.items() if key not in _ACCUMULATION}
    for found in check_values("[train]", Train, parameters(), others)[1]:
        yield document.problem(found, "train")


def _length(document: Document, values: dict[str, Any]) -> Iterator[Problem]:
    if "steps" in values and "epochs" in values:
        help = "keep the one that is meant"
        yield document.key("train", "epochs").problem("steps and epochs are both given, and both say how long", help)
    elif "steps" not in values and "epochs" not in values:
        help = "add steps = ... or epochs = ... to [train]"
        yield document.key("train").problem("neither steps nor epochs says how long to train", help)


def _selection(document: Document, values: dict[str, Any], evaluators: Sequence[str]) -> Iterator[Problem]:
    """The best checkpoint is chosen by an evaluator that must be there, unless nothing is trained or measured."""
    select = values.get("select", Train.model_fields["select"].default)
    if not isinstance(select, str) or select == LOSS or values.get("steps") == 0 or not evaluators:
        return
    if not any(select.startswith(f"{name}.") for name in evaluators):
        place = document.value("train", "select") if "select" in values else document.key("evaluate")
        message = f"train.select = {show(select)} names an evaluator that the recipe does not have"
        yield place.problem(message, f"it has {', '.join(evaluators)}: set train.select to one of their metrics")


def parameters(model: type[BaseModel] = Train) -> list[Parameter]:
    """The keys of `[train]`, or of what another model describes."""
    hints = get_type_hints(model, include_extras=True)
    return [
        Parameter(name, hints[name], field.default, " ".join((field.description or "").split()))
        for name, field in model.model_fields.items()
    ]
