"""Two views of an image, as SimCLR draws them: metriclab, lightly, torchvision v2 and kornia, images a second.

    pip install '.[bench]'
    python benchmarks/views.py

Batches of grey images of 28 x 28 pixels (as Fashion-MNIST) and of colour images of 32 x 32 (as CIFAR), seen at 32
pixels; and a folder of JPEGs of 500 x 375 pixels, seen at 224, drawn by a seed into a temporary folder. All make the
same: crop, flip, colours, grayscale and blur with the paper's settings. metriclab reads the folder from its cache,
which holds the decoded files at a short side of 256; "metriclab, decoding" is the making of that cache, once a folder.
lightly transforms PIL images and torchvision v2 uint8 tensors one by one in the workers of a DataLoader; kornia takes
batches, so its workers decode the JPEGs and scale them to 256 x 256. Each measurement is made in a process of
its own, the sides in turns; medians, smallest and largest, and how many times as fast metriclab is. Memory is the peak
of the process and its workers.
"""

from __future__ import annotations

import argparse
import itertools
import json
import os
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import torch
from lightly_loop import Pictures, for_ever, loader, transform_of
from measuring import in_process, print_floor, rate, table
from PIL import Image

SIDES = ("metriclab", "lightly", "torchvision", "kornia")
DECODING = "metriclab, decoding"
CASES = {"grey": (32, 1, 28), "colour": (32, 3, 32), "jpeg": (224, 3, 0)}
"""Size of a view, channels, size of an image."""

VIEWS = {"size": 32, "min_area": 0.08, "flip": 0.5, "rotation": 0.0, "colour": 1.0, "grayscale": 0.2, "blur": 0.5}


