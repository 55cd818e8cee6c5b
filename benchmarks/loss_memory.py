"""Extra memory of every registered loss over pairs, forward and backward, on 4,096 rows against themselves.

    python benchmarks/loss_memory.py

Each loss runs in a process of its own, forked from this one, which has imported everything and computed nothing. Extra
memory is the largest resident size of that process less what it was before the call, after a call on few rows. The
similarities alone would take 67 MB.
"""

from __future__ import annotations

import multiprocessing

import torch

from metriclab.api import RecipeError, build, rows
from metriclab.registry import entries, load_component

ROWS, WIDTH, PER_CLASS = 4096, 128, 4


def resident_mb(key: str) -> float:
    """VmRSS, the resident size of this process now, or VmHWM, the largest so far."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(key)) / 1024


def extra_mb(name: str) -> float | None:
    """Of one loss, in this process; None for a loss that is not over pairs, or that needs parameters."""
    try:
        loss = build("loss", name)
    except RecipeError:
        return None
    if not getattr(loss, "pairwise", False):
        return None

    def call(n: int) -> None:
        z = torch.randn(n, WIDTH, requires_grad=True)
        batch = rows(z, torch.arange(n) // PER_CLASS)
        loss(batch, batch).backward()

    torch.manual_seed(0)
    call(64)
    before = resident_mb("VmRSS")
    call(ROWS)
    return resident_mb("VmHWM") - before


def measured() -> dict[str, float]:
    """All losses, by name."""
    names = sorted({entry.name for entry in entries("loss")})
    for name in names:
        load_component("loss", name)
    with multiprocessing.get_context("fork").Pool(1, maxtasksperchild=1) as pool:
        extra = pool.map(extra_mb, names, chunksize=1)
    return {name: mb for name, mb in zip(names, extra, strict=True) if mb is not None}


def main() -> None:
    for name, extra in measured().items():
        print(f"{name:>20} {extra:6.0f} MB", flush=True)


if __name__ == "__main__":
    main()
