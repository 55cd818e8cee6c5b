"""Images from the disk to the step: decoding with and without the cache, and what does not grow.

    python benchmarks/data.py [--only decoding listing steps memory] [--images 2000] [--side 400] [--lines 5000000]
                              [--items 10000 100000 1000000 10000000] [--steps 200] [--repeats 5]

Four tables, each measured in processes of their own, all sides in one call and in turns; medians are printed, with the
smallest and the largest in brackets.

1. Images a second from a folder of JPEGs, in batches of 256 in random order: decoded whenever they are read, as data
   sets do that have no cache, the first pass that builds the cache, and out of the cache. PIL alone in as many threads
   is the floor.
2. Seconds, those of a processor, and memory of the process at its most in MB, to list a table of so many lines (path,
   label, split and group; no file is looked for), and the same for a table of 600, which is what imports cost.
3. Milliseconds a step on synthetic images, by the number of items in the data set; the encoder is tiny on purpose.
4. Memory of the process over a run, in MB: after a tenth of its steps, half of them, and at the end; without the pages
   of the cache's file, which the system may drop.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

BATCH, SIZE, VIEW = 256, 256, 64

RECIPE = """
[data]
{data}

[views]
name = "simclr"
size = {view}

[sampler]
name = "shuffled"
batch_size = {batch}

[encoder]
name = "timm"
model = "test_resnet"

[head]
name = "mlp"

[loss]
name = "nt-xent"

[method]
name = "simclr"

[optimizer]
name = "sgd"

[train]
steps = {steps}
"""


def recipe_file(folder: Path, data: str, steps: int, batch: int) -> Path:
    path = folder / f"{abs(hash((data, steps, batch)))}.toml"
    path.write_text(RECIPE.format(data=data, steps=steps, batch=batch, view=VIEW))
    return path


def of_folder(root: Path) -> str:
    return f'name = "folder"\nroot = "{root}"\nsize = {SIZE}'


def write_images(root: Path, count: int, side: int) -> None:
    """JPEGs with as much detail as photographs have: noise of several scales."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for number in range(count):
        path = root / f"class-{number % 10}" / f"{number}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        image = np.zeros((side, side, 3))
        for scale in (4, 16, 64, side):
            noise = generator.integers(0, 256, (scale, scale, 3), dtype=np.uint8)
            image += np.asarray(Image.fromarray(noise).resize((side, side), Image.Resampling.BICUBIC)) / 4
        Image.fromarray(image.astype(np.uint8)).save(path, quality=90)


def own_mb() -> float:
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("RssAnon")) / 1024


# What runs in a process of its own: each prints one line of JSON.


