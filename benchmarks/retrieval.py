"""Retrieval metrics of a whole data set, leave-one-out: metriclab and pytorch-metric-learning's AccuracyCalculator.

    python benchmarks/retrieval.py

Precision at 1, R-precision and MAP@R of 50,000 rows of 5,000 classes and of many rows of 10 classes, 128 wide; and of
metriclab also with all its other metrics, which depend on whole rankings. Rows are noise around the direction of their
class: little of it, as of an encoder that has learnt something, and nothing but noise. Each measurement is made in a
process of its own, the sides in turns; medians. The floor is the product of the rows with themselves alone, in float32.
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

SIDES = ("metriclab", "metriclab, all metrics", "PML", "floor")
CASES = ((50_000, 5_000, 1.0), (50_000, 5_000, 1000.0))
"""Rows, classes, noise."""
FEW_CLASSES = (10, 3.0)
WIDTH = 128


def embeddings(count: int, classes: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    torch.manual_seed(0)
    labels = torch.arange(count) % classes
    centres = normalize(torch.randn(classes, WIDTH))
    return normalize(centres[labels] + noise * torch.randn(count, WIDTH) / WIDTH**0.5), labels


def metriclab(z, labels, **options):
    from metriclab.api import build, rows

    evaluator, both = build("evaluator", "retrieval", k=(1,), **options), rows(z, labels)
    return lambda: {name: score.value for name, score in evaluator(both, both).items()}


def pml(z, labels):
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator

    wanted = ("precision_at_1", "r_precision", "mean_average_precision_at_r")
    calculator = AccuracyCalculator(include=wanted, k="max_bin_count")
    return lambda: calculator.get_accuracy(z, labels)


def floor(z, labels):
    tile = torch.empty(128, len(z))

    def product():
        for part in torch.split(z, 128):
            torch.mm(part, z.T, out=tile[: len(part)])

    return product


def one(side: str, count: int, classes: int, noise: float) -> None:
    """Prints the seconds and the extra memory of one side, and its metrics."""
    data = embeddings(count, classes, noise)
    sides = {
        "metriclab": lambda: metriclab(*data, whole_ranking=False),
        "metriclab, all metrics": lambda: metriclab(*data),
        "PML": lambda: pml(*data),
        "floor": lambda: floor(*data),
    }
    call = sides[side]()
    before = peak_mb()
    start = time.perf_counter()
    metrics = call()
    print(json.dumps([time.perf_counter() - start, peak_mb() - before, metrics]))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="of the numbers of rows and of the 5,000 classes")
    parser.add_argument(
        "--few-classes", type=int, default=30_000, metavar="ROWS", help="of 10 classes; for 60,000 PML needs 22 GB"
    )
    parser.add_argument("--one", nargs=4, metavar=("SIDE", "ROWS", "CLASSES", "NOISE"))
    given = parser.parse_args()
    if given.one:
        side, count, classes, noise = given.one
        one(side, int(count), int(classes), float(noise))
        return
    print(f"{torch.get_num_threads()} threads; medians of {given.rounds} rounds")
    for count, classes, noise in (*CASES, (given.few_classes, *FEW_CLASSES)):
        count, classes = int(count * given.scale), int(classes * given.scale) if classes > 10 else classes
        taken = {side: [] for side in SIDES}
        for _ in range(given.rounds):
            for side in SIDES:
                command = [sys.executable, __file__, "--one", side, str(count), str(classes), str(noise)]
                environment = {**os.environ, "PYTHONWARNINGS": "ignore"}
                done = subprocess.run(command, capture_output=True, text=True, env=environment)
                if done.returncode:
                    print(f"{side} failed: {done.stderr.splitlines()[-1:]}")
                else:
                    taken[side].append(json.loads(done.stdout.splitlines()[-1]))
        print(f"{count:,} rows, {classes:,} classes, noise {noise:g}")
        ours = statistics.median(seconds for seconds, _, _ in taken["metriclab"])
        for side, measured in taken.items():
            if not measured:
                continue
            seconds, memory = (statistics.median(one[i] for one in measured) for i in (0, 1))
            metrics = {name: round(value, 6) for name, value in (measured[0][2] or {}).items()}
            print(f"  {side:>24} {seconds:8.2f} s  x {seconds / ours:6.2f} {memory:8.0f} MB extra  {metrics}")


if __name__ == "__main__":
    main()
