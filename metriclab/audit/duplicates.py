"""Images that are the same, or look it, found among many without comparing each with each."""

from __future__ import annotations

import hashlib
from collections import defaultdict
from collections.abc import Iterator
from typing import NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Float32, Int64, Shaped, UInt8, UInt16
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from metriclab.core.batch import Images

_SIDE, _COLOUR_SIDE = 32, 8  # of what is kept: brightness finely, colour coarsely, as in a JPEG file
_STEP = 2.0  # levels of 256 by which two cells of a hash must differ: what is flat stays so under noise
_BANDS = 8
_BITS = 16 * _BANDS
REACH = 64
"""Of images that agree in a band of their hashes, each is compared with so many that follow it in sorted order."""
_MOST_BITS = 16  # by which two hashes may differ for their images to be compared
MOST_DIFFERENCE = 0.1
"""Largest mean absolute difference of two images that look the same, brightness and contrast aside."""
_MOST_ANYWHERE = 1.0  # the same of any one place: an accent on a letter is little on average
_MOST_COLOUR = 4.0  # mean absolute difference of the colour planes, in levels of 256
FLAT = 2.0
"""Contrast, in levels of 256, below which there is nothing to recognise."""
_ROUNDING = 1e-5
_CHUNK = 4096  # pairs compared at a time
_ORDER = np.random.default_rng(0).permutation(_BITS)  # a band has bits from all over the image


class ImageSignatures(NamedTuple):
    """What is kept of N images: about 1.5 kB each.

    Attributes:
        digests: SHA-256 of size and pixels.
        sizes: height and width in pixels.
        grey: whether all channels are equal.
        brightness: 32 x 32 thumbnails.
        colour: 8 x 8 thumbnails of the two colour planes.
        hashes: a bit for each place where the image gets brighter to the right or downwards, in 8 bands of 16 bits.
        level: mean of the brightness thumbnail.
        contrast: mean absolute deviation from it, in levels of 256.
        coarse: the brightness thumbnail in 8 x 8 cells, without its level, in units of its contrast.
    """

    digests: UInt8[np.ndarray, "n 32"]
    sizes: Int64[np.ndarray, "n 2"]
    grey: Bool[np.ndarray, "n"]
    brightness: UInt8[np.ndarray, "n b"]
    colour: UInt8[np.ndarray, "n c"]
    hashes: UInt16[np.ndarray, "n 8"]
    level: Float32[np.ndarray, "n"]
    contrast: Float32[np.ndarray, "n"]
    coarse: Float32[np.ndarray, "n 64"]

    @classmethod
    def of(cls, images: Images) -> ImageSignatures:
        """The signatures of a batch of images of any sizes."""
        sizes, shown, stored = images.sizes.numpy(), images.for_people().pixels, images.pixels.numpy()
        shapes, group = np.unique(sizes, axis=0, return_inverse=True)
        signatures: ImageSignatures | None = None
        for number, (h, w) in enumerate(shapes.tolist()):
            members = np.flatnonzero(group.reshape(-1) == number)
            part = _sign(shown[members, :, :h, :w], stored[members, :, :h, :w])
            signatures = cls.empty(len(sizes), part) if signatures is None else signatures
            signatures.put(members, part)
        assert signatures is not None
        return signatures

    @classmethod
    def empty(cls, count: int, like: ImageSignatures) -> ImageSignatures:
        """Room for so many; which fields there are, and how wide, is that of others."""
        return cls(*(np.zeros((count, *field.shape[1:]), dtype=field.dtype) for field in like))

    def put(self, items: Int64[np.ndarray, "m"], part: ImageSignatures) -> None:
        """Sets the signatures of some of the images."""
        for field, values in zip(self, part, strict=True):
            field[items] = values

    def only(self, kept: Bool[np.ndarray, "n"]) -> ImageSignatures:
        """The signatures of some of the images."""
        return ImageSignatures(*(field[kept] for field in self))


