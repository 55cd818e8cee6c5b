"""One step against a cross-batch memory, forward and backward: metriclab, pytorch-metric-learning and dense PyTorch.

    python benchmarks/xbm_step.py

A batch of 64 rows of width 128 against memories of 4,096 and 65,536 rows, which get no gradient. All sides get the
same rows, in one process, and take turns; the median is printed. Extra memory is measured in a process
of its own a side. PML's CrossBatchMemory stores the batch in each call and holds it against the batch too.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time

import torch
from measuring import peak_mb
from torch.nn.functional import normalize

from metriclab.api import build, rows

BATCH, WIDTH, TEMPERATURE = 64, 128, 0.1


class Step:
    """A batch, a memory, and every side's loss over them."""

    def __init__(self, size: int) -> None:
        classes = size // 40  # so that an anchor has 40 positives
        torch.manual_seed(0)
        self.batch = torch.randn(BATCH, WIDTH, requires_grad=True)
        self.labels = torch.randint(0, classes, (BATCH,))
        self.memory = normalize(torch.randn(size, WIDTH))
        self.memory_labels = torch.randint(0, classes, (size,))
        self.memory_rows = rows(self.memory, self.memory_labels)

    def ours(self, name: str, **parameters):
        loss = build("loss", name, **parameters)
        return lambda: loss(rows(self.batch, self.labels), self.memory_rows)

    def pml(self, loss):
        from pytorch_metric_learning.losses import CrossBatchMemory

        memory = CrossBatchMemory(loss, WIDTH, memory_size=len(self.memory))
        memory.embedding_memory, memory.label_memory = self.memory.clone(), self.memory_labels.clone()
        memory.has_been_filled = True

        def call():
            memory.queue_idx = 0
            return memory(self.batch, self.labels)

        return call

    def dense_contrastive(self):
        similarity = normalize(self.batch) @ self.memory.T
        alike = self.labels[:, None] == self.memory_labels
        distance = (2 - 2 * similarity).clamp(min=1e-12).sqrt()
        pull = torch.where(alike, distance.square(), 0).sum() / alike.sum()
        push = torch.where(alike, 0, (1 - distance).clamp(min=0).square()).sum() / (~alike).sum()
        return pull + push

    def dense_contrastive_indexed(self):
        similarity = normalize(self.batch) @ self.memory.T
        alike = self.labels[:, None] == self.memory_labels
        distance = (2 - 2 * similarity).clamp(min=1e-12).sqrt()
        return distance[alike].square().mean() + (1 - distance[~alike]).clamp(min=0).square().mean()

    def sides(self, loss: str):
        from pytorch_metric_learning import losses

        if loss == "contrastive":
            return {
                "metriclab": self.ours("contrastive"),
                "PML": self.pml(losses.ContrastiveLoss()),
                "dense, where": self.dense_contrastive,
                "dense, index": self.dense_contrastive_indexed,
            }
        if loss == "triplet":
            return {
                "metriclab": self.ours("triplet", margin=0.05),
                "PML": self.pml(losses.TripletMarginLoss(margin=0.05)),
            }
        return {
            "metriclab": self.ours("nt-xent", temperature=TEMPERATURE),
            "PML": self.pml(losses.NTXentLoss(temperature=TEMPERATURE)),
            "PML SupCon": self.pml(losses.SupConLoss(temperature=TEMPERATURE)),
        }


def timed(step: Step, call) -> float:
    step.batch.grad = None
    start = time.perf_counter()
    call().backward()
    return time.perf_counter() - start


def extra_mb(loss: str, size: int, side: str) -> float:
    command = [sys.executable, __file__, "--one", loss, str(size), side]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env={**os.environ, "PYTHONWARNINGS": "ignore"}
    )
    return json.loads(done.stdout.splitlines()[-1])


def one(loss: str, size: int, side: str) -> None:
    """Prints the extra memory of one side."""
    small = Step(256).sides(loss)[side]
    small().backward()
    step = Step(size)
    call = step.sides(loss)[side]
    before = peak_mb()
    for _ in range(3):
        timed(step, call)
    print(json.dumps(peak_mb() - before))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--one", nargs=3, metavar=("LOSS", "SIZE", "SIDE"), help="extra memory of one side, as JSON")
    given = parser.parse_args()
    if given.one:
        loss, size, side = given.one
        one(loss, int(size), side)
        return
    print(f"batch {BATCH} x {WIDTH}, float32, {torch.get_num_threads()} threads; medians of {given.rounds} rounds")
    # PML's NTXentLoss fills ten gigabytes, which the sides after it feel, and at 65,536 rows asks for more.
    cases = (("contrastive", 65536, ()), ("triplet", 4096, ()), ("nt-xent", 4096, ("PML SupCon",)))
    for loss, size, left_out in (*cases, ("nt-xent", 4096, ("PML",)), ("nt-xent", 65536, ("PML",))):
        step = Step(size)
        sides = {name: call for name, call in step.sides(loss).items() if name not in left_out}
        seconds = {name: [] for name in sides}
        for call in sides.values():
            timed(step, call)
        for _ in range(given.rounds):
            for name, call in sides.items():
                seconds[name].append(timed(step, call))
        ours = statistics.median(seconds["metriclab"])
        for name, taken in seconds.items():
            median = statistics.median(taken)
            extra = extra_mb(loss, size, name)
            times = f"{median * 1e3:9.1f} ms  x {median / ours:6.2f}"
            print(f"{loss:>12} M = {size:>6} {name:>14} {times} {extra:8.0f} MB extra")


if __name__ == "__main__":
    main()
