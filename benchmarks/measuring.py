"""What these benchmarks share: a side in a process of its own, its peak memory, medians and spread, and the floor."""

from __future__ import annotations

import json
import os
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

_BETWEEN_LOOKS = 0.25  # seconds: seldom enough to cost nothing, often enough for a peak that lasts a step


def in_process(script: str, *arguments: object, **environment: str) -> tuple[dict, float]:
    """The JSON that a script prints last, run with these arguments, and its peak memory in MB, workers included.

    Memory that processes share is counted once.
    """
    command = [sys.executable, script, *map(str, arguments)]
    variables = {**os.environ, "PYTHONWARNINGS": "ignore", **environment}
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=variables) as process:
        peak = 0.0
        while process.poll() is None:
            peak = max(peak, sum(map(_proportional_mb, _family(process.pid))))
            time.sleep(_BETWEEN_LOOKS)
        printed = process.stdout.read().splitlines()
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} failed")
    return json.loads(printed[-1]), peak


def _family(process: int) -> Iterator[int]:
    yield process
    try:
        for children in Path(f"/proc/{process}/task").glob("*/children"):
            for child in children.read_text().split():
                yield from _family(int(child))
    except OSError:  # it ended meanwhile
        return


def _proportional_mb(process: int) -> float:
    try:
        found = re.search(r"^Pss: +(\d+) kB", Path(f"/proc/{process}/smaps_rollup").read_text(), re.MULTILINE)
    except OSError:
        return 0.0
    return int(found[1]) / 1024 if found else 0.0


def peak_mb() -> float:
    """Largest resident size of this program; the one that getrusage gives remembers the program that started it."""
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) / 1024


def rate(batches: Iterator[int], warm_up: int, count: int) -> float:
    """Images a second over `count` batches after the first ones, which empty what loaders have prepared.

    Args:
        batches: gives the number of images of each batch when it is done.
    """
    for _ in range(warm_up):
        next(batches)
    start, images = time.perf_counter(), 0
    for _ in range(count):
        images += next(batches)
    return images / (time.perf_counter() - start)


def spread(values: list[float]) -> str:
    """Median, and smallest to largest."""
    return f"{statistics.median(values):8,.0f} ({min(values):,.0f} to {max(values):,.0f})"


def table(measured: dict[str, list[tuple[float, float]]], ours: str) -> None:
    """Prints a line a side: images a second, how many times those of `ours` are, and peak memory."""
    base = statistics.median(speed for speed, _ in measured[ours])
    for side, results in measured.items():
        speeds = [speed for speed, _ in results]
        memory = statistics.median(mb for _, mb in results)
        ratio = base / statistics.median(speeds)
        print(f"  {side:>26} {spread(speeds):>28} images/s  {ours} x {ratio:6.2f}  {memory:7,.0f} MB", flush=True)


def print_floor() -> None:
    """What this machine can do at all: products of matrices, and copies of memory, medians of some rounds."""
    import torch

    torch.manual_seed(0)
    square, large = torch.randn(1024, 1024), torch.randn(2**25)
    product, copy = torch.empty_like(square), torch.empty_like(large)
    work = {"product": lambda: torch.mm(square, square, out=product), "copy": lambda: copy.copy_(large)}
    seconds = {name: [] for name in work}
    for _ in range(12):
        for name, call in work.items():
            start = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - start)
    flops = [2 * 1024**3 / 1e9 / taken for taken in seconds["product"][2:]]
    bytes_ = [2 * large.nbytes / 1e9 / taken for taken in seconds["copy"][2:]]
    threads = torch.get_num_threads()
    print(f"floor, {threads} threads: {spread(flops)} GFLOP/s of float32 products, {spread(bytes_)} GB/s of copies")