def decoding(root: str, side: str) -> float:
    """Images a second of one pass."""
    from concurrent.futures import ThreadPoolExecutor

    from PIL import Image

    from metriclab.images.files import ImageFiles

    paths = sorted(Path(root).rglob("*.jpg"))
    order = np.random.default_rng(0).permutation(len(paths))
    batches = np.array_split(order, max(1, len(paths) // BATCH))
    if side == "PIL":

        def load(item: int) -> np.ndarray:
            with Image.open(paths[item]) as image:
                return np.asarray(image.convert("RGB"))

        start = time.perf_counter()
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            for batch in batches:
                list(pool.map(load, batch.tolist()))
        return len(paths) / (time.perf_counter() - start)
    start = time.perf_counter()
    files = ImageFiles(paths, size=SIZE)
    if side != "building":
        start = time.perf_counter()
        for batch in batches:
            files.images(batch)
    return len(paths) / (time.perf_counter() - start)


def training(recipe: Path, count: int):
    """A run's steps, on images that repeat so that any number of items fits into memory."""
    from metriclab.assembly.assemble import assemble
    from metriclab.core.batch import Images
    from metriclab.recipe import read_recipe
    from metriclab.training.fit import fit

    class Repeated:
        classes, fingerprint, names = ("one", "two"), "0", ()
        labels = np.arange(count) % 2
        pixels = np.random.default_rng(0).integers(0, 256, (1024, 3, 32, 32), dtype=np.uint8)

        def images(self, items: np.ndarray, /) -> Images:
            return Images.padded(list(self.pixels[items % 1024]))

    return fit(assemble(read_recipe(recipe), Repeated()), 0)


def step_cost(recipe: str, count: str) -> dict[str, float]:
    start = time.perf_counter()
    steps, seconds = training(Path(recipe), int(count)), []
    next(steps)
    first = time.perf_counter() - start
    while True:
        start = time.perf_counter()
        if next(steps, None) is None:
            return {"first_s": first, "ms": 1000 * statistics.median(seconds)}
        seconds.append(time.perf_counter() - start)


def listing(table: str) -> dict[str, float]:
    import resource

    from metriclab.datasets.folder import Folder
    from metriclab.images.datasets import without_decoding

    start, processor = time.perf_counter(), time.process_time()
    with without_decoding():
        Folder("train", root=table)
    seconds, processor = time.perf_counter() - start, time.process_time() - processor
    return {"seconds": seconds, "processor": processor, "mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def memory(recipe: str) -> dict[str, float]:
    from metriclab.assembly.assemble import assemble
    from metriclab.assembly.splits import load_splits
    from metriclab.recipe import read_recipe
    from metriclab.training.fit import fit

    checked = read_recipe(Path(recipe))
    steps = checked.train.steps or 0
    when, held = {max(1, steps // 10): "at a tenth", steps // 2: "at half", steps: "at the end"}, {}
    for step in fit(assemble(checked, load_splits(checked).train), 0):
        if step.done in when:
            held[when[step.done]] = own_mb()
    return held


PARTS = {"decoding": decoding, "listing": listing, "step_cost": step_cost, "memory": memory}


def measured(part: str, *arguments: object, cache: Path, limit: str | None = None):
    environment = {**os.environ, "METRICLAB_CACHE": str(cache), "PYTHONWARNINGS": "ignore"}
    environment |= {"METRICLAB_CACHE_LIMIT": limit} if limit else {}
    command = [sys.executable, __file__, "--part", part, *map(str, arguments)]
    done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True, env=environment)
    return json.loads(done.stdout.splitlines()[-1])


def spread(values: list[float], digits: int = 0) -> str:
    return f"{statistics.median(values):,.{digits}f} ({min(values):,.{digits}f} to {max(values):,.{digits}f})"


def decoding_table(root: Path, work: Path, repeats: int) -> None:
    found: dict[str, list[float]] = {"PIL": [], "without a cache": [], "building": [], "cached": []}
    for repeat in range(repeats):
        caches = work / f"cache-{repeat}", work / f"none-{repeat}"
        for side, cache, limit in (
            ("PIL", caches[0], None),
            ("building", caches[0], None),
            ("cached", caches[0], None),
            ("without a cache", caches[1], "1kB"),
        ):
            found[side].append(measured("decoding", root, side, cache=cache, limit=limit))
    for side, values in found.items():
        print(
            f"  {side:16} {spread(values)} images/s, {statistics.median(values) / statistics.median(found['PIL']):.2f}x"
        )


def write_table(path: Path, lines: int) -> Path:
    """A class has fifty images of ten groups; the last tenth of the classes is test, and a tenth before it val."""
    classes = max(6, lines // 50)
    with path.open("w") as file:
        file.write("path,label,split,group\n")
        for line in range(lines):
            label = line % classes
            split = "train" if label < 0.8 * classes else "val" if label < 0.9 * classes else "test"
            file.write(f"images/{label:06}/{line:08}.jpg,class {label},{split},camera {line // classes % 10}\n")
    return path


def listing_table(work: Path, lines: int, repeats: int) -> None:
    tables = {count: write_table(work / f"{count}.csv", count) for count in (600, lines)}
    found: dict[int, list[dict[str, float]]] = {count: [] for count in tables}
    for _ in range(repeats):
        for count, table in tables.items():
            found[count].append(measured("listing", table, cache=work / "cache-0"))
    for count, values in found.items():
        seconds, processor, mb = ([value[key] for value in values] for key in ("seconds", "processor", "mb"))
        print(f"  {count:>9,} lines  {spread(seconds, 1)} s, {spread(processor, 1)} s of a processor, {spread(mb)} MB")


def step_table(work: Path, items: list[int], steps: int, repeats: int) -> None:
    recipe = recipe_file(work, 'name = "synthetic"', steps, 64)
    found: dict[int, list[dict[str, float]]] = {count: [] for count in items}
    for _ in range(repeats):
        for count, values in found.items():
            values.append(measured("step_cost", recipe, count, cache=work / "cache-0"))
    for count, values in found.items():
        ms, first = ([value[key] for value in values] for key in ("ms", "first_s"))
        print(f"  {count:>9,} items  {spread(ms, 1)} ms a step, the first after {spread(first, 2)} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parts = ("decoding", "listing", "steps", "memory")
    parser.add_argument("--only", choices=parts, nargs="+", default=parts)
    parser.add_argument("--lines", type=int, default=5_000_000)
    parser.add_argument("--images", type=int, default=2000)
    parser.add_argument("--side", type=int, default=400)
    parser.add_argument("--items", type=int, nargs="+", default=[10_000, 100_000, 1_000_000, 10_000_000])
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--repeats", type=int, default=5)
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        work = Path(folder)
        root = work / "images"
        if {"decoding", "memory"} & set(given.only):
            write_images(root, given.images, given.side)
        if "decoding" in given.only:
            print(f"{given.images:,} JPEGs of {given.side} x {given.side}, short side cached at {SIZE}")
            decoding_table(root, work, given.repeats)
        if "listing" in given.only:
            print("a table is listed")
            listing_table(work, given.lines, given.repeats)
        if "steps" in given.only:
            print(f"a step, batch of 64, median of {given.steps}")
            step_table(work, given.items, given.steps, given.repeats)
        if "memory" in given.only:
            steps = 10 * given.steps
            print(f"memory over {steps:,} steps on the cached folder")
            held = measured("memory", recipe_file(work, of_folder(root), steps, 64), cache=work / "cache-0")
            print("  " + ", ".join(f"{value:,.0f} MB {when}" for when, value in held.items()))


if __name__ == "__main__":
    if sys.argv[1:2] == ["--part"]:
        print(json.dumps(PARTS[sys.argv[2]](*sys.argv[3:])))
    else:
        main()
