"""What is particular to each published benchmark: its lists, its class names, what can be wrong with them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.io import savemat

from metriclab.assembly.splits import sides_of
from metriclab.datasets.benchmark_images import Size
from metriclab.errors import DataError
from tests.support.originals import CAR_NAMES, CLASSES, ORIGINALS, annotations, numbered, save, write_cars196_devkit

pytestmark = pytest.mark.usefixtures("cache")
CUB200, CARS196, SOP, IN_SHOP, MARKET1501, VERI776, MSMT17 = ORIGINALS


@pytest.fixture
def folder(tmp_path, monkeypatch):
    for original in ORIGINALS:
        original.shrink(monkeypatch)
    return tmp_path / "files"


def fill(original, folder: Path) -> Path:
    folder.mkdir()
    original.write(folder)
    return folder


def message_of(original, folder: Path) -> str:
    with pytest.raises(DataError) as error:
        original.open("train", folder)
    return error.value.message.replace(str(folder), "ROOT")


def replace(path: Path, old: str, new: str) -> None:
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new, 1))


@pytest.mark.parametrize(
    ("original", "train", "test"),
    [
        (CUB200, Size(5_864, 100), Size(5_924, 100)),
        (CARS196, Size(8_054, 98), Size(8_131, 98)),
        (SOP, Size(59_551, 11_318), Size(60_502, 11_316)),
        (IN_SHOP, Size(25_882, 3_997), Size(14_218 + 12_612, 3_985)),
        (MARKET1501, Size(12_936, 751), Size(3_368 + 19_732 - 3_819, 750)),
        (VERI776, Size(37_778, 576), Size(11_579, 200)),
        (MSMT17, Size(30_248 + 2_373, 1_041), Size(11_659 + 82_161, 3_060)),
    ],
    ids=lambda value: getattr(value, "name", ""),
)
def test_published_sizes(original, train, test):
    published = original.published
    assert (published.train, published.test) == (train, test)


def test_cub200_is_joined_by_image_number_and_ordered_by_class(folder):
    fill(CUB200, folder)
    before = CUB200.open("train", folder, val=0.0)
    assert before.classes[:2] == ["001.Bird_1", "002.Bird_2"]
    assert before.labels.tolist() == [(bird - 1) for _, bird in numbered() if bird <= CLASSES]
    lines = (folder / "image_class_labels.txt").read_text().splitlines()
    (folder / "image_class_labels.txt").write_text("\n".join(lines[::-1]))
    assert CUB200.open("train", folder, val=0.0).fingerprint == before.fingerprint


@pytest.mark.parametrize(
    ("file", "old", "new", "message"),
    [
        ("image_class_labels.txt", "3 1\n", "", "ROOT/image_class_labels.txt: there is no class for image 3"),
        ("image_class_labels.txt", "3 1\n", "3 one\n", "ROOT/image_class_labels.txt: 'one' is no number"),
        ("image_class_labels.txt", "3 1\n", "3\n", "ROOT/image_class_labels.txt:3: 1 cells where there should be 2"),
        ("images.txt", "2 001.Bird_1/Bird_0002.jpg\n", "", "ROOT: the lists have 17 images of 6 classes for train"),
    ],
)
def test_cub200_with_damaged_lists(folder, file, old, new, message):
    fill(CUB200, folder)
    replace(folder / file, old, new)
    assert message_of(CUB200, folder).startswith(message)


def test_cub200_without_its_second_list(folder):
    (fill(CUB200, folder) / "image_class_labels.txt").unlink()
    assert message_of(CUB200, folder) == "ROOT/image_class_labels.txt: No such file or directory"


def test_a_list_that_is_no_text(folder):
    (fill(CUB200, folder) / "images.txt").write_bytes(b"\xff\xfe\x00")
    assert message_of(CUB200, folder) == "ROOT/images.txt: this is no text"


def test_cars196_has_the_same_images_in_both_forms(folder, tmp_path):
    fill(CARS196, folder)
    write_cars196_devkit(tmp_path / "data" / "stanford_cars")
    for split in ("train", "val", "test"):
        whole, parts = CARS196.open(split, folder, val=0.4), CARS196.open(split, tmp_path / "data", val=0.4)
        assert whole.classes == parts.classes
        by_number = sorted((int(Path(name).stem), label) for name, label in zip(parts.names, parts.labels, strict=True))
        assert [
            (int(Path(name).stem), label) for name, label in zip(whole.names, whole.labels, strict=True)
        ] == by_number
    assert whole.classes[6] == f"007.{CAR_NAMES[6]}"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ({"class_names": CAR_NAMES}, "ROOT/cars_annos.mat: there is no variable 'annotations' in it"),
        (
            {**annotations("fname", [("a.jpg", 1), ("b.jpg", 2)]), "class_names": CAR_NAMES},
            "ROOT: the annotations have no field 'relative_im_path'",
        ),
        (
            {**annotations("relative_im_path", [("a.jpg", 1), ("b.jpg", 13)]), "class_names": CAR_NAMES},
            "ROOT: b.jpg is of class 13, but there are names for 12",
        ),
    ],
)
def test_cars196_with_other_annotations(folder, content, message):
    savemat(fill(CARS196, folder) / "cars_annos.mat", content)
    assert message_of(CARS196, folder) == message


def test_cars196_with_damaged_or_missing_annotations(folder, tmp_path):
    (fill(CARS196, folder) / "cars_annos.mat").write_bytes(b"damaged")
    assert message_of(CARS196, folder).startswith("ROOT/cars_annos.mat: damaged or no MATLAB file (")
    write_cars196_devkit(tmp_path / "devkit")
    (tmp_path / "devkit" / "cars_test_annos_withlabels.mat").unlink()
    missing = "ROOT/cars_test_annos_withlabels.mat: there is no such file"
    assert message_of(CARS196, tmp_path / "devkit") == missing


def test_sop_names_a_class_by_number_and_kind(folder):
    data = SOP.open("train", fill(SOP, folder))
    assert data.classes[:2] == ["00001.chair", "00002.bicycle"]
    assert all(
        f"/{data.classes[label][6:]}_final/" in name for name, label in zip(data.names, data.labels, strict=True)
    )


def test_sop_whose_lists_share_a_class(folder):
    replace(fill(SOP, folder) / "Ebay_test.txt", "19 7 1", "19 1 1")
    replace(folder / "Ebay_test.txt", "20 7 1", "20 1 1")
    replace(folder / "Ebay_test.txt", "21 7 1", "21 1 1")
    assert message_of(SOP, folder) == "ROOT: 1 classes are in train and in test, the first is '00001.chair'"


def test_in_shop_has_the_published_queries_and_gallery(folder):
    fill(IN_SHOP, folder)
    queries, gallery = sides_of(IN_SHOP.open("test", folder))
    assert (len(queries.labels), len(gallery.labels)) == (9, 9)
    assert not set(queries.items) & set(gallery.items)


def test_in_shop_unpacked_without_folders(folder):
    fill(IN_SHOP, folder)
    before = IN_SHOP.open("train", folder).fingerprint
    (folder / "Eval" / "list_eval_partition.txt").rename(folder / "list_eval_partition.txt")
    (folder / "Img" / "img").rename(folder / "img")
    assert IN_SHOP.open("train", folder).fingerprint == before


def test_in_shop_with_an_unknown_status(folder):
    replace(fill(IN_SHOP, folder) / "Eval" / "list_eval_partition.txt", "query", "probe")
    assert message_of(IN_SHOP, folder) == (
        "ROOT/Eval/list_eval_partition.txt: the status of img/WOMEN/Dresses/id_00000007/20_1_front.jpg is 'probe', "
        "not train, query, gallery"
    )


@pytest.mark.parametrize("original", [MARKET1501, VERI776, MSMT17], ids=lambda original: original.name)
def test_identity_and_camera_are_read_from_names(original, folder):
    test = original.open("test", fill(original, folder), val=0.0)
    queries, gallery = sides_of(test)
    cameras = {image: 1 + image % 3 for image, identity in numbered() if identity > CLASSES}
    assert sorted(test.groups.tolist()) == sorted(camera - 1 for camera in cameras.values())
    assert len(np.unique(test.labels)) == CLASSES
    assert (len(queries.labels), len(gallery.labels)) == (9, 18 if original is VERI776 else 9)
    assert len(set(queries.items) & set(gallery.items)) == (9 if original is VERI776 else 0)
    for name, label, group in zip(test.names, test.labels, test.groups, strict=True):
        parts = Path(name).name.split("_")
        camera = int(parts[2]) if original is MSMT17 else int(parts[1].partition("s")[0][1:])
        assert group == camera - 1
        assert test.classes[label].endswith(parts[0])


def move(folder: Path, source: str, target: str) -> None:
    """The first image of a folder into another one, or the first line of a list."""
    if (folder / source).is_file():
        first, *rest = (folder / source).read_text().splitlines(keepends=True)
        (folder / source).write_text("".join(rest))
        (folder / target).write_text((folder / target).read_text() + first)
    else:
        image = min((folder / source).iterdir())
        image.replace(folder / target / image.name)


@pytest.mark.parametrize(
    ("original", "change", "name"),
    [
        (MARKET1501, lambda folder: move(folder, "query", "bounding_box_test"), "Market-1501"),
        (VERI776, lambda folder: move(folder, "image_query", "image_test"), "VeRi-776"),
        (MSMT17, lambda folder: move(folder, "list_query.txt", "list_gallery.txt"), "MSMT17"),
        (
            IN_SHOP,
            lambda folder: replace(folder / "Eval" / "list_eval_partition.txt", " query", " gallery"),
            "In-Shop Clothes Retrieval",
        ),
    ],
    ids=["market", "veri", "msmt", "in-shop"],
)
def test_a_query_that_lies_in_the_gallery(original, change, name, folder):
    fill(original, folder)
    change(folder)
    assert message_of(original, folder) == f"ROOT: the lists have 8 queries, {name} has 9"


def test_market_has_distractors_and_no_junk(folder, monkeypatch):
    fill(MARKET1501, folder)
    for number, name in enumerate(["0000_c2s1_000001_00.jpg", "-1_c3s1_000002_00.jpg"]):
        save(folder / "bounding_box_test" / name, 90 + number)
    MARKET1501.shrink(monkeypatch, test=Size(19, 6))
    queries, gallery = sides_of(MARKET1501.open("test", folder))
    assert (gallery.labels.tolist().count(-1), len(gallery.labels), len(queries.labels)) == (1, 10, 9)
    assert gallery.groups[gallery.labels == -1].tolist() == [1]


def test_a_name_without_a_camera(folder):
    fill(VERI776, folder)
    save(folder / "image_query" / "vehicle.jpg", 99)
    assert message_of(VERI776, folder) == (
        "ROOT/image_query/vehicle.jpg: the name does not begin with identity and camera, as 0002_c1s1 does"
    )
    replace(fill(MSMT17, folder / "persons") / "list_query.txt", "_0303morning", "")
    path = (folder / "persons" / "list_query.txt").read_text().split()[0]
    for old in (folder / "persons" / "list_query.txt",):
        old.write_text(old.read_text().replace(path, path.replace("_", "-")))
    assert " has no camera as its third part" in message_of(MSMT17, folder / "persons")
