"""What a trained encoder costs: parameters, operations, speed and memory, beside how good it is."""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Callable
from typing import Any, TypeVar

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from metriclab import distributed
from metriclab.assembly.assemble import Training
from metriclab.errors import MetriclabError
from metriclab.evaluation.embed import Encode, embedding_settings

T = TypeVar("T")


def measured_beside(missing: dict[str, str], name: str, measure: Callable[[], T]) -> T | None:
    """What is measured beside a run. Where that fails on any rank, it is missing, and the run keeps its result.

    Args:
        missing: where the reason goes, under the name.
        name: of what is measured.
        measure: measures it. Ranks may meet in it; one that fails alone is waited for by none.
    """
    value, reasons = distributed.act_together(measure, _in_words)
    if failed := list(filter(None, reasons)):
        missing[name] = failed[0]
    return value


def _in_words(error: Exception) -> str:
    text = error.message if isinstance(error, MetriclabError) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())


def cost_of(
    training: Training, seconds: float, peaks: Peaks | None, flops: int | None, embedded_per_second: float | None
) -> dict[str, Any]:
    """The costs of a run, None where there is nothing to measure.

    Args:
        training: the run.
        seconds: spent in training steps.
        peaks: of the memory, when training was over.
        flops: of `flops_per_image`.
        embedded_per_second: images, from reading them to their embeddings, over all ranks.
    """
    images = images_seen(training)
    return {
        "train_seconds": seconds,
        "images_per_second": images / seconds if seconds > 0 else None,
        "peak_memory_mb": peaks and peaks.process,
        "peak_gpu_memory_mb": peaks and peaks.gpu,
        "parameters": sum(parameter.numel() for parameter in training.method.parameters()),
        "flops_per_image": flops,
        "embedded_per_second": embedded_per_second,
    }


def images_seen(training: Training) -> int:
    """How many images the run was trained on, repeats counted."""
    return training.steps * (training.sampler.batch_size if training.sampler else 0)


def flops_per_image(encode: Encode, training: Training) -> int:
    """Floating-point operations that embed one image of the test view, a multiplication and an addition being two.

    They are those of matrix products, convolutions and attention, as torch counts them; others are left out.
    """
    settings = embedding_settings(training)
    image = settings.views.test(training.data.images(np.arange(1)).to(settings.device))
    trained = [parameter for parameter in training.method.parameters() if parameter.requires_grad]
    # torch's counter fails where a parameter that needs a gradient enters a layer as its input (attention pooling).
    for parameter in trained:
        parameter.requires_grad_(False)
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            encode(image)
    finally:
        for parameter in trained:
            parameter.requires_grad_(True)
    return int(counter.get_total_flops())


class Stopwatch:
    """Seconds that a `with` took, with all that it left to a GPU."""

    def __init__(self, device: torch.device) -> None:
        self.device, self.seconds = device, 0.0

    def __enter__(self) -> Stopwatch:
        self._wait()
        self._start = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self._wait()
        self.seconds = time.perf_counter() - self._start

    def _wait(self) -> None:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)


class Peaks:
    """Peak memory so far in MB: resident memory of this process, and what torch allocated on its GPU, if it has one."""

    def __init__(self, device: torch.device) -> None:
        unit = 2**20 if sys.platform == "darwin" else 2**10
        self.process = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit
        self.gpu = torch.cuda.max_memory_allocated(device) / 2**20 if device.type == "cuda" else None
