"""What is particular to each published benchmark: its lists, its class names, what can be wrong with them."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
from scipy.io import savemat

from metriclab.datasets.benchmark_images import Size
from metriclab.errors import DataError
from tests.support.originals import CAR_NAMES, CLASSES, ORIGINALS, annotations, numbered, write_cars196_devkit

pytestmark = pytest.mark.usefixtures("cache")
CUB200, CARS196, SOP, IN_SHOP = ORIGINALS


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


def test_in_shop_joins_query_and_gallery_and_says_so(folder, caplog):
    fill(IN_SHOP, folder)
    with caplog.at_level(logging.WARNING):
        train = IN_SHOP.open("train", folder)
        assert len(train.with_split("test").labels) == 18
    assert caplog.text.count("not the paper's protocol") == 1


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
