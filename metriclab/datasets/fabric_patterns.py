"""The patterns of `fabrics`: heights over the plane, in the coordinates of a lattice; ink is where they are above 0.

A height is a distance in periods of the lattice, so its edge can be drawn as sharp as pixels allow. Only `+ - * /`,
square roots, comparisons and floors are used: IEEE 754 fixes their results, so every machine draws the same bytes.
"""

# mypy: disable-error-code="no-any-return"
# numpy types the results of its ufuncs as Any.

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Float32
from numpy import maximum, minimum

Plane = Float32[np.ndarray, "n 1 h w"]


def cell(x: Float32[np.ndarray, "*n"]) -> Float32[np.ndarray, "*n"]:
    """The place in its period, from -0.5 to 0.5."""
    return x - np.floor(x + np.float32(0.5))


def triangle(x: Plane) -> Plane:
    """A triangle wave of period 1 from -1 to 1."""
    return 4 * abs(cell(x)) - 1


def _round(x: Plane) -> Plane:
    """A wave like a sine: a triangle with a cubic over it."""
    t = triangle(x)
    return t * (1.5 - 0.5 * t * t)


def _radius(u: Plane, v: Plane) -> Plane:
    return np.sqrt(u * u + v * v)


def _staggered(u: Plane, v: Plane) -> tuple[Plane, Plane]:
    """The cell of a lattice whose odd rows are moved by half a period."""
    row = np.floor(v + np.float32(0.5))
    return cell(u + 0.5 * (row - 2 * np.floor(row / 2))), cell(v)


def _checks(u: Plane, v: Plane) -> Plane:
    a, b = triangle(u), triangle(v)
    return np.copysign(minimum(abs(a), abs(b)), a * b) / 4


def _pluses(u: Plane, v: Plane) -> Plane:
    a, b = abs(cell(u)), abs(cell(v))
    return maximum(minimum(0.1 - a, 0.38 - b), minimum(0.1 - b, 0.38 - a))


def _bricks(u: Plane, v: Plane) -> Plane:
    a, b = _staggered(u * 0.6, v * 1.2)
    return minimum(0.45 - abs(a), 0.4 - abs(b)) / 0.8


def _triangles(u: Plane, v: Plane) -> Plane:
    a, b = cell(u), cell(v)
    return minimum(b + 0.33, (0.33 - 2 * abs(a) - b) / 2.2)


def _dashes(u: Plane, v: Plane) -> Plane:
    a, b = _staggered(u * 0.7, v * 1.6)
    return minimum(0.33 - abs(a), 0.2 - abs(b)) / 1.2


def _scales(u: Plane, v: Plane) -> Plane:
    a, b = _staggered(u, v * 1.3)
    return 0.08 - abs(_radius(a, b + 0.35) - 0.6)


def _hatch(u: Plane, v: Plane) -> Plane:
    left, right = 0.866 * v - 0.5 * u, 0.866 * v + 0.5 * u
    return 0.1 - minimum(abs(cell(u)), minimum(abs(cell(left)), abs(cell(right))))


def _crescents(u: Plane, v: Plane) -> Plane:
    a, b = cell(u), cell(v)
    return minimum(0.36 - _radius(a, b), _radius(a - 0.16, b) - 0.26)


def _tees(u: Plane, v: Plane) -> Plane:
    a, b = abs(cell(u)), cell(v)
    return maximum(minimum(0.38 - a, 0.1 - abs(b + 0.25)), minimum(0.1 - a, 0.34 - abs(b)))


FAMILIES: dict[str, Callable[[Plane, Plane], Plane]] = {
    "stripes": lambda u, v: triangle(u) / 4,
    "lines": lambda u, v: 0.08 - abs(cell(u)),
    "pairs": lambda u, v: 0.08 - abs(abs(cell(u)) - 0.2),
    "checks": _checks,
    "grid": lambda u, v: 0.1 - minimum(abs(cell(u)), abs(cell(v))),
    "dots": lambda u, v: 0.3 - _radius(cell(u), cell(v)),
    "rings": lambda u, v: 0.09 - abs(_radius(cell(u), cell(v)) - 0.32),
    "pluses": _pluses,
    "bricks": _bricks,
    "zigzag": lambda u, v: triangle(u + 0.35 * triangle(v * 0.8)) / 5,
    "waves": lambda u, v: 0.14 - abs(cell(u + 0.25 * _round(v * 0.7))),
    "triangles": _triangles,
    "squares": lambda u, v: 0.22 - maximum(abs(cell(u)), abs(cell(v))),
    "dashes": _dashes,
    "scales": _scales,
    "plaid": lambda u, v: maximum(0.2 - abs(cell(u)), 0.06 - abs(abs(cell(v)) - 0.15)),
    "hatch": _hatch,
    "steps": lambda u, v: triangle(u + 0.5 * np.floor(v + np.float32(0.5))) / 4,
    "crescents": _crescents,
    "tees": _tees,
}
"""The pattern families by name."""

UNIFORM_ALONG_V = ("stripes", "lines", "pairs")
"""Families that a stretch along v leaves as they are."""

MOTIFS: dict[str, Callable[[Plane, Plane], Plane]] = {
    "spotted": lambda u, v: 0.13 - _radius(cell(u + 0.5), cell(v + 0.5)),
    "crossed": lambda u, v: 0.07 - abs(cell(0.5 * (u + v))),
}
"""Second motifs: where they are, ink and ground change places."""


def invert(height: Plane, motif: Plane) -> Plane:
    """The pattern with ink and ground exchanged where the motif is."""
    return minimum(maximum(height, motif), -minimum(height, motif))
