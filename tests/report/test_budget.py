"""A page with many large images shrinks them until it fits."""

from __future__ import annotations

import base64
import io
import re
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from PIL import Image

from metriclab.core.batch import Images
from metriclab.core.rows import rows
from metriclab.errors import RecipeError
from metriclab.report.blocks import Charts, Opening, Section
from metriclab.report.embedded import Data, Embedded, find_neighbours
from metriclab.report.gallery import Pictures
from metriclab.report.map import map_section
from metriclab.report.page import render, within_budget
from metriclab.report.thumbnails import LADDER, LAST, Sizes

COUNT, CLASSES, SIDE, SHOWN = 320, 20, 128, 6


class Noise:
    """Large images that hardly compress."""

    def __init__(self) -> None:
        self.labels = np.arange(COUNT) % CLASSES
        self.names = [f"{number}.png" for number in range(COUNT)]
        self.classes = [f"class {number}" for number in range(CLASSES)]
        self.fingerprint = "noise"

    def images(self, items: np.ndarray) -> Images:
        noise = np.random.default_rng(int(items[0])).integers(0, 256, (len(items), 3, SIDE, SIDE), dtype=np.uint8)
        return Images(torch.from_numpy(noise), torch.full((len(items), 2), SIDE))


class Gallery:
    """A page of a few images and a map. It remembers at which sizes it was drawn."""

    def __init__(self) -> None:
        noise = Noise()
        self.data = Data(noise, noise)
        queries = rows(torch.randn(COUNT, 8), torch.from_numpy(noise.labels))
        near, similarity = find_neighbours(queries, queries, 8)
        labels = queries.labels[near]
        right = labels == queries.labels[:, None]
        self.embedded = Embedded(queries, *(side.numpy() for side in (near, similarity, labels, right)))
        self.drawn: list[Sizes] = []

    def opening(self) -> Opening:
        return Opening("Noise", "images that hardly compress")

    def sections(self, sizes: Sizes) -> Iterator[Section | None]:
        self.drawn.append(sizes)
        pictures = Pictures(self.data, sizes)
        yield Section("gallery", "Gallery", [Charts([pictures.gallery(row, "noise") for row in range(SHOWN)])])
        yield map_section(self.embedded, self.data, sizes)


@pytest.fixture(scope="module")
def whole() -> tuple[Gallery, bytes]:
    """The page at its best."""
    gallery = Gallery()
    page = render(gallery, LADDER[0]).encode()
    gallery.drawn.clear()
    return gallery, page


def sides(page: bytes) -> list[int]:
    """The longest side of every image that stands in the page, the sheet of the map apart."""
    found = re.findall(rb'<img src="data:image/\w+;base64,([^"]+)" alt="[^"]+', page)
    return [max(Image.open(io.BytesIO(base64.b64decode(one))).size) for one in found]


def points(page: bytes) -> int:
    return page.count(b"<circle") - 2  # two stand in the legend


def test_a_page_that_fits_has_its_best_images(whole):
    _, page = whole
    assert sides(page) == [LADDER[0].side] * SHOWN
    assert points(page) == COUNT


def test_a_page_that_is_a_byte_too_long_shrinks_by_one_step(whole):
    gallery, page = whole
    smaller = within_budget(gallery, len(page) - 1)
    assert gallery.drawn == [*LADDER[:2]]
    assert sides(smaller) == [LADDER[1].side] * SHOWN
    assert points(smaller) == COUNT
    assert len(smaller) < len(page)


def test_the_smallest_page_loses_points_of_the_map_but_no_image_and_then_it_is_refused(whole):
    gallery, _ = whole
    smallest = render(gallery, LAST).encode()
    gallery.drawn.clear()
    assert within_budget(gallery, len(smallest)) == smallest
    assert gallery.drawn == [*LADDER, LAST]
    assert sides(smallest) == [LAST.side] * SHOWN
    assert points(smallest) == LAST.points
    assert f"{LAST.points} of the {COUNT} test images".encode() in smallest
    with pytest.raises(RecipeError, match=rf"the report would be {len(smallest):,} bytes long, more than") as caught:
        within_budget(gallery, len(smallest) - 1)
    assert caught.value.help == "report on fewer runs, or leave the images out with --no-images"