def draw_pictures(folder: Path, count: int) -> None:
    """JPEGs with smooth structure and some noise: about as large as photographs of their size."""
    random = np.random.default_rng(0)
    for index in range(count + 8):
        split = "train" if index < count else ("val", "test")[index % 2]
        target = folder / split / ("even", "odd")[index // 2 % 2] / f"{index}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        height, width = ((375, 500), (500, 375))[index % 2]
        coarse = Image.fromarray(random.integers(0, 256, (height // 20, width // 20, 3), dtype=np.uint8))
        smooth = np.asarray(coarse.resize((width, height), Image.Resampling.BICUBIC), dtype=np.float32)
        noisy = (smooth + random.normal(0, 6, smooth.shape)).clip(0, 255).astype(np.uint8)
        Image.fromarray(noisy).save(target, quality=90)


class Case:
    """One kind of images, and every side's batches of two views of them; each gives the number of its images."""

    def __init__(self, name: str, folder: Path, batch: int, workers: int) -> None:
        self.name, self.folder, self.batch, self.workers = name, folder, batch, workers
        self.size, self.channels, self.source = CASES[name]

    def data(self):
        from metriclab.api import build

        if self.name == "jpeg":
            return build("dataset", "folder", "train", root=str(self.folder))
        count = 4 * self.batch  # so that a loader seldom starts an epoch anew
        return build(
            "dataset", "synthetic", "train", classes=8, per_class=count, size=self.source, channels=self.channels
        )

    def metriclab(self):
        from metriclab.api import RandomKeys, build
        from metriclab.core.allocator import keep_freed_memory

        keep_freed_memory()  # as a run does
        data, views = self.data(), build("views", "simclr", **{**VIEWS, "size": self.size})
        sampler = build("sampler", "shuffled", data.labels, batch_size=self.batch)
        order = (items for epoch in itertools.count() for items in sampler.epoch(epoch))
        with ThreadPoolExecutor(1) as reader:
            items = next(order)
            ahead = reader.submit(data.images, items)
            while True:
                now, images = torch.from_numpy(items), ahead.result()
                items = next(order)
                ahead = reader.submit(data.images, items)
                yield len(views(images, RandomKeys(0, 0, now, torch.zeros_like(now)))[0])

    def lightly(self):
        transform = transform_of({**VIEWS, "size": self.size}, normalize=False)
        return self._loaded(self._pictures(transform))

    def torchvision(self):
        from torchvision.transforms import v2

        view = v2.Compose(
            [
                v2.RandomResizedCrop(self.size, scale=(0.08, 1.0), antialias=True),
                v2.RandomHorizontalFlip(),
                v2.RandomApply([v2.ColorJitter(0.8, 0.8, 0.8, 0.2)], p=0.8),
                v2.RandomGrayscale(p=0.2),
                v2.RandomApply([v2.GaussianBlur(self._taps(), (0.1, 2.0))], p=0.5),
                v2.ToDtype(torch.float32, scale=True),
            ]
        )
        return self._loaded(self._tensors(lambda image: (view(image), view(image))))

    def kornia(self):
        from kornia import augmentation as K

        view = torch.nn.Sequential(
            K.RandomResizedCrop((self.size, self.size), scale=(0.08, 1.0)),
            K.RandomHorizontalFlip(),
            K.ColorJitter(0.8, 0.8, 0.8, 0.2, p=0.8),
            K.RandomGrayscale(p=0.2),
            K.RandomGaussianBlur((self._taps(), self._taps()), (0.1, 2.0), p=0.5),
        )
        # Of its colours, saturation and hue take images of three channels alone.
        for images in for_ever(loader(self._tensors(self._square()), self.batch, self.workers)):
            images = images[0] if self.name == "jpeg" else images  # without the labels
            images = (images.float() / 255).expand(-1, 3, -1, -1)
            with torch.no_grad():
                view(images), view(images)
            yield len(images)

    def _taps(self) -> int:
        return max(3, self.size // 20 * 2 + 1)

    def _square(self):
        from torchvision.transforms import v2

        return v2.Resize((256, 256), antialias=True) if self.name == "jpeg" else lambda image: image

    def _pictures(self, transform):
        if self.name != "jpeg":
            return Pictures(self.data(), transform)
        from lightly.data import LightlyDataset

        return LightlyDataset(str(self.folder / "train"), transform=transform)

    def _tensors(self, transform):
        from torchvision.datasets import ImageFolder
        from torchvision.io import decode_image
        from torchvision.transforms.v2.functional import pil_to_tensor

        if self.name != "jpeg":
            return Pictures(self.data(), lambda image: transform(pil_to_tensor(image)))
        return ImageFolder(
            self.folder / "train", lambda tensor: transform(tensor), loader=lambda path: decode_image(path)
        )

    def _loaded(self, data):
        for loaded in for_ever(loader(data, self.batch, self.workers)):
            first = loaded
            while isinstance(first, list | tuple):  # of views, or of views with labels and names
                first = first[0]
            yield len(first)


def one(side: str, case: Case, warm_up: int, batches: int) -> None:
    """Prints the images a second of one side."""
    if side == DECODING:
        start = time.perf_counter()
        case.data()
        count = sum(1 for _ in case.folder.glob("*/*/*.jpg"))
        print(json.dumps({"rate": count / (time.perf_counter() - start)}))
        return
    print(json.dumps({"rate": rate(iter(getattr(case, side)()), warm_up, batches)}))


def compare(name: str, folder: Path, given: argparse.Namespace) -> None:
    """All sides in turns."""
    batch, batches = (given.batch, given.batches) if name != "jpeg" else (given.jpeg_batch, given.jpeg_batches)
    sides = [DECODING, *given.sides] if name == "jpeg" else list(given.sides)
    measured = {side: [] for side in sides}
    for round_ in range(given.rounds):
        for side in sides:
            cache = folder / (f"cache-{round_}" if side == DECODING else "cache-0")
            shape = [name, folder / "pictures", batch, given.workers]
            options = ["--one", side, *shape, given.warm_up, batches]
            result, memory = in_process(__file__, *options, METRICLAB_CACHE=str(cache))
            measured[side].append((result["rate"], memory))
    size, channels, source = CASES[name]
    images = f"{source} x {source} x {channels}" if source else "JPEGs of 500 x 375"
    print(f"two views of {size} x {size} of {images}, batch {batch}, {given.workers} workers, {given.rounds} rounds")
    table(measured, "metriclab")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--sides", nargs="+", choices=SIDES, default=list(SIDES))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--batches", type=int, default=20, help="measured batches")
    parser.add_argument("--jpeg-batch", type=int, default=64)
    parser.add_argument("--jpeg-batches", type=int, default=12)
    parser.add_argument("--pictures", type=int, default=1024, help="JPEGs to draw")
    parser.add_argument("--warm-up", type=int, default=6, help="batches before those that are measured")
    parser.add_argument("--workers", type=int, default=os.cpu_count(), help="of the DataLoaders")
    parser.add_argument("--one", nargs=7, metavar=("SIDE", "CASE", "FOLDER", "BATCH", "WORKERS", "WARM_UP", "BATCHES"))
    given = parser.parse_args()
    if given.one:
        side, name, folder, *numbers = given.one
        batch, workers, warm_up, batches = map(int, numbers)
        one(side, Case(name, Path(folder), batch, workers), warm_up, batches)
        return
    print_floor()
    with tempfile.TemporaryDirectory() as temporary:
        if "jpeg" in given.cases:
            draw_pictures(Path(temporary, "pictures"), given.pictures)
        for name in given.cases:
            compare(name, Path(temporary), given)


if __name__ == "__main__":
    main()
