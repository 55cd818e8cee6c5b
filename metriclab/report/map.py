"""The map of the embeddings: two dimensions, an image under each point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from metriclab.report.blocks import Data as PlainData
from metriclab.report.blocks import Section, shorten
from metriclab.report.embedded import Data, Embedded, project
from metriclab.report.thumbnails import Sheet, Sizes, make_sheet

WIDTH, HEIGHT, ROOM = 960, 600, 16


@dataclass(frozen=True, slots=True)
class Map:
    """The drawing, and the card that follows the pointer: a block.

    Attributes:
        points: places, and whether the nearest image is of another class.
        sheet: all images as one, for the card.
        size: of the drawing.
    """

    points: Sequence[tuple[float, float, bool]]
    sheet: str
    size: tuple[int, int] = (WIDTH, HEIGHT)


def map_section(embedded: Embedded, data: Data, sizes: Sizes) -> Section | None:
    """Queries by their first two principal components; what the script needs stands beside as data."""
    count = len(embedded.queries)
    if count < 2:
        return None
    flat = project(embedded.queries)
    # The same ones at every size, spread over all: a page that had to shrink shows the first of them.
    chosen = np.sort(np.random.default_rng(0).permutation(count)[: sizes.points])
    labels = data.queries.labels[chosen]
    wrong = (labels >= 0) & ~embedded.right[chosen, 0]
    points = [(x, y, bool(one)) for (x, y), one in zip(_place(flat.points[chosen]).tolist(), wrong, strict=True)]
    images = make_sheet(data.queries, chosen.tolist(), sizes)
    shown = f"{len(chosen):,} of the {count:,}" if len(chosen) < count else f"All {count:,}"
    lead = (
        f"{shown} test images by the first two principal components of their embeddings, which hold "
        f"{flat.share[0]:.0%} and {flat.share[1]:.0%} of the variance: what lies together here may be apart in other "
        "dimensions. Point at one to see it with all others of its class, or move to it by the arrow keys."
    )
    facts = PlainData("map-data", _facts(chosen.tolist(), labels, embedded, data, images))
    return Section("map", "Map of the embeddings", [Map(points, images.uri), facts], lead)


def _place(points: np.ndarray) -> np.ndarray:
    """Into the drawing, by one scale for both axes."""
    low, high = points.min(0), points.max(0)
    size = np.array([WIDTH, HEIGHT])
    scale = ((size - 2 * ROOM) / np.maximum(high - low, 1e-12)).min()
    places: np.ndarray = ((points - (low + high) / 2) * scale * np.array([1, -1]) + size / 2).round(1)
    return places


def _facts(rows: list[int], labels: np.ndarray, embedded: Embedded, data: Data, images: Sheet) -> dict[str, Any]:
    near = embedded.labels[rows, 0].tolist()
    kinds = sorted({*labels.tolist(), *near})
    place = {kind: at for at, kind in enumerate(kinds)}
    return {
        "classes": [data.name(kind) for kind in kinds],
        "of": [place[label] for label in labels.tolist()],
        "near": [place[label] for label in near],
        "names": [shorten(str(data.queries.names[row]), 80) for row in rows],
        "cell": images.cell,
        "columns": images.columns,
    }
