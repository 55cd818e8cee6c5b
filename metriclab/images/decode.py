"""One image file -> RGB pixels of a bounded size; or the reason why not."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import StubImageFile

from metriclab.core.reading import open_regular
from metriclab.images.boxes import Box, split_box

DECODING = 2
"""Version of the decoding: raise it with every change of what comes out."""

MOST_PIXELS = 178_956_970  # half a gibibyte of RGB
LONGEST = 4
"""The long side is at most this many times the short side asked for."""

_REFUSED = frozenset({"EPS", "IPTC", "MPEG"})
"""Pillow does not decode these itself: EPS goes to Ghostscript, whatever its file is called, as it may out of IPTC."""


class UnreadableImageError(Exception):
    """Why one file gives no image."""


class Decoded(NamedTuple):
    """An image, and the height and width that its file has, before it is turned upright."""

    pixels: UInt8[np.ndarray, "3 h w"]
    original: tuple[int, int]


@functools.cache
def image_formats() -> dict[str, frozenset[str]]:
    """The formats that Pillow decodes, those that a plugin has brought it included, and how their files end.

    The ending makes a file one to open, its content decides on the format. Formats that are known by their first bytes
    come before those that are tried.
    """
    Image.init()
    endings: dict[str, set[str]] = {}
    for ending, name in Image.registered_extensions().items():
        factory = Image.OPEN[name][0] if name in Image.OPEN else None
        # A stub hands the file to a handler that somebody else has to bring.
        stub = factory is None or (isinstance(factory, type) and issubclass(factory, StubImageFile))
        if name not in _REFUSED and not stub:
            endings.setdefault(name, set()).add(ending)
    ordered = sorted(endings, key=lambda name: (Image.OPEN[name][1] is None, Image.ID.index(name)))
    return {name: frozenset(endings[name]) for name in ordered}


@functools.cache
def image_endings() -> frozenset[str]:
    """How the names of files end that are taken for images, in lower case."""
    return frozenset().union(*image_formats().values())


def decode(path: str | Path, size: int) -> UInt8[np.ndarray, "3 h w"]:
    """The first frame of an image file, upright, in RGB; a box of it where the path has one, see `boxes`.

    The EXIF orientation is applied, 16 bits are scaled to 8, transparency lies on white. The image is reduced,
    never enlarged, until its short side is `size` pixels or less, and its long side at most 4 times that.

    Raises:
        UnreadableImageError: for a file that is empty, cut short, damaged, no image, too large or has no known scale,
            and a box that reaches beyond the image.
    """
    name, box = split_box(path)
    with giving_reasons(), open_regular(name) as file:
        return decode_file(file, size, box).pixels


@contextlib.contextmanager
def giving_reasons() -> Iterator[None]:
    """Turns whatever goes wrong with an image file into an UnreadableImageError."""
    try:
        yield
    except UnreadableImageError:
        raise
    except UnidentifiedImageError as error:
        raise UnreadableImageError("this is no image, or not in a format that can be read") from error
    except Image.DecompressionBombError as error:
        raise UnreadableImageError(f"it has more than {MOST_PIXELS:,} pixels") from error
    except OSError as error:
        raise UnreadableImageError(error.strerror or str(error)) from error
    except Exception as error:  # decoders meet damage with nearly every exception there is
        raise UnreadableImageError(f"it cannot be decoded ({type(error).__name__}: {error})") from error


class Upright(NamedTuple):
    """A whole image in RGB, upright; and the height and width that its file has."""

    image: Image.Image
    original: tuple[int, int]


@giving_reasons()
def decode_file(file: BinaryIO, size: int, box: Box | None = None) -> Decoded:
    """The same, of a file open at its beginning."""
    return reduce(open_upright(file, size if box is None else None), size, box)


def open_upright(file: BinaryIO, size: int | None) -> Upright:
    """The image of a file, not yet reduced, or only as far as its decoder does that on the way to `size`."""
    file.seek(0)
    if os.fstat(file.fileno()).st_size == 0:
        raise UnreadableImageError("the file is empty")
    with Image.open(file, formats=list(image_formats())) as image:
        if image.width * image.height > MOST_PIXELS:
            raise UnreadableImageError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}")
        width, height = image.size
        if size is not None:
            image.draft(None, _target(image.size, size))  # lets the JPEG decoder skip what reducing would throw away
        return Upright(_to_rgb(ImageOps.exif_transpose(image), image.format or ""), (height, width))


def reduce(upright: Upright, size: int, box: Box | None = None) -> Decoded:
    """The image, or a box of it, with so many pixels as are kept."""
    image, original = upright
    if box is not None:
        if beyond := box.beyond(*image.size):
            raise UnreadableImageError(f"its box reaches out of the image: {beyond}")
        image = box.cut(image)
        original = (image.height, image.width)
    reduced = image.resize(_target(image.size, size), Image.Resampling.BICUBIC)
    return Decoded(np.ascontiguousarray(np.asarray(reduced).transpose(2, 0, 1)), original)


def _target(size: tuple[int, int], short: int) -> tuple[int, int]:
    scale = min(1.0, short / min(size), LONGEST * short / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _to_rgb(image: Image.Image, kind: str) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and kind in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.int64)  # plain conversion would cut at 255
        image = Image.fromarray(((values + 128) // 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnreadableImageError("32 bits a channel have no agreed scale: store it with 8 or 16")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return image.convert("RGB")
