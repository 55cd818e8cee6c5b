"""Seconds from labels to the first batch of `balanced`, and milliseconds of each further one, by the number of classes.

    python benchmarks/samplers.py [--classes 1000 10000 100000 1000000] [--items 10] [--repeats 5]

Labels lie in random order. All sizes take turns; medians are printed, with the smallest and the largest in brackets.
`start` is all that a run asks of its sampler before its first step: to be built, what an epoch draws, the first batch.
`next` is the mean over the next thousand batches, or those that the epoch has, and `epoch` over a whole one.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import time

import numpy as np

from metriclab.samplers import Balanced

NEXT = 1000


def measure(classes: int, items: int) -> dict[str, float]:
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(classes), items))
    begin = time.perf_counter()
    sampler = Balanced(labels, classes_per_batch=64, per_class=4)
    sampler.coverage(0)
    batches = sampler.epoch(0)
    next(batches)
    started = time.perf_counter()
    drawn = sum(1 for _ in itertools.islice(batches, NEXT))
    some = time.perf_counter()
    drawn_in_all = drawn + sum(1 for _ in batches)
    end = time.perf_counter()
    return {
        "start, s": started - begin,
        "next, ms": 1000 * (some - started) / max(1, drawn),
        "epoch, ms": 1000 * (end - started) / max(1, drawn_in_all),
    }


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):.2f} ({min(values):.2f} to {max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--classes", type=int, nargs="+", default=[1_000, 10_000, 100_000, 1_000_000])
    parser.add_argument("--items", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    found = {classes: [] for classes in options.classes}
    for _ in range(options.repeats):
        for classes in options.classes:
            found[classes].append(measure(classes, options.items))
    columns = list(found[options.classes[0]][0])
    print(f"| classes | {' | '.join(columns)} |\n| --- | {' | '.join('---' for _ in columns)} |")
    for classes, rounds in found.items():
        cells = [spread([one[column] for one in rounds]) for column in columns]
        print(f"| {classes:,} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
