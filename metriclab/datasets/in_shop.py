"""In-Shop Clothes Retrieval (DeepFashion) from its original files."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le, Lt

from metriclab.core.protocols import Split
from metriclab.datasets.benchmark_images import Benchmark, Size, benchmark_split
from metriclab.images.datasets import FileDataset, LabelledFile
from metriclab.registry import register

PUBLISHED = Benchmark(
    name="In-Shop Clothes Retrieval",
    page="https://mmlab.ie.cuhk.edu.hk/projects/DeepFashion/InShopRetrieval.html",
    layout="Eval/list_eval_partition.txt and Img/img/ (in img.zip)",
    folders=("In-shop Clothes Retrieval Benchmark",),
    train=Size(25_882, 3_997),
    test=Size(26_830, 3_985),
    queries=14_218,
)

_SIDES = {"train": "train", "query": "test", "gallery": "test"}


@register("dataset", "in-shop")
def InShop(
    split: Split,
    /,
    *,
    root: str = "data",
    size: Annotated[int, Ge(8), Le(4096)] = 256,
    val: Annotated[float, Ge(0), Lt(1)] = 0.1,
) -> FileDataset:
    """In-Shop Clothes Retrieval: 52,712 photographs of 7,982 articles of clothing, by the published protocol.

    3,997 articles are train and val, the other 3,985 are test: 14,218 queries against a gallery of 12,612 images.

    Paper: Liu et al., DeepFashion: Powering Robust Clothes Recognition and Retrieval with Rich Annotations, CVPR 2016.

    Args:
        split: train, val or test.
        root: folder with Eval and Img in it, or one with "In-shop Clothes Retrieval Benchmark" in it. The list and
            img may also lie in it directly.
        size: images are reduced until their short side has this many pixels, never enlarged; at 256 the
            cache takes about 10 GB.
        val: part of the training classes that becomes val; 0 trains on all of them, as most papers do.

    Raises:
        DataError: if anything is missing; it says what, and where to get it.
        StorageError: if the cache cannot be written.
    """
    file = "list_eval_partition.txt"
    folder = PUBLISHED.find(root, file) or PUBLISHED.require(root, f"Eval/{file}")
    table = folder / file if (folder / file).is_file() else folder / "Eval" / file
    images = folder / "Img" if (folder / "Img" / "img").is_dir() else folder
    listed = []
    for path, article, status in PUBLISHED.table(table, 3, head=2):
        if status not in _SIDES:
            raise PUBLISHED.error(f"{table}: the status of {path} is {status!r}, not {', '.join(_SIDES)}")
        query, gallery = status == "query", status == "gallery"
        listed.append(LabelledFile(images / path, article, _SIDES[status], path, query=query, gallery=gallery))
    return benchmark_split(PUBLISHED, split, listed, folder, size=size, val=val)
