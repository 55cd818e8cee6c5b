"""The data set of a first run: pieces of patterned cloth, which neither pixels nor colours tell apart."""

from __future__ import annotations

from dataclasses import astuple
from itertools import product
from typing import Annotated, Literal

import numpy as np
from annotated_types import Ge, Le
from jaxtyping import UInt8

from metriclab.core.protocols import Split
from metriclab.core.splits import SPLITS
from metriclab.datasets.fabric_drawing import Cloth, Scene, draw
from metriclab.datasets.fabric_patterns import FAMILIES, MOTIFS, UNIFORM_ALONG_V
from metriclab.datasets.splits import carve, require_split
from metriclab.images.cache_files import cache_folder, load_arrays, save_arrays
from metriclab.images.datasets import ArrayDataset
from metriclab.registry import register

_DRAWING = 1
"""Version of the drawing: raise it with every change of what is drawn."""


@register("dataset", "fabrics")
def Fabrics(
    split: Split,
    /,
    *,
    classes: Literal["families", "compositions"] = "families",
    per_class: Annotated[int, Ge(1)] = 250,
    test_per_class: Annotated[int, Ge(1)] = 50,
    size: Annotated[int, Ge(16), Le(256)] = 48,
    turn: Annotated[float, Ge(0), Le(180)] = 20.0,
    clutter: Annotated[int, Ge(0), Le(8)] = 1,
    noise: Annotated[float, Ge(0), Le(1)] = 0.03,
    preference: Annotated[float, Ge(0), Le(1)] = 0.1,
    seed: Annotated[int, Ge(0)] = 0,
) -> ArrayDataset:
    """Patches of patterned cloth before a cluttered background: a class is a pattern, all else is chance.

    Colours, place, outline, period, turn, light and background are drawn anew for every image, so raw pixels and colour
    histograms say next to nothing. The same bytes on every machine: integers from numpy's Philox, float32 operations
    that IEEE 754 fixes, and no library's sine. Drawn once in seconds, then read from the cache.

    Args:
        split: train, val or test.
        classes: "families" are 20 patterns, the same in every split; "compositions" are some 220 of them, by
            proportion, thickness and a second motif, about 40 % of them in train, 10 % in val and 50 % in test alone.
        per_class: images of each class in train.
        test_per_class: images of each class in val and in test; of compositions all classes have so many.
        size: height and width in pixels; three channels.
        turn: patterns are turned by up to so many degrees to either side.
        clutter: bars across the background.
        noise: standard deviation of each pixel's noise, where 1 is from black to white.
        preference: share of a class's images whose hue tends to the class's own, and likewise their turn: what views
            destroy says a little about the class then.
        seed: of everything random.

    Raises:
        StorageError: if the cache cannot be written.

    Example:
        >>> data = Fabrics("test", test_per_class=2)
        >>> data.images(np.array([0])).pixels.shape
        torch.Size([1, 3, 48, 48])
    """
    require_split(split)
    names = list(FAMILIES) if classes == "families" else list(_COMPOSITIONS)
    mine = np.arange(len(names))
    if classes == "compositions":
        mine = np.flatnonzero(carve(names, {"val": 0.1, "test": 0.5}, what="compositions", place="fabrics") == split)
    count = per_class if split == "train" and classes == "families" else test_per_class
    scene = Scene(size, turn, clutter, noise, preference)
    labels = mine.repeat(count).astype(np.int64)
    cloths = {int(label): _cloth(names[label], int(label)) for label in mine}
    # Named by all that the pixels depend on.
    name = "-".join(map(str, (classes, split, count, *astuple(scene), seed, "drawing", _DRAWING)))
    pixels = _drawn(f"{name}.npz", cloths, scene, count, [seed, SPLITS.index(split)])
    items = [f"fabrics/{split}/{names[label]}/{number}" for label in mine for number in range(count)]
    return ArrayDataset(pixels, labels, names, items)


def _compositions() -> dict[str, Cloth]:
    """Every sensible composition by its name, such as "rings long bold spotted"."""
    cloths = {}
    for family, stretch, bold, motif in product(FAMILIES, (1.0, 1.6), (0.0, 0.06), ("", *MOTIFS)):
        if stretch == 1 or family not in UNIFORM_ALONG_V:
            words = (family, "long" if stretch > 1 else "", "bold" if bold else "", motif)
            name = " ".join(word for word in words if word)
            cloths[name] = Cloth(family, stretch, bold, motif)
    return cloths


_COMPOSITIONS = _compositions()


def _cloth(name: str, number: int) -> Cloth:
    """What the class looks like; its preferences spread over all hues and directions, in steps of the golden ratio."""
    plain = _COMPOSITIONS.get(name, Cloth(name))
    hue, direction = number * 0.6180339887498949 % 1, number * 0.7548776662466927 % 1
    return Cloth(plain.family, plain.stretch, plain.bold, plain.motif, hue, 2 * direction - 1)


def _drawn(
    name: str, cloths: dict[int, Cloth], scene: Scene, count: int, seed: list[int]
) -> UInt8[np.ndarray, "n 3 h w"]:
    path = cache_folder("fabrics") / name
    arrays = load_arrays(path, "pixels")
    if arrays is None:
        parts = [draw(cloth, scene, count, [*seed, label]) for label, cloth in cloths.items()]
        arrays = {"pixels": np.concatenate(parts)}
        save_arrays(path, arrays)
    return arrays["pixels"]
