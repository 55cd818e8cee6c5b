"""How `fabrics` draws: a patch of cloth with a wavy outline before a cluttered background.

All but the pattern is chance, and chance is the raw stream of numpy's Philox, which numpy guarantees for ever. Numbers
are float32 under operations that IEEE 754 fixes, and sines come from a table: no image depends on the processor.
"""

# mypy: disable-error-code="no-any-return"
# numpy types the results of its ufuncs as Any.

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float32, UInt8

from metriclab.datasets.fabric_patterns import FAMILIES, MOTIFS, Plane, cell, invert

Image = Float32[np.ndarray, "n 3 h w"]
Numbers = Float32[np.ndarray, "n k 1 1"]
Axis = Float32[np.ndarray, "1 1 _ _"]
Colour = Float32[np.ndarray, "n 3 1 1"]

_BLOCK = 32
"""Images drawn at once: their planes stay in a processor's cache."""

_TURNS = 4096
_SINES = np.array([round(math.sin(2 * math.pi * k / _TURNS) * 2**20) / 2**20 for k in range(_TURNS)], dtype=np.float32)
_NODES = 4  # of a cloud, along each side


@dataclass(frozen=True, slots=True)
class Cloth:
    """What a class looks like.

    Attributes:
        family: see `FAMILIES`.
        stretch: period along the pattern's second direction, in periods of the first.
        bold: added to the height, in periods: ink grows with it.
        motif: one of `MOTIFS`, or "" for none.
        hue: the colour it tends to, from 0 to 1.
        direction: which way it tends to be turned, from -1 to 1.
    """

    family: str
    stretch: float = 1.0
    bold: float = 0.0
    motif: str = ""
    hue: float = 0.0
    direction: float = 0.0


@dataclass(frozen=True, slots=True)
class Scene:
    """What hides the pattern. See `Fabrics` for the settings."""

    size: int
    turn: float
    clutter: int
    noise: float
    preference: float


