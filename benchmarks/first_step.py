"""How long until a run has taken its first step: metriclab on a folder that is in its cache, and a bare script.

    python benchmarks/first_step.py

Both sides start a new process of Python. metriclab reads a recipe, finds the cache of 2,048 JPEGs and takes a step of
64 images at 128 pixels with `resnet18`; the script imports the packages that metriclab had loaded by then (but not
every module of them), makes the same network and takes a step on random numbers. Seconds from the start of the process
to the end of the step, the sides in turns; medians, smallest and largest.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECIPE = Path(__file__).parents[1] / "recipes" / "simclr-glyphs.toml"
BATCH, SIZE, MODEL = 64, 128, "resnet18"


def metriclab(folder: Path) -> list[str]:
    """A run up to its first step; the libraries that it had loaded."""
    from metriclab.recipe import read_recipe
    from metriclab.runs.folder import RunFolder
    from metriclab.training.experiment import experiment

    overrides = ["data.name=folder", f"data.root={folder / 'pictures'}", f"views.size={SIZE}"]
    overrides += [f"encoder.model={MODEL}", f"sampler.batch_size={BATCH}"]
    run = RunFolder(Path(tempfile.mkdtemp(dir=folder)) / "run")
    for progress in experiment(read_recipe(RECIPE, overrides), run, quiet=True):
        if progress.done == 1:
            break
    loaded = {name.partition(".")[0] for name in sys.modules if "." in name}
    return sorted(loaded - set(sys.stdlib_module_names) - {"metriclab", "__main__"})


def script(libraries: list[str]) -> None:
    """One step of the same network."""
    for name in libraries:
        importlib.import_module(name)
    import timm
    import torch

    model = timm.create_model(MODEL, num_classes=64).to(memory_format=torch.channels_last)
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    images = torch.rand(2 * BATCH, 3, SIZE, SIZE).contiguous(memory_format=torch.channels_last)
    model(images).square().mean().backward()
    optimizer.step()


def started(side: str, folder: Path, libraries: list[str]) -> tuple[float, list[str]]:
    """Seconds from the start of one side's process to the end of its step, and the libraries it had loaded."""
    command = [sys.executable, __file__, "--one", side, str(folder), json.dumps(libraries)]
    environment = {**os.environ, "PYTHONWARNINGS": "ignore", "METRICLAB_CACHE": str(folder / "cache")}
    start = time.time()
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    end, loaded = json.loads(done.stdout.splitlines()[-1])
    return end - start, loaded


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--pictures", type=int, default=2048, help="JPEGs to draw")
    parser.add_argument("--one", nargs=3, metavar=("SIDE", "FOLDER", "LIBRARIES"))
    given = parser.parse_args()
    if given.one:
        side, folder, libraries = given.one
        loaded = metriclab(Path(folder)) if side == "metriclab" else script(json.loads(libraries))
        print(json.dumps([time.time(), loaded]))
        return
    from measuring import print_floor
    from views import draw_pictures

    print_floor()
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        draw_pictures(folder / "pictures", given.pictures)
        _, libraries = started("metriclab", folder, [])  # fills the cache
        seconds = {side: [] for side in ("metriclab", "script")}
        for _ in range(given.rounds):
            for side, taken in seconds.items():
                taken.append(started(side, folder, libraries)[0])
    print(f"seconds to the end of the first step, {given.pictures:,} pictures, {given.rounds} rounds")
    for side, taken in seconds.items():
        print(f"  {side:>10} {statistics.median(taken):6.2f} s ({min(taken):.2f} to {max(taken):.2f})")
    later = statistics.median(taken[0] - taken[1] for taken in zip(*seconds.values(), strict=True))
    print(f"metriclab's comes {later:.2f} s later")


if __name__ == "__main__":
    main()
