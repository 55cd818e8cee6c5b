"""Images that are no RGB of 8 bits: TIFF of many bands or pages, .npy arrays, 16 bits a channel."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import numpy as np
from jaxtyping import Shaped, UInt8, UInt16
from PIL import Image, ImageOps, UnidentifiedImageError

from metriclab.images.sources import ImageBytes

Stored = UInt8[np.ndarray, "_c _h _w"] | UInt16[np.ndarray, "_c _h _w"]

NUMPY, TIFF = b"\x93NUMPY", (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
"""How such files begin."""

_SIXTEEN, _BANDS, _PAGES = "16 bits a channel", "bands beside the colours", "pages after the first"
_ALPHA = (1, 2)  # of TIFF's ExtraSamples
_PHOTOMETRIC, _MIN_IS_WHITE, _RGB, _PALETTE = 262, 0, 2, 3  # TIFF's PhotometricInterpretation, and values of it
_NO_SCALE = "{} values have no agreed scale: store uint8 or uint16"
_UPRIGHT = {
    2: lambda a: a[:, :, ::-1],
    3: lambda a: a[:, ::-1, ::-1],
    4: lambda a: a[:, ::-1],
    5: lambda a: a.swapaxes(1, 2),
    6: lambda a: np.rot90(a, -1, (1, 2)),
    7: lambda a: a[:, ::-1, ::-1].swapaxes(1, 2),
    8: lambda a: np.rot90(a, 1, (1, 2)),
}
"""What puts an image of an EXIF orientation upright."""


class UnreadableImageError(Exception):
    """Why one file gives no image."""


def lost_in_rgb(image: Image.Image) -> str:
    """What of an image that Pillow has opened, and not read, is not in its RGB of 8 bits; "" for nothing."""
    lost = []
    if has_16_bits(image):
        lost.append(_SIXTEEN)
    if image.format == "TIFF" and any("X" in mode for mode in _raw_modes(image)):
        lost.append(_BANDS)
    if image.format == "TIFF" and getattr(image, "n_frames", 1) > 1:
        lost.append(_PAGES)
    return " and ".join(lost)


def has_16_bits(image: Image.Image) -> bool:
    """Whether an image that Pillow has opened has more than 8 bits a channel, as far as its header says so."""
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        return True
    above = [argument for argument in _tile_arguments(image) if isinstance(argument, int) and argument > 255]
    return any(";16" in mode for mode in _raw_modes(image)) or (image.format == "PPM" and bool(above))


def has_white_zero(image: Image.Image) -> bool:
    """Whether white is 0 among the numbers that Pillow gives of an image that it has opened: of 16 bits in TIFF."""
    return (
        image.format == "TIFF"
        and image.mode.startswith("I;16")
        and getattr(image, "tag_v2", {}).get(_PHOTOMETRIC) == _MIN_IS_WHITE
    )


def stored_array(file: ImageBytes, formats: list[str], most: int) -> Stored | None:
    """The channels of an image file upright, in the bits that it has them; None for 8 bits that Pillow has all of.

    Args:
        file: at its beginning, where it is again afterwards.
        formats: that Pillow may open.
        most: pixels that an image may have.

    Raises:
        UnreadableImageError: where that cannot be had.
    """
    start = file.read(8)
    file.seek(0)
    if start.startswith(NUMPY):
        return _of_numpy(file, most)
    try:
        with Image.open(file, formats=formats) as image:
            lost = lost_in_rgb(image)
            if image.format != "TIFF" or lost == "" or (lost == _SIXTEEN and image.mode.startswith("I;16")):
                return _of_pillow(file, image, formats) if lost else None
    except UnidentifiedImageError:
        if start[:4] not in TIFF:
            raise
    finally:
        file.seek(0)
    return _of_tiff(file, most)


def reduced(array: Stored, target: tuple[int, int]) -> Stored:
    """The image at this width and height, each channel by itself."""
    if array.shape[:0:-1] == target:
        return np.ascontiguousarray(array)
    bicubic = Image.Resampling.BICUBIC
    channels = [np.asarray(Image.fromarray(part.astype(np.float32)).resize(target, bicubic)) for part in array]
    made: Stored = np.stack(channels).round().clip(0, np.iinfo(array.dtype).max).astype(array.dtype)
    return made


def _of_pillow(file: ImageBytes, image: Image.Image, formats: list[str]) -> Stored:
    """16 bits, that Pillow keeps in grey alone: of colours in PNG it gives the upper or the lower 8 of each."""
    modes = list(_raw_modes(image))
    if image.format == "PNG" and modes in (["RGB;16B"], ["RGBA;16B"]):
        high = _values(ImageOps.exif_transpose(image)).astype(np.uint16)
        file.seek(0)
        with Image.open(file, formats=formats) as again:
            tile: Any = again.tile[0]
            again.tile = [type(tile)(*tile[:3], modes[0].replace("16B", "16L"))]
            low = _values(ImageOps.exif_transpose(again))
        return _on_white((high << 8 | low).transpose(2, 0, 1), alpha=image.mode == "RGBA")
    if image.mode not in ("I", "I;16", "I;16B", "I;16L"):
        raise UnreadableImageError(f"its {_SIXTEEN} cannot be kept: store it as PNG without transparency, or as TIFF")
    values = _values(ImageOps.exif_transpose(image)).clip(0, 65535).astype(np.uint16)[None]
    return 65535 - values if has_white_zero(image) else values


def _values(image: Image.Image) -> Shaped[np.ndarray, "..."]:
    return np.asarray(image)


def _of_numpy(file: ImageBytes, most: int) -> Stored:
    """An array of h x w, or with the channels last or, where the first axis is the shortest, first."""
    try:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
    except ValueError as error:
        raise UnreadableImageError(f"this is no .npy file that is whole ({error})") from error
    if len(shape) not in (2, 3) or not math.prod(shape):
        raise UnreadableImageError(f"an array of shape {shape} is no image: it has (h, w), (h, w, c) or (c, h, w)")
    _require_bits(dtype)
    first = len(shape) == 3 and shape[0] == min(shape) and shape[0] < shape[2]
    if math.prod(shape[:2] if not first else shape[1:]) > most:
        raise UnreadableImageError(f"its shape {shape} has more than {most:,} pixels")
    file.seek(0)
    try:
        array = np.load(file, allow_pickle=False)
    except ValueError as error:
        raise UnreadableImageError(f"it is cut short or damaged ({error})") from error
    array = array[None] if array.ndim == 2 else array if first else array.transpose(2, 0, 1)
    return _native(array)


def _of_tiff(file: ImageBytes, most: int) -> Stored:
    try:
        import tifffile
    except ModuleNotFoundError as error:
        raise UnreadableImageError(
            "TIFF of several bands or pages is read by tifffile: pip install 'metriclab-toolkit[tiff]'"
        ) from error
    with tifffile.TiffFile(file) as tiff:
        whole = [series for series in tiff.series if not series.keyframe.is_reduced]  # not the thumbnails
        if len(whole) != 1:
            raise UnreadableImageError(
                f"its pages are of {len(whole)} sizes or kinds, and channels are alike: store one image a file"
            )
        series = whole[0]
        page, axes, shape = series.keyframe, series.axes, series.shape
        _require_bits(series.dtype)
        if page.photometric == _PALETTE:
            raise UnreadableImageError("its numbers are places in a palette: store the colours")
        if math.prod(size for axis, size in zip(axes, shape, strict=True) if axis in "YX") > most:
            raise UnreadableImageError(f"its shape {shape} has more than {most:,} pixels")
        array = _channels_first(series.asarray(), axes)
        alpha = page.photometric == _RGB and len(array) == 4 and any(kind in _ALPHA for kind in page.extrasamples)
        orientation = page.tags.valueof(274, 1)
    if page.photometric == _MIN_IS_WHITE:
        array = np.iinfo(array.dtype).max - array
    return np.ascontiguousarray(_UPRIGHT.get(orientation, np.asarray)(_on_white(_native(array), alpha=alpha)))


def _channels_first(array: Shaped[np.ndarray, "..."], axes: str) -> Shaped[np.ndarray, "c h w"]:
    """The axes of pages, then that of the bands, as one."""
    order = [place for place, axis in enumerate(axes) if axis not in "YXS"]
    order += [axes.index(axis) for axis in "SYX" if axis in axes]
    moved = array.transpose(order)
    return moved.reshape(-1, *moved.shape[-2:])


def _on_white(array: Stored, *, alpha: bool) -> Stored:
    """Three colours on white paper, where the fourth channel says how much of the paper they hide."""
    if not alpha:
        return array
    top = np.iinfo(array.dtype).max
    share = array[3] / top
    made: Stored = (array[:3] * share + top * (1 - share)).round().astype(array.dtype)
    return made


def _require_bits(dtype: np.dtype[Any]) -> None:
    if dtype.kind != "u" or dtype.itemsize > 2:
        raise UnreadableImageError(_NO_SCALE.format(dtype.name))


def _native(array: Shaped[np.ndarray, "c h w"]) -> Stored:
    return np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("="))


def _tile_arguments(image: Image.Image) -> Iterator[object]:
    for tile in getattr(image, "tile", ()):
        yield from tile[3] if isinstance(tile[3], tuple) else [tile[3]]


def _raw_modes(image: Image.Image) -> Iterator[str]:
    return (argument for argument in dict.fromkeys(_tile_arguments(image)) if isinstance(argument, str))
