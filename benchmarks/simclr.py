"""SimCLR from the images to the step: metriclab's loop, lightly's, and the encoder alone, images a second.

    pip install '.[bench]'
    python benchmarks/simclr.py

Fashion-MNIST at 32 pixels in batches of 256, with the paper's augmentations but for the blur, as lightly's
documentation leaves it out for small images. Both loops have the same timm encoder with a head of the same widths, the
same optimizer and the same temperature. lightly is measured twice: on grey images, which cost it less than what its
documentation does, and on their RGB copies. "encoder alone" is the encoder's forward and backward pass over two views
that are there already, as metriclab runs it: no views, head, loss or optimizer. Each measurement is made in a process
of its own, the sides in turns; medians, smallest and largest. Memory is the peak of the process and its workers.
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import lightly_loop
import torch
from measuring import in_process, print_floor, rate, table

RECIPE = Path(__file__).with_name("simclr-fashion-mnist.toml")
VIEWS = ("views.name=simclr", "views.size=32", "views.blur=0.0")  # by a name the table starts anew
SIDES = ("metriclab", "lightly", "lightly, RGB", "encoder alone")


def sides(model: str, batch: int, workers: int, overrides: list[str]) -> dict:
    """Every side as a function that gives the number of images after each step."""
    from metriclab.api import RandomKeys
    from metriclab.assembly.assemble import assemble
    from metriclab.recipe import read_recipe
    from metriclab.training.fit import fit

    settings = [*VIEWS, f"encoder.model={model}", f"sampler.batch_size={batch}", *overrides]
    recipe = read_recipe(RECIPE, settings)
    data = recipe.components["dataset"].build("train")

    def metriclab() -> Iterator[int]:
        training = replace(assemble(recipe, data), steps=10**6)
        return (len(step.batch) for step in fit(training))

    def lightly(mode: str) -> Iterator[int]:
        built = lightly_loop.build(recipe)
        return lightly_loop.train(*built, recipe, data, workers=workers, mode=mode)

    def encoder_alone() -> Iterator[int]:
        training = assemble(recipe, data)
        encoder = training.method.get_submodule("network").encoder
        items = torch.arange(batch)
        views = training.views(data.images(items.numpy()), RandomKeys(0, 0, items, torch.zeros_like(items)))
        both = torch.cat(views).contiguous(memory_format=torch.channels_last)
        while True:
            encoder(both).sum().backward()
            encoder.zero_grad()
            yield batch

    return {
        "metriclab": metriclab,
        "lightly": lambda: lightly("L"),
        "lightly, RGB": lambda: lightly("RGB"),
        "encoder alone": encoder_alone,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", default=["test_convnext", "resnet18"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--steps", type=int, default=16, help="measured steps")
    parser.add_argument("--warm-up", type=int, default=6, help="steps before those that are measured")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of lightly's DataLoader")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="of the recipe, for all sides")
    parser.add_argument("--one", nargs=2, metavar=("SIDE", "MODEL"), help="images a second of one side, as JSON")
    given = parser.parse_args()
    if given.one:
        side, model = given.one
        steps = sides(model, given.batch, given.workers, given.set)[side]()
        print(json.dumps(rate(steps, given.warm_up, given.steps)))
        return
    print_floor()
    options = ["--batch", given.batch, "--steps", given.steps, "--warm-up", given.warm_up, "--workers", given.workers]
    options += [part for override in given.set for part in ("--set", override)]
    for model in given.models:
        measured = {side: [] for side in SIDES}
        for _ in range(given.rounds):
            for side, results in measured.items():
                results.append(in_process(__file__, "--one", side, model, *options))
        print(f"SimCLR with {model}, batch {given.batch}, {given.workers} workers, {given.rounds} rounds")
        table(measured, "metriclab")


if __name__ == "__main__":
    main()