class Partners(NamedTuple):
    """For each of N images the one most like it in each of S splits, another than itself.

    Attributes:
        items: -1 where there is none.
        differences: 0 for equal pixels.
    """

    items: Int64[np.ndarray, "n s"]
    differences: Float32[np.ndarray, "n s"]

    @classmethod
    def none(cls, count: int, splits: int) -> Partners:
        return cls(np.full((count, splits), -1), np.full((count, splits), np.inf, dtype=np.float32))

    def offer(
        self,
        items: Int64[np.ndarray, "p"],
        others: Int64[np.ndarray, "p"],
        splits: Int64[np.ndarray, "p"],
        differences: Float32[np.ndarray, "p"],
    ) -> None:
        """Takes the others where they are more alike than what there was; no item occurs twice."""
        better = differences < self.differences[items, splits]
        self.items[items[better], splits[better]] = others[better]
        self.differences[items[better], splits[better]] = differences[better]


def find_copies(
    signatures: ImageSignatures, split: Int64[np.ndarray, "n"], splits: int
) -> tuple[Partners, Bool[np.ndarray, "n"]]:
    """Images of equal size and pixels, and which images are the first of their kind."""
    _, kind, counts = np.unique(signatures.digests.view("V32")[:, 0], return_inverse=True, return_counts=True)
    partners, first = Partners.none(len(kind), splits), np.ones(len(kind), dtype=bool)
    copies = defaultdict[int, list[int]](list)
    for item in np.flatnonzero(counts[kind] > 1).tolist():
        first[item] = not copies[kind[item]]
        copies[kind[item]].append(item)
    for members in map(np.array, copies.values()):
        for number in range(splits):
            here = members[split[members] == number]
            if len(here):
                # Each has the first for its partner, which itself has the second, if there is one.
                partners.items[members, number] = here[0]
                partners.items[here[0], number] = here[1] if len(here) > 1 else -1
    partners.differences[partners.items >= 0] = 0
    return partners, first


def find_look_alikes(
    signatures: ImageSignatures, split: Int64[np.ndarray, "n"], splits: int, among: Bool[np.ndarray, "n"]
) -> tuple[Partners, Bool[np.ndarray, "n"]]:
    """Images that look the same: re-encoded, resized, changed a little. And those crowded in every band.

    Two images are compared where their hashes agree in a band; they look the same where their thumbnails differ by at
    most `MOST_DIFFERENCE`, brightness and contrast aside. Images without contrast look like nothing. In a band that
    more than `REACH` images share, each is compared with its `REACH` neighbours only, so time and memory grow with N.

    Paper: Zauner, Implementation and Benchmarking of Perceptual Image Hash Functions, 2010 (hashes of this kind).

    Args:
        signatures: of all images.
        split: the split of each, from 0.
        splits: how many there are.
        among: the images to look at.
    """
    items = np.flatnonzero(among & (signatures.contrast >= FLAT))
    partners, crowded = Partners.none(len(split), splits), np.isin(np.arange(len(split)), items)
    for band in range(_BANDS):
        # Sorted by the whole hash from this band on, so that in a crowded band the most alike are neighbours.
        rolled = np.roll(signatures.hashes[items], -band, axis=1)
        order = items[np.lexsort(rolled.T[::-1])]
        for left, right in _neighbours(signatures.hashes[order, band], order):
            pairs = _similar(signatures, left, right)
            for one, other in ((pairs.left, pairs.right), (pairs.right, pairs.left)):
                partners.offer(one, other, split[other], pairs.differences)
        _, key, counts = np.unique(signatures.hashes[order, band], return_inverse=True, return_counts=True)
        crowded[order] &= counts[key] > REACH
    return partners, crowded


def _neighbours(
    keys: UInt16[np.ndarray, "n"], order: Int64[np.ndarray, "n"]
) -> Iterator[tuple[Int64[np.ndarray, "p"], Int64[np.ndarray, "p"]]]:
    """Pairs of equal keys at most `REACH` apart in sorted order; no item occurs twice on one side of one yield."""
    left = np.arange(len(keys))
    for step in range(1, REACH + 1):
        left = left[left + step < len(keys)]
        left = left[keys[left] == keys[left + step]]
        if len(left) == 0:
            return
        yield order[left], order[left + step]


class _Pairs(NamedTuple):
    left: Int64[np.ndarray, "p"]
    right: Int64[np.ndarray, "p"]
    differences: Float32[np.ndarray, "p"]


