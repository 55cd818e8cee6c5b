"""Draws what two runs take for alike: a query of each of some classes, and its nearest images by each run.

    metriclab run recipes/simclr.toml --out runs/simclr
    metriclab run recipes/untrained-fabrics.toml --set encoder.name=pixels --out runs/pixels
    python docs/neighbours.py runs/pixels "raw pixels" runs/simclr "SimCLR" --out docs/fabrics.jpg

The queries are the first test image of every so many classes: nothing is picked by hand. Framed: of the query's class.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

from metriclab.core.protocols import Dataset
from metriclab.report.embedded import embed_run, open_data

TILE, GAP, TOP = 64, 6, 22
QUERIES, NEAREST = 5, 5


def picture(data: Dataset, index: int, framed: bool) -> Image.Image:
    """An image of the data set, with the frame that says it is of the right class."""
    (pixels,) = data.images(np.array([index])).pixels
    tile = Image.new("RGB", (TILE + GAP, TILE + GAP), "#1a7f37" if framed else "white")
    tile.paste(Image.fromarray(pixels.permute(1, 2, 0).numpy()).resize((TILE, TILE)), (GAP // 2, GAP // 2))
    return tile


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", metavar="RUN NAME", help="Run folders, each with what it is called.")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    paths, names = [Path(path) for path in given.runs[::2]], given.runs[1::2]
    data = open_data(paths[0])
    found = [embed_run(path, data) for path in paths]
    labels = found[0].queries.labels.numpy()
    classes = np.unique(labels)
    queries = [int(np.flatnonzero(labels == name)[0]) for name in classes[:: len(classes) // QUERIES][:QUERIES]]
    step = TILE + GAP
    part = NEAREST * step + 2 * GAP
    page = Image.new("RGB", (step + len(found) * part, TOP + len(queries) * step), "white")
    pen = ImageDraw.Draw(page)
    pen.text((GAP // 2, 4), "query", fill="black", font_size=14)
    for column, name in enumerate(names):
        pen.text((step + column * part + 2 * GAP, 4), f"nearest by {name}", fill="black", font_size=14)
    for row, query in enumerate(queries):
        page.paste(picture(data.queries, query, False), (0, TOP + row * step))
        for column, one in enumerate(found):
            for place in range(NEAREST):
                tile = picture(data.gallery, int(one.near[query, place]), bool(one.right[query, place]))
                page.paste(tile, (step + column * part + 2 * GAP + place * step, TOP + row * step))
    page.save(given.out, quality=75)


if __name__ == "__main__":
    main()
