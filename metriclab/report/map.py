"""The map of the embeddings: two dimensions, an image under each point."""

from __future__ import annotations

from typing import Any

import numpy as np

from metriclab.report.embedded import Data, Embedded, plane
from metriclab.report.html import Markup, Number, Section, data, section, short, tag
from metriclab.report.thumbnails import Sheet, Sizes, sheet

WIDTH, HEIGHT, ROOM = 960, 600, 16


def map_section(embedded: Embedded, known: Data, sizes: Sizes) -> Section | None:
    """Queries by their first two principal components; what the script needs stands beside as data."""
    count = len(embedded.queries)
    if count < 2:
        return None
    flat = plane(embedded.queries)
    # The same ones at every size, spread over all: a page that had to shrink shows the first of them.
    chosen = np.sort(np.random.default_rng(0).permutation(count)[: sizes.points])
    rows = chosen.tolist()
    places = _places(flat.points[chosen])
    labels = known.queries.labels[chosen]
    wrong = (labels >= 0) & ~embedded.right[chosen, 0]
    points = [_point(x, y, not is_wrong) for (x, y), is_wrong in zip(places.tolist(), wrong.tolist(), strict=True)]
    images = sheet(known.queries, rows, sizes)
    return section(
        "map",
        "Map of the embeddings",
        _legend(),
        _stage(points),
        tag("p", class_="quiet says", id="map-says", aria_live="polite"),
        tag("img", src=images.uri, alt="", hidden=True, id="map-sheet"),
        _facts(rows, labels, embedded, known, images),
        lead=_lead(len(rows), count, flat.share),
    )


def _lead(drawn: int, count: int, share: tuple[float, float]) -> str:
    shown = f"{drawn:,} of the {count:,}" if drawn < count else f"All {count:,}"
    return (
        f"{shown} test images by the first two principal components of their embeddings, which hold {share[0]:.0%} "
        f"and {share[1]:.0%} of the variance: what lies together here may be apart in other dimensions. Point at one "
        "to see it with all others of its class, or move to it by the arrow keys."
    )


def _stage(points: list[Markup]) -> Markup:
    """The drawing, and the card that follows the pointer."""
    told = (
        f"Map of {len(points):,} test images. Images of one class should lie together. "
        "Arrow keys move from point to point."
    )
    drawing = tag(
        "svg",
        points,
        viewBox=f"0 0 {WIDTH} {HEIGHT}",
        tabindex=0,
        role="application",
        aria_label=told,
        aria_describedby="map-says",
        class_="map",
        id="map-points",
    )
    card = tag("div", tag("span", class_="picture"), tag("span", class_="words"), class_="card", hidden=True)
    return tag("div", drawing, card, class_="stage")


def _legend() -> Markup:
    same = tag("li", _key(True), "nearest image is of the same class")
    other = tag("li", _key(False), "nearest image is of another class")
    return tag("ul", same, other, class_="legend")


def _places(points: np.ndarray) -> np.ndarray:
    """Into the drawing, by one scale for both axes."""
    low, high = points.min(0), points.max(0)
    scale = min(
        (side - 2 * ROOM) / max(extent, 1e-12) for side, extent in zip((WIDTH, HEIGHT), high - low, strict=True)
    )
    centred = (points - (low + high) / 2) * scale * np.array([1, -1])
    places: np.ndarray = (centred + np.array([WIDTH, HEIGHT]) / 2).round(1)
    return places


def _point(x: Number, y: Number, is_right: bool) -> Markup:
    # A ring for a wrong one: the two can be told apart without colours.
    return tag("circle", cx=f"{x:g}", cy=f"{y:g}", r=3 if is_right else 3.6, class_=None if is_right else "wrong")


def _key(is_right: bool) -> Markup:
    return tag("svg", _point(8, 8, is_right), viewBox="0 0 16 16", class_="map key", aria_hidden="true")


def _facts(rows: list[int], labels: np.ndarray, embedded: Embedded, known: Data, images: Sheet) -> Markup:
    kinds = sorted(set(labels.tolist()) | set(embedded.labels[rows, 0].tolist()))
    place: dict[Any, int] = {kind: at for at, kind in enumerate(kinds)}
    return data(
        "map-data",
        {
            "classes": [known.name(kind) for kind in kinds],
            "of": [place[label] for label in labels.tolist()],
            "near": [place[label] for label in embedded.labels[rows, 0].tolist()],
            "names": [short(str(known.queries.names[row]), 80) for row in rows],
            "cell": images.cell,
            "columns": images.columns,
        },
    )