def _similar(signatures: ImageSignatures, left: Int64[np.ndarray, "p"], right: Int64[np.ndarray, "p"]) -> _Pairs:
    """Those of the pairs that look the same."""
    words = signatures.hashes.view(np.uint64)
    close = np.bitwise_count(words[left] ^ words[right]).sum(axis=1) <= _MOST_BITS
    left, right = left[close], right[close]
    # Means over cells differ by no more than what they are means of, so this rules out nothing that is alike.
    close = np.abs(signatures.coarse[left] - signatures.coarse[right]).mean(axis=1) <= MOST_DIFFERENCE + _ROUNDING
    left, right = left[close], right[close]
    parts = [
        _differences(signatures, left[start : start + _CHUNK], right[start : start + _CHUNK])
        for start in range(0, len(left), _CHUNK)
    ]
    differences = np.concatenate([np.zeros(0, dtype=np.float32), *parts])
    same = differences <= MOST_DIFFERENCE
    return _Pairs(left[same], right[same], differences[same])


def _differences(
    signatures: ImageSignatures, left: Int64[np.ndarray, "p"], right: Int64[np.ndarray, "p"]
) -> Float32[np.ndarray, "p"]:
    """Mean absolute difference, brightness and contrast aside; infinity where one place or the colours differ."""

    def normal(items: Int64[np.ndarray, "p"]) -> Float32[np.ndarray, "p k"]:
        values: Float32[np.ndarray, "p k"] = signatures.brightness[items] - signatures.level[items, None]
        values /= signatures.contrast[items, None]
        return values

    apart = np.abs(normal(left) - normal(right))
    colours = np.abs(signatures.colour[left].astype(np.float32) - signatures.colour[right]).mean(axis=1)
    same = (colours <= _MOST_COLOUR) & (apart.max(axis=1) <= _MOST_ANYWHERE)
    differences: Float32[np.ndarray, "p"] = np.where(same, apart.mean(axis=1), np.float32(np.inf))
    return differences


def _sign(pixels: UInt8[Tensor, "n c h w"], stored: Shaped[np.ndarray, "n c h w"]) -> ImageSignatures:
    """The signatures of images of one size, which are equal where they are equal as stored."""
    count, channels, height, width = stored.shape
    head = repr((channels, height, width)).encode()
    digests = [hashlib.sha256(head + image.tobytes()).digest() for image in stored]
    red, green, blue = pixels.expand(-1, 3, -1, -1).float().unbind(1)
    light = 0.299 * red + 0.587 * green + 0.114 * blue
    colours = torch.stack([(blue - light) / 1.772, (red - light) / 1.402], dim=1) + 128
    small = adaptive_avg_pool2d(light[:, None], _SIDE)[:, 0].round()
    level = small.mean(dim=(1, 2))
    apart = small - level[:, None, None]
    contrast = apart.abs().mean(dim=(1, 2))
    return ImageSignatures(
        digests=np.frombuffer(b"".join(digests), dtype=np.uint8).reshape(count, 32),
        sizes=np.tile(np.array([[height, width]], dtype=np.int64), (count, 1)),
        grey=(pixels == pixels[:, :1]).flatten(1).all(dim=1).numpy(),
        brightness=small.byte().flatten(1).numpy(),
        colour=adaptive_avg_pool2d(colours, _COLOUR_SIDE).round().clamp(0, 255).byte().flatten(1).numpy(),
        hashes=_hash(small),
        level=level.numpy(),
        contrast=contrast.numpy(),
        coarse=(adaptive_avg_pool2d(apart, 8).flatten(1) / contrast.clamp(min=FLAT)[:, None]).numpy(),
    )


def _hash(small: Float[Tensor, "n s s"]) -> UInt16[np.ndarray, "n 8"]:
    wide, high = adaptive_avg_pool2d(small, (8, 9)), adaptive_avg_pool2d(small, (9, 8))
    brighter = (wide.diff(dim=2) > _STEP, high.diff(dim=1) > _STEP)
    bits = torch.cat([side.flatten(1) for side in brighter], dim=1).numpy()
    return np.ascontiguousarray(np.packbits(bits[:, _ORDER], axis=1)).view(np.uint16)
