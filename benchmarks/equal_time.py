"""What a given time of training is worth: metriclab's loop and lightly's on Fashion-MNIST, each for as many seconds.

    pip install '.[bench]'
    python benchmarks/equal_time.py

Both follow one recipe of ours: the same timm encoder, head widths, loss and temperature, optimizer, augmentations and
batch, and a cosine over the time given. A clock starts before the first batch is asked for and ends the training.
Then the same evaluators measure the encoder's features of the same test view: weighted nearest neighbours and a linear
probe of the 10,000 test images against the training images. Raw pixels and the untrained encoder stand in the same
table. Each training runs in a process of its own, the sides in turns; mean and range over seeds.
"""

from __future__ import annotations

import argparse
import json
import math
import os
import statistics
import time
from dataclasses import replace
from pathlib import Path

import lightly_loop
from measuring import in_process, print_floor

RECIPE = Path(__file__).with_name("simclr-fashion-mnist.toml")
SIDES = ("metriclab", "lightly", "lightly, RGB")
NEIGHBOURS = (10, 200)


class Clock:
    """The time of one training, and the factor of the learning rate at each moment of it: a cosine with a warm-up."""

    def __init__(self, seconds: float, warm_up: float) -> None:
        self.seconds, self.warm_up = seconds, warm_up
        self.start = time.perf_counter()

    def passed(self) -> float:
        """Share of the time, 1 at its end."""
        return (time.perf_counter() - self.start) / self.seconds

    def factor(self, _step: int) -> float:
        now = min(1.0, self.passed())
        if now < self.warm_up:
            return max(now, 1e-3) / self.warm_up
        return (1 + math.cos(math.pi * (now - self.warm_up) / (1 - self.warm_up))) / 2


def ours(recipe, data, seconds: float):
    """A network trained by metriclab, and how many steps there was time for."""
    from metriclab.assembly.assemble import assemble
    from metriclab.evaluation.embed import evaluating
    from metriclab.training.fit import fit

    training, done = assemble(recipe, data), 0
    clock = Clock(seconds, warm_up_of(recipe))
    if seconds:
        for step in fit(replace(training, steps=10**9, schedule=clock.factor)):
            done = step.done
            if clock.passed() >= 1:
                break
    return evaluating(training.method).__enter__(), done


def theirs(recipe, data, seconds: float, workers: int, mode: str):
    """The same, trained by lightly's loop."""
    from metriclab.core.network import Embedded

    model, optimizer = lightly_loop.build(recipe)
    clock, done = Clock(seconds, warm_up_of(recipe)), 0
    for _ in lightly_loop.train(model, optimizer, recipe, data, workers=workers, mode=mode, schedule=clock.factor):
        done += 1
        if clock.passed() >= 1:
            break
    model.eval()

    def encode(images):
        h = model.features((images - 0.5) / 0.5)
        return Embedded(h, h)

    return encode, done


def warm_up_of(recipe) -> float:
    return recipe.components["schedule"].params.get("warmup", 0.0)


def one(side: str, recipe, seconds: float, workers: int, probe: float) -> dict[str, float]:
    """Trains one side and measures it."""
    from metriclab.api import build
    from metriclab.assembly.splits import load_splits
    from metriclab.evaluation.baselines import raw_pixels
    from metriclab.evaluation.embed import EmbeddingSettings, embed_splits
    from metriclab.evaluation.evaluate import run_evaluators, score_values

    splits = load_splits(recipe)
    if side == "raw pixels":
        encode, steps = raw_pixels, 0
    elif side.startswith("lightly"):
        encode, steps = theirs(recipe, splits.train, seconds, workers, "RGB" if side.endswith("RGB") else "L")
    else:
        encode, steps = ours(recipe, splits.train, 0 if side == "untrained" else seconds)
    evaluators = {f"knn {k}": build("evaluator", "knn", k=k) for k in NEIGHBOURS}
    evaluators["linear probe"] = build("evaluator", "linear-probe", labels=probe)
    import torch

    reading = EmbeddingSettings(recipe.components["views"].build(), torch.device("cpu"), 512)
    queries, gallery = embed_splits(encode, splits.test, splits.train, reading).rows("h")
    found = score_values(run_evaluators(evaluators, queries, gallery))
    return {"steps": steps, **{name: metrics["accuracy"] for name, metrics in found.items()}}


def print_table(found: dict[str, list[dict[str, float]]]) -> None:
    names = [name for name in found["metriclab"][0] if name != "steps"]
    print(f"{'':>14} {'steps':>8} " + " ".join(f"{name:>26}" for name in names))
    for side, results in found.items():
        cells = []
        for name in names:
            values = [result[name] for result in results]
            cells.append(f"{statistics.mean(values):.4f} ({min(values):.4f} to {max(values):.4f})")
        steps = statistics.median(result["steps"] for result in results)
        print(f"{side:>14} {steps:8,.0f} " + " ".join(f"{cell:>26}" for cell in cells))
    for side in [side for side in found if side != "metriclab"]:
        for name in names:
            low, high = (choose(r[name] for r in found[who]) for choose, who in ((min, "metriclab"), (max, side)))
            verdict = "above" if low > high else "NOT above"
            print(f"{name}: every seed of metriclab {verdict} every one of {side} ({low:.4f}, {high:.4f})")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=300.0, help="of each training")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=["metriclab", "lightly"])
    parser.add_argument("--recipe", type=Path, default=RECIPE, help="what all sides follow")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe, for all sides")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of lightly's DataLoader")
    parser.add_argument("--probe", type=float, default=1.0, help="share of the training images that the probe fits")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "SEED"), help="train and measure one side, as JSON")
    given = parser.parse_args()
    if given.one:
        from metriclab.recipe import read_recipe

        side, seed = given.one
        recipe = read_recipe(given.recipe, [*given.set, f"train.seed={seed}"])
        print(json.dumps(one(side, recipe, given.seconds, given.workers, given.probe)))
        return
    print_floor()
    options = ["--seconds", given.seconds, "--recipe", given.recipe, "--workers", given.workers, "--probe", given.probe]
    options += [part for override in given.set for part in ("--set", override)]
    found = {side: [] for side in (*given.sides, "untrained", "raw pixels")}
    for seed in range(given.seeds):
        for side, results in found.items():
            if side != "raw pixels" or seed == 0:
                results.append(in_process(__file__, "--one", side, seed, *options)[0])
    print(
        f"{given.seconds:g} s of training, {given.workers} workers, seeds 0 to {given.seeds - 1}, {given.recipe.name}"
    )
    print_table(found)


if __name__ == "__main__":
    main()