class _Chance:
    """Numbers in [0, 1) and bytes for n images; each image has a row of the stream, so more images change no other."""

    def __init__(self, seed: list[int], count: int, numbers: int, bytes_: int) -> None:
        row = numbers + -(-bytes_ // 8)
        raw = np.random.Philox(np.random.SeedSequence(seed)).random_raw(count * row).reshape(count, row)
        self._numbers = ((raw[:, :numbers] >> 40).astype(np.float32) * np.float32(2**-24))[:, :, None, None]
        self.bytes = raw[:, numbers:].astype("<u8").view(np.uint8)[:, :bytes_]
        self._used = 0

    def take(self, count: int) -> Numbers:
        self._used += count
        return self._numbers[:, self._used - count : self._used]


def draw(cloth: Cloth, scene: Scene, count: int, seed: list[int]) -> UInt8[np.ndarray, "n 3 h w"]:
    """The first `count` images of one class; more of them begin with the same ones."""
    starts = range(0, count, _BLOCK)
    return np.concatenate([_draw(cloth, scene, min(_BLOCK, count - start), [*seed, start]) for start in starts])


def _draw(cloth: Cloth, scene: Scene, count: int, seed: list[int]) -> UInt8[np.ndarray, "n 3 h w"]:
    size = scene.size
    chance = _Chance(seed, count, 25 + 2 * _NODES**2 + 5 * scene.clutter, 6 * size**2)
    line = ((np.arange(size, dtype=np.float32) + 0.5) / size - 0.5).astype(np.float32)
    x, y = line[None, None, None, :], line[None, None, :, None]
    ink = _ink(cloth, scene, chance, x, y)
    cloth_image = _lerp(*_colours(cloth, scene, chance), ink)
    cloth_image *= 1 + 0.4 * (_cloud(chance, size) - 0.5)
    image = _background(scene, chance, x, y)
    image = _lerp(image, cloth_image, _patch(scene, chance, x, y))
    sine, cosine = _sine_and_cosine(chance.take(1))
    image *= 1 + 0.4 * (cosine * x + sine * y)  # light from one side
    image += _grain(chance, scene)
    return np.rint(image.clip(0, 1) * 255).astype(np.uint8)


def _ink(cloth: Cloth, scene: Scene, chance: _Chance, x: Axis, y: Axis) -> Plane:
    """How much of each pixel of the cloth is ink."""
    prefers, direction = chance.take(1) < scene.preference, 2 * chance.take(1) - 1
    direction = np.where(prefers, np.float32(cloth.direction) + 0.25 * direction, direction)
    sine, cosine = _sine_and_cosine(direction * np.float32(scene.turn / 360))
    periods = 2 + 1.5 * chance.take(1)
    u = periods * (cosine * x + sine * y) + chance.take(1)
    v = periods * (cosine * y - sine * x) / np.float32(cloth.stretch) + chance.take(1)
    height = FAMILIES[cloth.family](u, v) + np.float32(cloth.bold)
    if cloth.motif:
        height = invert(height, MOTIFS[cloth.motif](u, v))
    return (height / periods * scene.size + 0.5).clip(0, 1)


def _colours(cloth: Cloth, scene: Scene, chance: _Chance) -> tuple[Colour, Colour]:
    """Two colours of the cloth, pushed apart in brightness where they are too alike."""
    prefers, hue = chance.take(1) < scene.preference, chance.take(1)
    hue = np.where(prefers, np.float32(cloth.hue) + 0.12 * (hue - 0.5), hue)
    full = (6 * abs(cell(hue - np.array([0, 1 / 3, 2 / 3], dtype=np.float32)[:, None, None])) - 1).clip(0, 1)
    one = (0.4 + 0.6 * chance.take(1)) * (1 - (0.3 + 0.7 * chance.take(1)) * full)
    two = chance.take(3)
    gap = _brightness(one) - _brightness(two)
    push = np.copysign((np.float32(0.4) - abs(gap)).clip(0) / 2, gap)
    return one + push, two - push


def _brightness(colour: Colour) -> Numbers:
    return np.float32(0.299) * colour[:, :1] + np.float32(0.587) * colour[:, 1:2] + np.float32(0.114) * colour[:, 2:]


def _background(scene: Scene, chance: _Chance, x: Axis, y: Axis) -> Image:
    """A cloud of two colours, and bars across it."""
    image = _lerp(chance.take(3), chance.take(3), _cloud(chance, scene.size))
    for _ in range(scene.clutter):
        sine, cosine = _sine_and_cosine(chance.take(1) / 2)
        bar = (0.05 - abs(cosine * x + sine * y - (chance.take(1) - 0.5))) * scene.size
        image = _lerp(image, chance.take(3), (bar + 0.5).clip(0, 1))
    return image


def _patch(scene: Scene, chance: _Chance, x: Axis, y: Axis) -> Plane:
    """Where the cloth is: a disc somewhere near the middle, with three and five waves on its edge."""
    radius = (0.9 + 0.4 * chance.take(1)) / 2
    x, y = x - 0.35 * (chance.take(1) - 0.5), y - 0.35 * (chance.take(1) - 0.5)
    distance = np.sqrt(x * x + y * y) + np.float32(1e-6)
    cosine, sine = x / distance, y / distance
    cosine2, sine2 = cosine * cosine - sine * sine, 2 * cosine * sine
    cosine3, sine3 = cosine2 * cosine - sine2 * sine, sine2 * cosine + cosine2 * sine
    cosine5, sine5 = cosine3 * cosine2 - sine3 * sine2, sine3 * cosine2 + cosine3 * sine2
    a, b = _sine_and_cosine(chance.take(1))
    c, d = _sine_and_cosine(chance.take(1))
    edge = radius * (1 + 0.12 * (a * cosine3 + b * sine3) + 0.08 * (c * cosine5 + d * sine5))
    return ((edge - distance) * scene.size + 0.5).clip(0, 1)


def _cloud(chance: _Chance, size: int) -> Plane:
    """Smooth values in [0, 1] between random nodes."""
    nodes = chance.take(_NODES**2).reshape(-1, 1, _NODES, _NODES)
    place = np.arange(size, dtype=np.float32) * np.float32((_NODES - 1) / max(1, size - 1))
    low = np.minimum(np.floor(place).astype(np.int64), _NODES - 2)
    share = place - low.astype(np.float32)
    share = share * share * (3 - 2 * share)
    rows = _lerp(nodes[:, :, low], nodes[:, :, low + 1], share[:, None])
    return _lerp(rows[..., low], rows[..., low + 1], share)


def _grain(chance: _Chance, scene: Scene) -> Image:
    """Noise of one standard deviation a channel: the difference of two bytes."""
    pairs = chance.bytes.reshape(-1, 3, scene.size, scene.size, 2).astype(np.float32)
    return (pairs[..., 0] - pairs[..., 1]) * np.float32(scene.noise / 104.5)


def _sine_and_cosine(turns: Numbers) -> tuple[Numbers, Numbers]:
    index = np.floor(turns * _TURNS).astype(np.int64)
    return _SINES[index % _TURNS], _SINES[(index + _TURNS // 4) % _TURNS]


def _lerp(one: np.ndarray, two: np.ndarray, share: np.ndarray) -> np.ndarray:
    return one + (two - one) * share
