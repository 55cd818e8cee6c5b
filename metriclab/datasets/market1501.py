"""Market-1501 from its original files."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le, Lt

from metriclab.core.protocols import Split
from metriclab.datasets.benchmark_images import Benchmark, Size
from metriclab.datasets.reidentification import open_folders
from metriclab.images.datasets import FileDataset
from metriclab.registry import register

PUBLISHED = Benchmark(
    name="Market-1501",
    page="https://zheng-lab.cecs.anu.edu.au/Project/project_reid.html",
    layout="bounding_box_train/, bounding_box_test/ and query/ (all in Market-1501-v15.09.15.zip)",
    folders=("Market-1501-v15.09.15", "market1501"),
    train=Size(12_936, 751),
    test=Size(19_281, 750),  # without junk
    queries=3_368,
)


@register("dataset", "market1501")
def Market1501(
    split: Split,
    /,
    *,
    root: str = "data",
    size: Annotated[int, Ge(8), Le(4096)] = 128,
    val: Annotated[float, Ge(0), Lt(1)] = 0.1,
) -> FileDataset:
    """Market-1501: 1,501 people as six cameras before a supermarket saw them; the published queries and gallery.

    751 people are train and val, the other 750 are test. Of the gallery the distractors, of nobody who is looked for,
    have an unknown label, and the junk images (identity -1), which the protocol does not count, are left out.

    Paper: Zheng et al., Scalable Person Re-identification: A Benchmark, ICCV 2015.

    Args:
        split: train, val or test.
        root: folder with Market-1501-v15.09.15 in it, or that folder itself.
        size: images are reduced until their short side has this many pixels, never enlarged; they are 64 x 128.
        val: part of the people trained on that becomes val; 0 trains on all of them, as most papers do.

    Raises:
        DataError: if anything is missing; it says what, and where to get it.
        StorageError: if the cache cannot be written.
    """
    return open_folders(
        PUBLISHED, ("bounding_box_train", "query", "bounding_box_test"), split, root=root, size=size, val=val
    )
