"""The data set that needs no download: characters, each drawn in the fonts that matplotlib ships."""

from __future__ import annotations

import unicodedata
from collections import Counter, defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Annotated

import numpy as np
import PIL
from annotated_types import Ge, Le
from jaxtyping import Shaped
from PIL import Image, ImageDraw, ImageFont, features

from metriclab.core.protocols import Split
from metriclab.datasets.splits import carve, require_split
from metriclab.errors import DataError
from metriclab.images.cache_files import cache_folder, load_arrays, save_arrays
from metriclab.images.datasets import ArrayDataset
from metriclab.registry import register

# The Computer Modern fonts follow TeX's encoding: beyond letters and digits their character map cannot be trusted.
_TEX_FONTS = ("cmb10", "cmr10", "cmss10", "cmti10", "cmtt10")
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-BoldOblique", "-Oblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-BoldOblique", "-Oblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-BoldItalic", "-Italic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "BolIta", "Italic")),
    *_TEX_FONTS,
)
"""Matplotlib's text fonts; its others hold symbols or parts of formulas."""

_LEAST_FONTS = 12
_CATEGORIES = "LNPS"  # letters, numbers, punctuation, symbols: what leaves a mark of its own
_DRAWING = 1
"""Version of the drawing: raise it with every change of what is drawn."""


@register("dataset", "glyphs")
def Glyphs(split: Split, /, *, size: Annotated[int, Ge(8), Le(256)] = 32) -> ArrayDataset:
    """About 2,100 characters in up to 21 fonts: a class is a character, an image a character in one font.

    Characters covered by 12 or more fonts are taken; of characters that look the same in some font, such as Latin A
    and Greek Alpha, only the first by code point. No class is in two splits: a hash of the character puts about 40 %
    of the classes into train, 10 % into val and 50 % into test. Drawn once in seconds, then read from the cache.

    Args:
        split: train, val or test.
        size: height and width in pixels; one channel, white on black.

    Raises:
        DataError: if matplotlib's fonts are not there.
        StorageError: if the cache cannot be written.
    """
    require_split(split)
    drawn = _drawn(size)
    characters = [chr(point) for point in drawn["characters"]]
    splits = carve(characters, {"val": 0.1, "test": 0.5}, what="characters", place="glyphs")
    labels, fonts = drawn["labels"], drawn["fonts"]
    mine = np.flatnonzero(splits[labels] == split)
    names = [f"glyphs/U+{ord(characters[labels[item]]):04X}/{FONTS[fonts[item]]}" for item in mine]
    return ArrayDataset(drawn["pixels"][mine], labels[mine], characters, names, origin=_versions())


def _versions() -> str:
    freetype = features.version("freetype2")
    return f"matplotlib-{version('matplotlib')}-pillow-{PIL.__version__}-freetype-{freetype}-drawing-{_DRAWING}"


def _drawn(size: int) -> dict[str, Shaped[np.ndarray, "..."]]:
    path = cache_folder("glyphs") / f"{size}px-{_versions()}.npz"
    arrays = load_arrays(path, "pixels", "labels", "fonts", "characters")
    if arrays is None:
        arrays = _draw_all(size)
        save_arrays(path, arrays)
    return arrays


def _draw_all(size: int) -> dict[str, Shaped[np.ndarray, "..."]]:
    """Pixels n x 1 x size x size, with label and font of each image, and the code point of each label."""
    import matplotlib  # slow, and needed where nothing is in the cache

    images = defaultdict[str, dict[int, bytes]](dict)
    folder = Path(matplotlib.get_data_path()) / "fonts" / "ttf"
    covered = [_characters(folder / f"{name}.ttf") for name in FONTS]
    counts = Counter(character for characters in covered for character in characters)
    for number, characters in enumerate(covered):
        path = folder / f"{FONTS[number]}.ttf"
        font = ImageFont.truetype(path, size * 3 // 4, layout_engine=ImageFont.Layout.BASIC)
        for character in sorted(characters):
            if counts[character] >= _LEAST_FONTS and any(pixels := _draw(character, font, size)):
                images[character][number] = pixels
    kept = _distinct(images)
    labels = [label for label, character in enumerate(kept) for _ in images[character]]
    drawn = b"".join(data for character in kept for data in images[character].values())
    return {
        "pixels": np.frombuffer(drawn, dtype=np.uint8).reshape(-1, 1, size, size),
        "labels": np.array(labels, dtype=np.int64),
        "fonts": np.array([number for character in kept for number in images[character]], dtype=np.int64),
        "characters": np.array([ord(character) for character in kept], dtype=np.int64),
    }


def _characters(path: Path) -> set[str]:
    from matplotlib.ft2font import FT2Font

    try:
        points = FT2Font(str(path)).get_charmap()
    except (OSError, RuntimeError) as error:
        raise DataError(f"{path}: matplotlib's font is missing", help="install matplotlib again") from error
    characters = {chr(point) for point in points}
    if path.stem in _TEX_FONTS:
        return {character for character in characters if character.isascii() and character.isalnum()}
    return {character for character in characters if unicodedata.category(character)[0] in _CATEGORIES}


def _draw(character: str, font: ImageFont.FreeTypeFont, size: int) -> bytes:
    """White on black, the ink in the middle."""
    image = Image.new("L", (size, size))
    left, top, right, bottom = (int(edge) for edge in font.getbbox(character))
    corner = ((size - right - left) // 2, (size - bottom - top) // 2)
    ImageDraw.Draw(image).text(corner, character, font=font, fill=255)
    return image.tobytes()


def _distinct(images: dict[str, dict[int, bytes]]) -> list[str]:
    """The characters none of whose images is one of an earlier character, in order of code point."""
    seen: set[bytes] = set()
    kept = []
    for character in sorted(images):
        drawn = images[character]
        if len(drawn) >= _LEAST_FONTS and seen.isdisjoint(drawn.values()):
            kept.append(character)
            seen.update(drawn.values())
    return kept
