"""Where a run computes, and how precisely."""

from __future__ import annotations

import os

import torch

from metriclab import distributed
from metriclab.core.allocator import keep_freed_memory
from metriclab.errors import RecipeError
from metriclab.recipe import Train


def choose_device(wanted: str) -> torch.device:
    """The device a recipe names; "auto" is this rank's GPU, else Apple's, else the CPU."""
    cuda = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    if wanted == "auto":
        if torch.cuda.is_available():
            return cuda
        # gloo moves no tensors of Apple's GPUs.
        return torch.device("mps" if torch.backends.mps.is_available() and distributed.world_size() == 1 else "cpu")
    there = {"cpu": True, "cuda": torch.cuda.is_available(), "mps": torch.backends.mps.is_available()}
    if not there[wanted]:
        message = f"train.device = '{wanted}', but torch finds no such device here"
        raise RecipeError(message, help='set train.device = "auto"')
    return cuda if wanted == "cuda" else torch.device(wanted)


def set_up_torch(settings: Train) -> None:
    """Memory, threads and determinism, for the whole process."""
    keep_freed_memory()
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    if settings.deterministic:
        os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        torch.use_deterministic_algorithms(True)


def precision(name: str, device: torch.device) -> torch.autocast:
    """Autocast to bfloat16 for the encoder where the recipe wants it; similarities and losses stay in float32."""
    return torch.autocast(device.type, torch.bfloat16, enabled=name == "bfloat16")
