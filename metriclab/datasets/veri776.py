"""VeRi-776 from its original files."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le, Lt

from metriclab.core.protocols import Split
from metriclab.datasets.benchmark_images import Benchmark, Size
from metriclab.datasets.reidentification import open_folders
from metriclab.images.datasets import FileDataset
from metriclab.registry import register

PUBLISHED = Benchmark(
    name="VeRi-776",
    page="https://github.com/JDAI-CV/VeRidataset",
    layout="image_train/, image_test/ and image_query/",
    folders=("VeRi", "VeRi776", "VeRi-776"),
    train=Size(37_778, 576),
    test=Size(11_579, 200),
    queries=1_678,
)


@register("dataset", "veri776")
def VeRi776(
    split: Split,
    /,
    *,
    root: str = "data",
    size: Annotated[int, Ge(8), Le(4096)] = 256,
    val: Annotated[float, Ge(0), Lt(1)] = 0.1,
) -> FileDataset:
    """VeRi-776: 776 vehicles as twenty cameras along a road saw them; the published queries and gallery.

    576 vehicles are train and val, the other 200 are test.

    Paper: Liu et al., A Deep Learning-Based Approach to Progressive Vehicle Re-identification for Urban Surveillance,
        ECCV 2016.

    Args:
        split: train, val or test.
        root: folder with VeRi in it, or VeRi itself.
        size: images are reduced until their short side has this many pixels, never enlarged.
        val: part of the vehicles trained on that becomes val; 0 trains on all of them, as most papers do.

    Raises:
        DataError: if anything is missing; it says what, and where to get it.
        StorageError: if the cache cannot be written.
    """
    return open_folders(PUBLISHED, ("image_train", "image_query", "image_test"), split, root=root, size=size, val=val)
