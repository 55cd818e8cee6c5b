"""Images of a data set, small enough to stand inside a page."""

from __future__ import annotations

import base64
import io
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import Image

from metriclab.core.protocols import Dataset

CHUNK = 256
_LEFT_FREE = 128


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much a page may show.

    Attributes:
        side: longest side of an image, in pixels.
        quality: of its JPEG, from 1 to 95.
        points: of the map.
        cell: side of an image on the sheet of the map.
    """

    side: int
    quality: int
    points: int
    cell: int


LADDER = (Sizes(112, 82, 2000, 48), Sizes(96, 75, 2000, 40), Sizes(72, 68, 1500, 32), Sizes(56, 55, 800, 28))
"""From the best to the smallest."""
LAST = Sizes(40, 40, 300, 24)


def open_images(data: Dataset, items: Sequence[int]) -> Iterator[Image.Image]:
    """These images in their order, decoded a few at a time."""
    for start in range(0, len(items), CHUNK):
        images = data.images(np.array(items[start : start + CHUNK], dtype=np.int64)).for_people()
        for pixels, (height, width) in zip(images.pixels.numpy(), images.sizes.tolist(), strict=True):
            cropped = pixels[:, :height, :width]
            if (cropped == cropped[:1]).all():
                yield Image.fromarray(cropped[0])  # all grey: a third of the bytes
            else:
                yield Image.fromarray(np.ascontiguousarray(cropped.transpose(1, 2, 0)))


def encode_image(image: Image.Image, sizes: Sizes) -> str:
    """The image no larger than the sizes allow, as PNG or as JPEG, whichever is smaller."""
    return _encode(_fitted(image, sizes.side), sizes.quality)


def _fitted(image: Image.Image, side: int) -> Image.Image:
    fitted = image.copy()
    fitted.thumbnail((side, side), Image.Resampling.LANCZOS)
    return fitted


def _encode(image: Image.Image, quality: int) -> str:
    found = []
    for kind, options in (("png", {"optimize": True}), ("jpeg", {"quality": quality, "optimize": True})):
        buffer = io.BytesIO()
        image.save(buffer, kind, **options)
        found.append((len(buffer.getvalue()), kind, buffer.getvalue()))
    _, kind, content = min(found)
    return f"data:image/{kind};base64,{base64.b64encode(content).decode()}"


@dataclass(frozen=True, slots=True)
class Sheet:
    """Many images as one, row by row."""

    uri: str
    cell: int
    columns: int


def make_sheet(data: Dataset, items: Sequence[int], sizes: Sizes) -> Sheet:
    """These images, each in the middle of its cell."""
    fitted = [_fitted(image, sizes.cell) for image in open_images(data, items)]
    cell = max(max(image.size) for image in fitted)  # no wider than the images are
    columns = max(1, math.isqrt(len(items)))
    whole = Image.new("RGB", (columns * cell, math.ceil(len(items) / columns) * cell), (_LEFT_FREE,) * 3)
    for at, image in enumerate(fitted):
        left, top = ((cell - side) // 2 for side in image.size)
        whole.paste(image, (at % columns * cell + left, at // columns * cell + top))
    grey = np.asarray(whole)
    if (grey == grey[:, :, :1]).all():
        whole = whole.convert("L")
    return Sheet(_encode(whole, sizes.quality), cell, columns)
