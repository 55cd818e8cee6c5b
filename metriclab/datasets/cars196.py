"""Cars196 from its original files."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import numpy as np
from annotated_types import Ge, Le, Lt
from scipy.io import loadmat

from metriclab.core.protocols import Split
from metriclab.datasets.benchmark_images import Benchmark, Size, benchmark_split
from metriclab.images.datasets import FileDataset, LabelledFile
from metriclab.registry import register

PUBLISHED = Benchmark(
    name="Cars196",
    page="https://ai.stanford.edu/~jkrause/cars/car_dataset.html",
    layout="cars_annos.mat and car_ims/ (or devkit/, cars_train/, cars_test/ and cars_test_annos_withlabels.mat)",
    folders=("cars196", "stanford_cars"),
    train=Size(8_054, 98),
    test=Size(8_131, 98),
)

_DEVKIT = "devkit/cars_train_annos.mat"


@register("dataset", "cars196")
def Cars196(
    split: Split,
    /,
    *,
    root: str = "data",
    size: Annotated[int, Ge(8), Le(4096)] = 256,
    val: Annotated[float, Ge(0), Lt(1)] = 0.1,
) -> FileDataset:
    """Cars196 (Stanford Cars): 16,185 photographs of cars, split by class for retrieval.

    The first 98 models are train and val, the other 98 are test, whole images without their bounding boxes. The data
    set's own folders for train and test are another split: it is made for classification and has every model on both
    sides. The data set comes in two forms, all images in car_ims or in two folders with a devkit; both are read, but
    their order differs, and so do their fingerprints.

    Paper: Krause et al., 3D Object Representations for Fine-Grained Categorization, 3dRR workshop 2013; split by class
        as in Song et al., Deep Metric Learning via Lifted Structured Feature Embedding, CVPR 2016.

    Args:
        split: train, val or test.
        root: folder of the original files, or one with cars196 or stanford_cars in it.
        size: images are reduced until their short side has this many pixels, never enlarged.
        val: part of the training classes that becomes val; 0 trains on all of them, as most papers do.

    Raises:
        DataError: if anything is missing; it says what, and where to get it.
        StorageError: if the cache cannot be written.
    """
    folder = PUBLISHED.find(root, _DEVKIT)
    if folder is None or (folder / "cars_annos.mat").is_file():
        folder = PUBLISHED.require(root, "cars_annos.mat")
        content = _read(folder / "cars_annos.mat", "annotations", "class_names")
        listed = _listed(folder, "", content["annotations"], "relative_im_path", content["class_names"])
    else:
        names = _read(folder / "devkit" / "cars_meta.mat", "class_names")["class_names"]
        train = _read(folder / _DEVKIT, "annotations")["annotations"]
        test = _read(folder / "cars_test_annos_withlabels.mat", "annotations")["annotations"]
        listed = _listed(folder, "cars_train/", train, "fname", names)
        listed += _listed(folder, "cars_test/", test, "fname", names)
    return benchmark_split(PUBLISHED, split, listed, folder, size=size, val=val)


def _read(path: Path, *variables: str) -> dict[str, np.ndarray]:
    if not path.is_file():
        raise PUBLISHED.error(f"{path}: there is no such file")
    try:
        content: dict[str, Any] = loadmat(path, squeeze_me=True, variable_names=variables)
    except Exception as error:  # scipy meets damage with nearly every exception there is
        raise PUBLISHED.error(f"{path}: damaged or no MATLAB file ({error})") from error
    for name in variables:
        if name not in content:
            raise PUBLISHED.error(f"{path}: there is no variable {name!r} in it")
    return {name: content[name] for name in variables}


def _listed(folder: Path, below: str, annotations: np.ndarray, field: str, names: np.ndarray) -> list[LabelledFile]:
    missing = {field, "class"} - set(annotations.dtype.names or ())
    if missing:
        raise PUBLISHED.error(f"{folder}: the annotations have no field {min(missing)!r}")
    listed = []
    for path, number in zip(annotations[field], annotations["class"].astype(int).tolist(), strict=True):
        if not 1 <= number <= len(names):
            raise PUBLISHED.error(f"{folder}: {path} is of class {number}, but there are names for {len(names)}")
        label = f"{number:03}.{names[number - 1]}"
        side = "train" if number <= PUBLISHED.train.classes else "test"
        listed.append(LabelledFile(folder / f"{below}{path}", label, side, f"{below}{path}"))
    return listed
