"""A batch that no single pass can hold: peak memory and images a second of a step, in one piece and in chunks.

    python benchmarks/chunked.py

SimCLR on Fashion-MNIST at 32 pixels with `resnet18`, whose BatchNorm takes its statistics from each chunk. Every
measurement is made in a process of its own: the peak of the whole process, its libraries and the data set included,
and the median of its steps. In one piece a batch is as large as memory allows: what 8,192 images would ask for is
extrapolated from the two largest of them.
"""

from __future__ import annotations

import argparse
import json
import statistics
import time
from dataclasses import replace
from pathlib import Path

from measuring import in_process, peak_mb

RECIPE = Path(__file__).with_name("simclr-fashion-mnist.toml")
MODEL = "resnet18"
CASES = ((512, None), (1024, None), (1024, 64), (8192, 64), (8192, 256))
"""Batch, and chunk."""


def one(batch: int, chunk: int | None, steps: int) -> dict[str, float]:
    """Images a second, and the peak in MB."""
    from metriclab.assembly.assemble import assemble
    from metriclab.recipe import read_recipe
    from metriclab.training.fit import fit

    overrides = [f"encoder.model={MODEL}", f"sampler.batch_size={batch}"]
    overrides += [f"train.chunk={chunk}"] if chunk else []
    recipe = read_recipe(RECIPE, overrides)
    training = assemble(recipe, recipe.components["dataset"].build("train"))
    seconds, start = [], time.perf_counter()
    for _ in fit(replace(training, steps=steps)):
        seconds.append(time.perf_counter() - start)
        start = time.perf_counter()
    return {"rate": batch / statistics.median(seconds), "mb": peak_mb()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=2)
    parser.add_argument("--one", nargs=2, type=int, metavar=("BATCH", "CHUNK"), help="a chunk of 0 is one piece")
    given = parser.parse_args()
    if given.one:
        batch, chunk = given.one
        print(json.dumps(one(batch, chunk or None, given.steps)))
        return
    print(f"{MODEL} at 32 pixels, {given.steps} steps")
    whole = {}
    for batch, chunk in CASES:
        found, _ = in_process(__file__, "--one", batch, chunk or 0, "--steps", given.steps)
        in_pieces = f"chunks of {chunk}" if chunk else "one piece"
        print(
            f"  {batch:5,} images in {in_pieces:13} {found['rate']:6,.0f} images/s {found['mb']:8,.0f} MB", flush=True
        )
        if not chunk:
            whole[batch] = found["mb"]
    (small, less), (large, more) = whole.items()
    largest = max(batch for batch, _ in CASES)
    expected = more + (more - less) * (largest - large) / (large - small)
    print(f"  {largest:5,} images in one piece would take about {expected:,.0f} MB")


if __name__ == "__main__":
    main()
