"""MSMT17 from its original files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from annotated_types import Ge, Le, Lt

from metriclab.core.protocols import Split
from metriclab.datasets.benchmark_images import Benchmark, Size, benchmark_split
from metriclab.datasets.reidentification import photograph
from metriclab.images.datasets import FileDataset
from metriclab.registry import register

PUBLISHED = Benchmark(
    name="MSMT17",
    page="https://www.pkuvmc.com/dataset.html",
    layout="train/, test/ and list_train.txt, list_val.txt, list_query.txt and list_gallery.txt",
    folders=("MSMT17_V1", "MSMT17"),
    train=Size(32_621, 1_041),
    test=Size(93_820, 3_060),
    queries=11_659,
)


@register("dataset", "msmt17")
def MSMT17(
    split: Split,
    /,
    *,
    root: str = "data",
    size: Annotated[int, Ge(8), Le(4096)] = 128,
    val: Annotated[float, Ge(0), Lt(1)] = 0.1,
) -> FileDataset:
    """MSMT17: 4,101 people as fifteen cameras on a campus saw them; the published queries and gallery.

    1,041 people are train and val, those of list_val.txt among them, the other 3,060 are test.

    Paper: Wei et al., Person Transfer GAN to Bridge Domain Gap for Person Re-Identification, CVPR 2018.

    Args:
        split: train, val or test.
        root: folder with MSMT17_V1 in it, or that folder itself.
        size: images are reduced until their short side has this many pixels, never enlarged.
        val: part of the people trained on that becomes val; 0 trains on all of them, as most papers do.

    Raises:
        DataError: if anything is missing; it says what, and where to get it.
        StorageError: if the cache cannot be written.
    """
    folder = PUBLISHED.require(root, "list_query.txt")
    listed = []
    for part, below in (("train", "train"), ("val", "train"), ("query", "test"), ("gallery", "test")):
        table = folder / f"list_{part}.txt"
        for path, identity in PUBLISHED.table(table, 2):
            cells = Path(path).name.split("_")
            if len(cells) < 3 or not cells[2].isdecimal():
                raise PUBLISHED.error(f"{table}: {path} has no camera as its third part")
            listed.append(
                photograph(folder / below, path, f"{below} {PUBLISHED.number(identity, table):04}", cells[2], part)
            )
    return benchmark_split(PUBLISHED, split, listed, folder, size=size, val=val)
