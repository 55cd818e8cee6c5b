"""`[train]`: how long, how precisely and on what a recipe trains."""

from __future__ import annotations

from typing import Annotated, Literal

from annotated_types import Ge, Gt
from pydantic import BaseModel, ConfigDict

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

    learning_rate_scaling: Literal["none", "linear", "sqrt"] = "none"
    """Multiplies the learning rate by batch / 256 (linear) or by the square root of the batch (sqrt)."""

    evaluate_every: Count | None = None
    """Epochs between evaluations on val; by default only at the end."""

    checkpoint_every: Count | None = None
    """Steps between checkpoints; an epoch by default."""

    keep_checkpoints: bool = False
    """Keep all that resuming needs after the run's end too; by default the weights of the best step alone."""

    log_every: Count = 10
    """Steps between logged lines."""

    drift_images: Count | None = None
    """Images of val, spread over it, whose drift is logged: how far their z moved in 10, 100 and 1000 steps."""

    drift_every: Count = 100
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
    """The evaluator.metric on val that chooses the best checkpoint."""

    evaluation_batch_size: Count = 512
    """Images embedded at a time."""
