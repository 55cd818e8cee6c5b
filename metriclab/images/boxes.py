"""A part of an image as an item of its own, named by the path and the box: `a.jpg#xywh=10,20,30,40`.

That is the media fragment of W3C. One name says which item is meant, in a cache, a report and a file of embeddings.
"""

from __future__ import annotations

import os
import re
from typing import NamedTuple

from PIL import Image

from metriclab.images.sources import ImageSource, Source
from metriclab.images.stored import Stored

_NAMED = re.compile(r"(?P<path>.+)#xywh=(?P<x>\d{1,9}),(?P<y>\d{1,9}),(?P<w>\d{1,9}),(?P<h>\d{1,9})", re.DOTALL)


class Box(NamedTuple):
    """Pixels of an upright image from (x_1, y_1), the upper left one, up to (x_2, y_2), which is the first outside."""

    x_1: int
    y_1: int
    x_2: int
    y_2: int

    def __str__(self) -> str:
        return f"#xywh={self.x_1},{self.y_1},{self.size[0]},{self.size[1]}"

    @property
    def size(self) -> tuple[int, int]:
        """Width and height."""
        return self.x_2 - self.x_1, self.y_2 - self.y_1

    def beyond(self, width: int, height: int) -> str:
        """What lies outside of an image of this size, in words; nothing for a box inside."""
        sides = (("x_2", self.x_2, "width", width), ("y_2", self.y_2, "height", height))
        return ", ".join(
            f"{name} = {end:,} is beyond its {side} of {size:,}" for name, end, side, size in sides if end > size
        )

    def cut(self, image: Image.Image | Stored) -> Image.Image | Stored:
        """The part of an image, which may be an array whose first axis is the channels."""
        if isinstance(image, Image.Image):
            return image.crop(self)
        return image[:, self.y_1 : self.y_2, self.x_1 : self.x_2]


def split_box(source: Source) -> tuple[Source, Box | None]:
    """The file in the name of an item, and its box; None where it is the whole image.

    A file that has such a name itself is meant as a whole.
    """
    if isinstance(source, ImageSource):
        return source, None
    name = os.fspath(source)
    found = _NAMED.fullmatch(name) if "#xywh=" in name else None
    if found is None or os.path.exists(name):
        return name, None
    x, y, width, height = (int(found[part]) for part in "xywh")
    return found["path"], Box(x, y, x + width, y + height)
