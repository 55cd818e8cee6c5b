"""CUB-200-2011 from its original files."""

from __future__ import annotations

from typing import Annotated

from annotated_types import Ge, Le, Lt

from metriclab.core.protocols import Split
from metriclab.datasets.benchmark_images import Benchmark, Size, benchmark_split
from metriclab.images.datasets import FileDataset, LabelledFile
from metriclab.registry import register

PUBLISHED = Benchmark(
    name="CUB-200-2011",
    page="https://www.vision.caltech.edu/datasets/cub_200_2011",
    layout="images.txt, image_class_labels.txt and images/ (all in CUB_200_2011.tgz)",
    folders=("CUB_200_2011",),
    train=Size(5_864, 100),
    test=Size(5_924, 100),
)


@register("dataset", "cub200")
def CUB200(
    split: Split,
    /,
    *,
    root: str = "data",
    size: Annotated[int, Ge(8), Le(4096)] = 256,
    val: Annotated[float, Ge(0), Lt(1)] = 0.1,
) -> FileDataset:
    """CUB-200-2011: 11,788 photographs of birds, split by class for retrieval.

    The first 100 species are train and val, the other 100 are test, whole images without their bounding boxes. The
    data set's own split is another one: it is made for classification and has every species on both sides.

    Paper: Wah et al., The Caltech-UCSD Birds-200-2011 Dataset, 2011; split by class as in Song et al., Deep Metric
        Learning via Lifted Structured Feature Embedding, CVPR 2016.

    Args:
        split: train, val or test.
        root: folder with CUB_200_2011 in it, or CUB_200_2011 itself.
        size: images are reduced until their short side has this many pixels, never enlarged.
        val: part of the training classes that becomes val; 0 trains on all of them, as most papers do.

    Raises:
        DataError: if anything is missing; it says what, and where to get it.
        StorageError: if the cache cannot be written.
    """
    folder = PUBLISHED.require(root, "images.txt")
    labels = dict(PUBLISHED.table(folder / "image_class_labels.txt", 2))
    listed = []
    for image, path in PUBLISHED.table(folder / "images.txt", 2):
        if image not in labels:
            raise PUBLISHED.error(f"{folder / 'image_class_labels.txt'}: there is no class for image {image}")
        number = PUBLISHED.number(labels[image], folder / "image_class_labels.txt")
        side = "train" if number <= PUBLISHED.train.classes else "test"
        listed.append(LabelledFile(folder / "images" / path, path.partition("/")[0], side, path))
    return benchmark_split(PUBLISHED, split, listed, folder, size=size, val=val)
