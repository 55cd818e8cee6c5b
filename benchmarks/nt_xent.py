"""NT-Xent, forward and backward, beside lightly's NTXentLoss: time and extra memory, both sides measured in one run.

    pip install '.[bench]'
    python benchmarks/nt_xent.py

Each measurement runs in a process of its own. Extra memory is the largest resident size of the process less what it
was before the first call, with the embeddings in place. The two sides take turns, and the median is printed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

from measuring import peak_mb

WIDTH, TEMPERATURE = 128, 0.1


def step_of(side: str):
    """A function of two views' embeddings that computes the loss and its gradient."""
    if side == "lightly":
        from lightly.loss import NTXentLoss

        theirs = NTXentLoss(temperature=TEMPERATURE)
        return lambda first, second: theirs(first, second)

    import torch

    from metriclab.api import build, rows

    ours = build("loss", "nt-xent", temperature=TEMPERATURE)

    def loss(first, second):
        labels = torch.arange(len(first)).repeat(2)
        batch = rows(torch.cat([first, second]), labels)
        return ours(batch, batch)

    return loss


def measure(side: str, rows: int, repeats: int) -> dict[str, float]:
    """Seconds of the median call, extra memory in MB, and the value of the loss."""
    import torch

    torch.manual_seed(0)
    first, second = (torch.randn(rows // 2, WIDTH, requires_grad=True) for _ in range(2))
    loss, small = step_of(side), [view[:8].detach().requires_grad_() for view in (first, second)]
    loss(*small).backward()  # loads what is loaded at first use: threads, kernels
    before, seconds = peak_mb(), []
    for _ in range(repeats):
        first.grad = second.grad = None
        start = time.perf_counter()
        value = loss(first, second)
        value.backward()
        seconds.append(time.perf_counter() - start)
    return {"seconds": statistics.median(seconds), "extra_mb": peak_mb() - before, "loss": float(value.detach())}


def in_process(side: str, rows: int, repeats: int) -> dict[str, float]:
    """`measure` in a new process."""
    command = [sys.executable, __file__, "--side", side, "--rows", str(rows), "--repeats", str(repeats)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    return json.loads(done.stdout.splitlines()[-1])


def compare(rows: int, rounds: int, repeats: int) -> None:
    """Both sides in turns, their medians and ratios."""
    found = {side: [] for side in ("metriclab", "lightly")}
    for _ in range(rounds):
        for side, results in found.items():
            results.append(in_process(side, rows, repeats))
    median = {
        side: {key: statistics.median(result[key] for result in results) for key in results[0]}
        for side, results in found.items()
    }
    print(f"NT-Xent, forward and backward, {rows} x {WIDTH}, float32, t = {TEMPERATURE}, {os.cpu_count()} processors")
    for side, values in median.items():
        print(f"{side:>10} {values['seconds']:8.3f} s {values['extra_mb']:8.0f} MB extra   loss {values['loss']:.5f}")
    ours, theirs = median["metriclab"], median["lightly"]
    print(f"{'ratio':>10} {theirs['seconds'] / ours['seconds']:8.1f}   {theirs['extra_mb'] / ours['extra_mb']:8.1f}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=8192)
    parser.add_argument("--large", type=int, default=65536, help="rows for metriclab alone; 0 leaves it out")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--repeats", type=int, default=5, help="calls a process")
    parser.add_argument("--side", choices=("metriclab", "lightly"), help="measure one side in this process, as JSON")
    given = parser.parse_args()
    if given.side:
        print(json.dumps(measure(given.side, given.rows, given.repeats)))
        return
    compare(given.rows, given.rounds, given.repeats)
    if given.large:
        alone = in_process("metriclab", given.large, 1)
        print(f"metriclab alone, {given.large} rows: {alone['seconds']:.1f} s, {alone['extra_mb']:.0f} MB extra")


if __name__ == "__main__":
    main()
