"""One image file -> pixels of a bounded size, in RGB or as they are stored; or the reason why not."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Literal, NamedTuple

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError
from PIL.ImageFile import StubImageFile

from metriclab.images.boxes import Box, split_box
from metriclab.images.sources import ImageBytes, Source, opened
from metriclab.images.stored import (
    TIFF,
    Stored,
    UnreadableImageError,
    has_16_bits,
    has_white_zero,
    lost_in_rgb,
    reduced,
    stored_array,
)

Pixels = Literal["rgb", "stored"]
"""What is made of a file: RGB of 8 bits whatever it has, or its own channels and bits."""

DECODING = 2
"""Version of the decoding: raise it with every change of what comes out."""

MOST_PIXELS = 178_956_970  # half a gibibyte of RGB
LONGEST = 4
"""The long side is at most this many times the short side asked for."""

_GREY = frozenset({"1", "L", "LA", "La"})
_REFUSED = frozenset({"EPS", "IPTC", "MPEG"})
"""Pillow does not decode these itself: EPS goes to Ghostscript, whatever its file is called, as it may out of IPTC."""


class Decoded(NamedTuple):
    """An image.

    Attributes:
        pixels: upright.
        original: height and width that its file has, before it is turned upright.
        lost: what of the file is not in the pixels, besides resolution; "" for nothing.
    """

    pixels: Stored
    original: tuple[int, int]
    lost: str = ""


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
def image_endings(pixels: Pixels = "rgb") -> frozenset[str]:
    """How the names of files end that are taken for images, in lower case; `.npy` only where they stay as stored."""
    return frozenset({".npy"} if pixels == "stored" else ()).union(*image_formats().values())


def decode(source: Source, size: int, pixels: Pixels = "rgb") -> Stored:
    """The first frame of an image file, upright; in RGB, or with the channels and the bits that the file has.

    Where the path has a box, that part of it; see `boxes`.

    The EXIF orientation is applied, transparency lies on white. The image is reduced, never enlarged, until its short
    side is `size` pixels or less, and its long side at most 4 times that. In RGB, 16 bits are scaled to 8. As stored,
    grey images have one channel, pages of a TIFF are channels, and files of NumPy are images too.

    Raises:
        UnreadableImageError: for a file that is empty, cut short, damaged, no image, too large or has no known scale,
            and a box that reaches beyond the image.
    """
    name, box = split_box(source)
    with giving_reasons(), opened(name) as file:
        return decode_file(file, size, pixels, box).pixels


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
    """A whole image, upright.

    Attributes:
        image: in RGB or grey, or its channels as they are stored.
        original: height and width that its file has.
        lost: as of `Decoded`.
    """

    image: Image.Image | Stored
    original: tuple[int, int]
    lost: str = ""


@giving_reasons()
def decode_file(file: ImageBytes, size: int, pixels: Pixels = "rgb", box: Box | None = None) -> Decoded:
    """The same, of a file open at its beginning."""
    return reduce(open_upright(file, size if box is None else None, pixels), size, box)


def open_upright(file: ImageBytes, size: int | None, pixels: Pixels = "rgb") -> Upright:
    """The image of a file, not yet reduced, or only as far as its decoder does that on the way to `size`."""
    if not file.seek(0, os.SEEK_END):
        raise UnreadableImageError("the file is empty")
    file.seek(0)
    if pixels == "stored" and (array := stored_array(file, list(image_formats()), MOST_PIXELS)) is not None:
        return Upright(array, array.shape[1:])
    with _opened(file, pixels) as image:
        if image.width * image.height > MOST_PIXELS:
            raise UnreadableImageError(f"{image.width} x {image.height} pixels are more than {MOST_PIXELS:,}")
        width, height = image.size
        lost, sixteen, white_zero = lost_in_rgb(image), has_16_bits(image), has_white_zero(image)
        if size is not None:
            image.draft(None, _target(image.size, size))  # lets the JPEG decoder skip what reducing would throw away
        shown = ImageOps.exif_transpose(image)
        upright = _to_rgb(shown, sixteen, white_zero)
        if pixels == "stored" and shown.mode in _GREY:
            upright = upright.convert("L")
        return Upright(upright, (height, width), lost)


def reduce(upright: Upright, size: int, box: Box | None = None) -> Decoded:
    """The image, or a box of it, with so many pixels as are kept."""
    image, original, lost = upright
    width, height = image.size if isinstance(image, Image.Image) else image.shape[:0:-1]
    if box is not None:
        if beyond := box.beyond(width, height):
            raise UnreadableImageError(f"its box reaches out of the image: {beyond}")
        image, (width, height) = box.cut(image), box.size
        original = (height, width)
    target = _target((width, height), size)
    if not isinstance(image, Image.Image):
        return Decoded(reduced(image, target), original, lost)
    small = np.asarray(image.resize(target, Image.Resampling.BICUBIC))
    channels = small[None] if small.ndim == 2 else small.transpose(2, 0, 1)
    return Decoded(np.ascontiguousarray(channels), original, lost)


@giving_reasons()
def loss_of(file: ImageBytes, pixels: Pixels) -> str:
    """What `decode_file` would say is lost, by the header of a file that it can decode."""
    if pixels == "stored":
        return ""
    file.seek(0)
    with _opened(file, pixels) as image:
        return lost_in_rgb(image)


def _opened(file: ImageBytes, pixels: Pixels) -> Image.Image:
    try:
        return Image.open(file, formats=list(image_formats()))
    except UnidentifiedImageError as error:
        file.seek(0)
        if pixels == "rgb" and file.read(4) in TIFF:
            raise UnreadableImageError(
                'Pillow makes no RGB of this TIFF: where its bands are channels, set data.pixels = "stored"'
            ) from error
        raise


def _target(size: tuple[int, int], short: int) -> tuple[int, int]:
    scale = min(1.0, short / min(size), LONGEST * short / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _to_rgb(image: Image.Image, sixteen: bool, white_zero: bool) -> Image.Image:
    if sixteen and image.mode.startswith("I"):
        values = np.asarray(image).astype(np.int64)  # plain conversion would cut at 255
        values = 65535 - values if white_zero else values
        image = Image.fromarray(((values + 128) // 257).clip(0, 255).astype(np.uint8))
    if image.mode in ("I", "F"):
        raise UnreadableImageError("32 bits a channel have no agreed scale: store it with 8 or 16")
    if image.has_transparency_data:
        image = image.convert("RGBA")
        paper = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(paper, image)
    return image.convert("RGB")
