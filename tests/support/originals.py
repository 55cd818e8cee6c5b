"""The published benchmarks in small: a few pictures in the folders and lists of the originals."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from scipy.io import savemat

import metriclab.datasets.cars196 as cars196
import metriclab.datasets.cub200 as cub200
import metriclab.datasets.in_shop as in_shop
import metriclab.datasets.market1501 as market1501
import metriclab.datasets.msmt17 as msmt17
import metriclab.datasets.sop as sop
import metriclab.datasets.veri776 as veri776
from metriclab.datasets.benchmark_images import Benchmark, Size
from metriclab.registry import build
from tests.support.pictures import picture

CLASSES = 6  # on each side
PER_CLASS = 3
SMALL = Size(CLASSES * PER_CLASS, CLASSES)


QUERIES = 9
"""In small, of those that have queries and a gallery."""


class Original(NamedTuple):
    """One benchmark in small.

    Attributes:
        module: where its published sizes are.
        write: makes the files in a folder.
        folder: what the archive calls its folder.
        marker: the file by which it is found.
        by_folders: whether it has no lists, and all images of its folders are of it.
    """

    name: str
    module: object
    write: Callable[[Path], None]
    folder: str
    marker: str
    by_folders: bool = False

    def open(self, split, root, **options):
        return build("dataset", self.name, split, root=str(root), **options)

    def shrink(self, patch: pytest.MonkeyPatch, train: Size = SMALL, test: Size = SMALL) -> None:
        """Publishes small sizes, as no test can hold 100,000 images."""
        queries = self.published.queries and QUERIES
        patch.setattr(self.module, "PUBLISHED", self.published._replace(train=train, test=test, queries=queries))

    @property
    def published(self) -> Benchmark:
        return self.module.PUBLISHED


def save(path: Path, number: int) -> None:
    """A picture, every fourth one of them grey."""
    path.parent.mkdir(parents=True, exist_ok=True)
    drawn = picture(number)
    (drawn.convert("L") if number % 4 == 0 else drawn).save(path, format="PNG")  # the content decides, not the ending


def numbered() -> list[tuple[int, int]]:
    """(image, class) of both sides, both from 1."""
    return [(image + 1, image // PER_CLASS + 1) for image in range(2 * CLASSES * PER_CLASS)]


def write_cub200(folder: Path) -> None:
    images, labels = [], []
    for image, bird in numbered():
        path = f"{bird:03}.Bird_{bird}/Bird_{image:04}.jpg"
        save(folder / "images" / path, image)
        images.append(f"{image} {path}")
        labels.append(f"{image} {bird}")
    (folder / "images.txt").write_text("\n".join(images) + "\n")
    (folder / "image_class_labels.txt").write_text("\n".join(labels) + "\n")


CAR_NAMES = np.array([f"Maker {number * 7 % 13} {number}" for number in range(1, 2 * CLASSES + 1)], dtype=object)


def annotations(field: str, rows: list[tuple[str, int]]) -> dict[str, np.ndarray]:
    """A struct array as the original files have it."""
    array = np.array([(path, 1, car) for path, car in rows], dtype=[(field, "O"), ("bbox_x1", "O"), ("class", "O")])
    return {"annotations": array}


def write_cars196(folder: Path) -> None:
    rows = [(f"car_ims/{image:06}.jpg", car) for image, car in numbered()]
    for number, (path, _) in enumerate(rows, 1):
        save(folder / path, number)
    savemat(folder / "cars_annos.mat", {**annotations("relative_im_path", rows), "class_names": CAR_NAMES})


def write_cars196_devkit(folder: Path) -> None:
    """The other form: every class in both folders."""
    (folder / "devkit").mkdir(parents=True)
    files = {"cars_train": "devkit/cars_train_annos.mat", "cars_test": "cars_test_annos_withlabels.mat"}
    for part, (images, file) in enumerate(files.items()):
        rows = [(f"{image:05}.jpg", car) for image, car in numbered() if image % 2 == part]
        for name, _ in rows:
            save(folder / images / name, int(name[:5]))
        savemat(folder / file, annotations("fname", rows))
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": CAR_NAMES})


def write_sop(folder: Path) -> None:
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for image, product in numbered():
        kind = ("bicycle", "chair")[product % 2]
        path = f"{kind}_final/{product}_{image}.JPG"
        save(folder / path, image)
        lines["train" if product <= CLASSES else "test"].append(f"{image} {product} 1 {path}")
    for side, rows in lines.items():
        (folder / f"Ebay_{side}.txt").write_text("\n".join(["image_id class_id super_class_id path", *rows]) + "\n")


def write_in_shop(folder: Path) -> None:
    rows = []
    for image, article in numbered():
        path = f"img/WOMEN/Dresses/id_{article:08}/{image:02}_1_front.jpg"
        save(folder / "Img" / path, image)
        status = "train" if article <= CLASSES else ("query", "gallery")[image % 2]
        rows.append(f"{path}   id_{article:08} {status}")
    (folder / "Eval").mkdir()
    head = [str(len(rows)), "image_name item_id evaluation_status"]
    (folder / "Eval" / "list_eval_partition.txt").write_text("\n".join(head + rows) + "\n")


def _photographs(folder: Path, folders: tuple[str, str, str], named: str, *, twice: bool = False) -> None:
    """With `twice`, queries are images of the gallery as well."""
    where = dict(zip(("train", "query", "gallery"), folders, strict=True))
    for image, identity in numbered():
        part = "train" if identity <= CLASSES else ("query", "gallery")[image % 2]
        for place in {where[part], where["gallery"] if twice and part == "query" else where[part]}:
            save(folder / place / named.format(identity=identity, camera=1 + image % 3, image=image), image)


def write_market1501(folder: Path) -> None:
    _photographs(
        folder, ("bounding_box_train", "query", "bounding_box_test"), "{identity:04}_c{camera}s1_{image:06}_00.jpg"
    )
    (folder / "bounding_box_test" / "Thumbs.db").write_bytes(b"x")


def write_veri776(folder: Path) -> None:
    _photographs(
        folder, ("image_train", "image_query", "image_test"), "{identity:04}_c{camera:03}_{image:08}_0.jpg", twice=True
    )


def write_msmt17(folder: Path) -> None:
    lists: dict[str, list[str]] = {"train": [], "val": [], "query": [], "gallery": []}
    for image, identity in numbered():
        seen = identity <= CLASSES
        number = identity - 1 if seen else identity - CLASSES - 1  # both sides count from 0
        path = f"{number:04}/{number:04}_{image:03}_{1 + image % 3:02}_0303morning_{image:04}_0.jpg"
        save(folder / ("train" if seen else "test") / path, image)
        lists[("train", "val")[image % 4 == 0] if seen else ("query", "gallery")[image % 2]].append(f"{path} {number}")
    for part, lines in lists.items():
        (folder / f"list_{part}.txt").write_text("\n".join(lines) + "\n")


ORIGINALS = [
    Original("cub200", cub200, write_cub200, "CUB_200_2011", "images.txt"),
    Original("cars196", cars196, write_cars196, "cars196", "cars_annos.mat"),
    Original("sop", sop, write_sop, "Stanford_Online_Products", "Ebay_train.txt"),
    Original(
        "in-shop", in_shop, write_in_shop, "In-shop Clothes Retrieval Benchmark",
        "Eval/list_eval_partition.txt",
    ),
    Original("market1501", market1501, write_market1501, "Market-1501-v15.09.15", "bounding_box_train", True),
    Original("veri776", veri776, write_veri776, "VeRi", "image_train", True),
    Original("msmt17", msmt17, write_msmt17, "MSMT17_V1", "list_query.txt"),
]  # fmt: skip
