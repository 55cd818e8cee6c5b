"""Stanford Online Products from its original files."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le, Lt

from metriclab.core.protocols import Split
from metriclab.datasets.benchmark_images import Benchmark, Size, benchmark_split
from metriclab.images.datasets import FileDataset, LabelledFile
from metriclab.registry import register

PUBLISHED = Benchmark(
    name="Stanford Online Products",
    page="https://cvgl.stanford.edu/projects/lifted_struct",
    layout="Ebay_train.txt, Ebay_test.txt and the twelve folders bicycle_final/ to toaster_final/ "
    "(all in Stanford_Online_Products.zip)",
    folders=("Stanford_Online_Products",),
    train=Size(59_551, 11_318),
    test=Size(60_502, 11_316),
)


@register("dataset", "sop")
def StanfordOnlineProducts(
    split: Split,
    /,
    *,
    root: str = "data",
    size: Annotated[int, Ge(8), Le(4096)] = 256,
    val: Annotated[float, Ge(0), Lt(1)] = 0.1,
) -> FileDataset:
    """Stanford Online Products: 120,053 photographs of 22,634 products on sale, about 5 of each.

    The split is the published one: 11,318 products are train and val, the other 11,316 are test. A class is a product;
    its name begins with its number and ends with one of twelve kinds.

    Paper: Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, CVPR 2016.

    Args:
        split: train, val or test.
        root: folder with Stanford_Online_Products in it, or Stanford_Online_Products itself.
        size: images are reduced until their short side has this many pixels, never enlarged; at 256 the
            cache takes about 24 GB.
        val: part of the training classes that becomes val; 0 trains on all of them, as most papers do.

    Raises:
        DataError: if anything is missing; it says what, and where to get it.
        StorageError: if the cache cannot be written.
    """
    folder = PUBLISHED.require(root, "Ebay_train.txt")
    listed = []
    for side in ("train", "test"):
        table = folder / f"Ebay_{side}.txt"
        for _, product, _, path in PUBLISHED.table(table, 4, head=1):
            kind = path.partition("/")[0].removesuffix("_final")
            label = f"{PUBLISHED.number(product, table):05}.{kind}"
            listed.append(LabelledFile(folder / path, label, side, path))
    return benchmark_split(PUBLISHED, split, listed, folder, size=size, val=val)
