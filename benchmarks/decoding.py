"""Milliseconds to decode a JPEG to the size of the cache: Pillow's scaled decode against other libraries.

    pip install simplejpeg
    python benchmarks/decoding.py [--repeats 5]

Sides take turns in one process and one thread. Median of the repeats, with the smallest and the largest, of the
processor's time, which other programs on the machine hardly move. Differences are to what `decode` gives.
"""

from __future__ import annotations

import argparse
import importlib.util
import io
import platform
import statistics
import time
from collections.abc import Callable

import numpy as np
import PIL
from PIL import Image

from metriclab.images.decode import _target, decode_file

SIZE = 256
SHAPES = {(4000, 3000): 3, (500, 375): 60}
"""Width and height, and how many images."""


def photographs(width: int, height: int, count: int) -> list[bytes]:
    """JPEGs with detail of several scales, as in data.py."""
    draws, files = np.random.default_rng(0), []
    for _ in range(count):
        image = np.zeros((height, width, 3))
        for scale in (4, 16, 64, min(width, height)):
            noise = draws.integers(0, 256, (scale, scale, 3), dtype=np.uint8)
            image += np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)) / 4
        buffer = io.BytesIO()
        Image.fromarray(image.astype(np.uint8)).save(buffer, "jpeg", quality=90)
        files.append(buffer.getvalue())
    return files


def metriclab(content: bytes) -> np.ndarray:
    return decode_file(io.BytesIO(content), SIZE).pixels


def whole(content: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(content)) as image:
        return resized(np.asarray(image.convert("RGB")), _target(image.size, SIZE))


def simplejpeg(content: bytes) -> np.ndarray:
    import simplejpeg

    height, width, *_ = simplejpeg.decode_jpeg_header(content)
    target = _target((width, height), SIZE)
    return resized(simplejpeg.decode_jpeg(content, min_height=target[1], min_width=target[0]), target)


def resized(pixels: np.ndarray, target: tuple[int, int]) -> np.ndarray:
    small = Image.fromarray(pixels).resize(target, Image.Resampling.BICUBIC)
    return np.asarray(small).transpose(2, 0, 1)


def milliseconds(decode: Callable[[bytes], np.ndarray], files: list[bytes]) -> float:
    start = time.process_time()
    for content in files:
        decode(content)
    return 1000 * (time.process_time() - start) / len(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--few", action="store_true", help="an image of each shape")
    given = parser.parse_args()
    repeats = given.repeats
    sides = {"Pillow, whole": whole, "metriclab (Pillow, scaled)": metriclab}
    if importlib.util.find_spec("simplejpeg"):
        sides["simplejpeg, scaled"] = simplejpeg
    else:
        print("simplejpeg is not installed and left out")
    print(f"{platform.processor() or platform.machine()}, Pillow {PIL.__version__}")
    print("| image | side | ms an image | images/s a core | mean difference | largest |")
    print("| --- | --- | --- | --- | --- | --- |")
    for (width, height), count in SHAPES.items():
        files = photographs(width, height, 1 if given.few else count)
        times: dict[str, list[float]] = {name: [] for name in sides}
        for _ in range(repeats):
            for name, decode in sides.items():
                times[name].append(milliseconds(decode, files))
        expected = metriclab(files[0]).astype(int)
        for name, decode in sides.items():
            apart, middle = np.abs(decode(files[0]).astype(int) - expected), statistics.median(times[name])
            spread = f"{middle:.2f} ({min(times[name]):.2f} to {max(times[name]):.2f})"
            print(
                f"| {width} x {height} | {name} | {spread} | {1000 / middle:.0f} | {apart.mean():.2f} | {apart.max()} |"
            )


if __name__ == "__main__":
    main()
