"""Small image files for the tests of folders."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def picture(number: int, width: int = 20, height: int = 12) -> Image.Image:
    """Like no other number's, in two colours."""
    pixels = np.full((height, width, 3), (number * 37 % 256, number * 11 % 256, 200), dtype=np.uint8)
    pixels[: height // 2] = (10, number % 256, number // 256)
    return Image.fromarray(pixels)


def fill(folder: Path, count: int, start: int = 0, **size: int) -> list[Path]:
    """PNG files in the folder, which is made if need be."""
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"{number:03}.png" for number in range(count)]
    for number, path in enumerate(paths):
        picture(start + number, **size).save(path)
    return paths


def classes(root: Path, **counts: int) -> Path:
    """A folder a class, with so many images each."""
    for number, (name, count) in enumerate(counts.items()):
        fill(root / name, count, start=100 * number)
    return root
