from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from metriclab.datasets.folder import Folder
from metriclab.errors import DataError
from metriclab.images import build as image_build
from metriclab.images.files import ImageFiles
from tests.support.pictures import classes, fill, picture

pytestmark = pytest.mark.usefixtures("cache")
SPLITS = ("train", "val", "test")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "pets"


def open_all(root, **options):
    return {split: Folder(split, root=str(root), **options) for split in SPLITS}


def names(data):
    return {Path(name).parent.name + "/" + Path(name).name for name in data.names}


def test_class_folders_are_split_by_image(root):
    classes(root, cats=30, dogs=30)
    splits = open_all(root)
    everything = [name for data in splits.values() for name in names(data)]
    assert len(everything) == len(set(everything)) == 60
    assert len(splits["train"].labels) > len(splits["test"].labels) > len(splits["val"].labels) > 0
    for data in splits.values():
        assert data.classes == ["cats", "dogs"]
        assert [data.classes[label] for label in data.labels] == [Path(name).parent.name for name in data.names]
        assert data.labels.dtype == np.int64


def test_images_are_those_of_the_files(root):
    classes(root, cats=12, dogs=12)
    data = Folder("train", root=str(root))
    images = data.images(np.array([3, 0]))
    for row, item in enumerate((3, 0)):
        path = Path(data.names[item])
        number = int(path.stem) + 100 * (path.parent.name == "dogs")
        assert (images.pixels[row].numpy() == np.asarray(picture(number)).transpose(2, 0, 1)).all()


def test_images_of_different_shapes_are_padded(root):
    root.mkdir()
    for number, size in enumerate([(20, 12), (8, 30), (64, 64)]):
        picture(number, *size).save(root / f"{number}.png")
    images = Folder("train", root=str(root), size=16, val=0.0, test=0.0).images(np.array([0, 1, 2, 0]))
    assert images.sizes.tolist() == [[12, 20], [30, 8], [16, 16], [12, 20]]
    assert images.pixels.shape == (4, 3, 30, 20)
    assert (images.pixels[1, :, :, :8].numpy() == np.asarray(picture(1, 8, 30)).transpose(2, 0, 1)).all()
    assert images.pixels[1, :, :, 8:].max() == 0


def test_classes_can_be_kept_apart(root):
    classes(root, **{f"c{number}": 3 for number in range(12)})
    splits = open_all(root, disjoint=True)
    sets = [set(data.labels) for data in splits.values()]
    assert len(set().union(*sets)) == sum(map(len, sets)) == 12
    assert min(map(len, sets)) >= 2
    assert sum(len(data.labels) for data in splits.values()) == 36


@pytest.mark.parametrize("disjoint", [False, True])
def test_new_classes_move_nothing_and_a_new_file_one_image_at_each_border_at_most(root, disjoint):
    classes(root, **{f"c{number}": 8 for number in range(40)})
    before = {split: names(data) for split, data in open_all(root, disjoint=disjoint).items()}
    classes(root, **{f"new{number}": 8 for number in range(40)})
    after = {split: names(data) for split, data in open_all(root, disjoint=disjoint).items()}
    assert all(before[split] <= after[split] for split in SPLITS)
    fill(root / "c1", 9)
    later = {split: names(data) for split, data in open_all(root, disjoint=disjoint).items()}
    moved = [len(after[split] - later[split]) for split in SPLITS]
    assert max(moved) <= (0 if disjoint else 1)


def test_split_folders_are_kept_and_missing_ones_carved_out_of_train(root):
    classes(root / "train", cats=20, dogs=20)
    classes(root / "test", cats=4, wolves=4)
    splits = open_all(root)
    assert splits["test"].classes == ["cats", "dogs", "wolves"]
    assert Counter(splits["test"].labels.tolist()) == {0: 4, 2: 4}
    assert len(splits["train"].labels) + len(splits["val"].labels) == 40
    classes(root / "val", dogs=3)
    assert [len(data.labels) for data in open_all(root).values()] == [40, 3, 8]


def test_a_class_may_be_called_train(root):
    classes(root, train=10, plane=10)
    assert Folder("train", root=str(root)).classes == ["plane", "train"]


def test_a_flat_folder_has_no_labels(root):
    fill(root, 20)
    splits = open_all(root)
    assert sum(len(data.labels) for data in splits.values()) == 20
    for data in splits.values():
        assert set(data.labels) == {-1}
        assert data.classes == []


def test_unlabelled_training_with_a_labelled_test(root):
    fill(root / "train", 10)
    classes(root / "test", cats=3, dogs=3)
    assert set(Folder("train", root=str(root)).labels) == {-1}
    assert Folder("test", root=str(root)).labels.tolist() == [0, 0, 0, 1, 1, 1]


def test_other_files_hidden_files_and_nested_folders(root):
    classes(root, cats=5, dogs=5)
    (root / "notes.txt").write_text("x")
    (root / "cats" / "Thumbs.db").write_text("x")
    (root / "cats" / "._000.png").write_text("x")
    (root / ".cache").mkdir()
    fill(root / "cats" / "old", 2)
    data = Folder("train", root=str(root), val=0.0, test=0.0)
    assert Counter(data.labels.tolist()) == {0: 7, 1: 5}


def test_a_manifest(root):
    paths = fill(root / "images", 8)
    rows = [f"images/{path.name},{label},{split}" for path, label, split in zip(
        paths, ["a", "b", "", "a", "b", "b", "a", "a"], ["train"] * 4 + ["val"] * 2 + ["test"] * 2, strict=True
    )]  # fmt: skip
    manifest = root / "all.csv"
    manifest.write_text("\n".join(["\ufeffpath,label,split", *rows]), encoding="utf-8")
    splits = open_all(manifest)
    assert [data.labels.tolist() for data in splits.values()] == [[0, 1, -1, 0], [1, 1], [0, 0]]
    assert splits["val"].names == [str(paths[4]), str(paths[5])]


def test_a_manifest_without_splits_is_carved_and_unlabelled_images_stay_in_train(root):
    paths = fill(root, 30)
    rows = [f"{path.name},{'ab'[item % 2] if item < 24 else ''},extra" for item, path in enumerate(paths)]
    (root / "all.csv").write_text("\n".join(["path,label,note", *rows]))
    splits = open_all(root / "all.csv", val=0.2)
    assert sum(len(data.labels) for data in splits.values()) == 30
    assert Counter(splits["train"].labels.tolist())[-1] == 6


def test_the_fingerprint_follows_content_and_labels_not_places(root, tmp_path):
    classes(root, cats=10, dogs=10)
    before = Folder("train", root=str(root)).fingerprint
    os.utime(root / "cats/000.png")
    assert Folder("train", root=str(root)).fingerprint == before
    root.rename(tmp_path / "animals")
    root = tmp_path / "animals"
    assert Folder("train", root=str(root)).fingerprint == before
    assert Folder("test", root=str(root)).fingerprint != before
    (root / "cats").rename(root / "lions")
    assert Folder("train", root=str(root), val=0.0, test=0.0).fingerprint != before


def test_files_are_decoded_once_until_one_changes(root, monkeypatch):
    classes(root, cats=6, dogs=6)
    before = Folder("train", root=str(root)).fingerprint
    decoded = []
    opening = image_build.open_upright
    monkeypatch.setattr(image_build, "open_upright", lambda *given: decoded.append(given) or opening(*given))
    assert Folder("train", root=str(root)).fingerprint == before
    assert decoded == []
    picture(999).save(Folder("train", root=str(root)).names[0])
    assert Folder("train", root=str(root)).fingerprint != before
    assert len(decoded) == 1


def test_a_split_gives_the_others_without_looking_at_the_disk_again(root, monkeypatch):
    classes(root, cats=20, dogs=20)
    alone = {split: data.fingerprint for split, data in open_all(root).items()}
    train = Folder("train", root=str(root))
    monkeypatch.setattr(ImageFiles, "__init__", None)
    assert {split: train.with_split(split).fingerprint for split in SPLITS} == alone


def error_of(root, split="train", **options):
    with pytest.raises(DataError) as error:
        Folder(split, root=str(root), **options)
    return str(error.value).replace(str(root), "ROOT")


def test_a_missing_folder(root):
    assert error_of(root) == (
        "ROOT: does not exist\n  help: set data.root to a folder of images or a .csv manifest; "
        f"relative paths start at {Path.cwd()}"
    )


def test_a_file_in_place_of_a_folder(root):
    root.touch()
    assert error_of(root).startswith("ROOT: is no folder\n")


def test_an_empty_folder(root):
    root.mkdir()
    assert error_of(root).startswith(
        "ROOT: the folder holds no image\n  help: files are taken for images if they end in .bmp .gif .jpeg .jpg"
    )


def test_an_empty_class(root):
    classes(root, cats=5, dogs=5)
    (root / "birds").mkdir()
    (root / "birds" / "list.txt").touch()
    assert error_of(root).startswith("ROOT/birds: the class folder holds no image\n  help: fill or remove it; files")


def test_one_class(root):
    classes(root, cats=5)
    assert error_of(root) == (
        "ROOT: all images are of one class, 'cats'\n"
        "  help: give it two classes or more, or put all images into one folder to train without classes"
    )


@pytest.mark.parametrize("disjoint", [False, True])
def test_only_singletons(root, disjoint):
    classes(root, **{f"c{number}": 1 for number in range(12)})
    assert error_of(root, disjoint=disjoint) == (
        "ROOT: every class of the split 'val' has a single image, so no image has another to find\n"
        "  help: give its classes two images or more, raise data.val, or set data.disjoint = true"
        if disjoint
        else "ROOT: no class has 6 images, 2 for each of train, val, test\n"
        "  help: add images, make folders train, val and test, or set data.disjoint = true to carve out whole classes"
    )
    classes(root / "split/train", cats=4, dogs=4)
    classes(root / "split/val", cats=2, dogs=2)
    classes(root / "split/test", cats=1, dogs=1)
    assert error_of(root / "split").startswith("ROOT: every class of the split 'test' has a single image")


def test_small_classes_stay_in_train_and_others_give_two_images_or_more_to_each_split(root):
    classes(root, cats=6, dogs=5, birds=30)
    splits = open_all(root)
    counts = {split: Counter(data.labels.tolist()) for split, data in splits.items()}
    cats, dogs, birds = (splits["train"].classes.index(name) for name in ("cats", "dogs", "birds"))
    assert [counts[split][cats] for split in SPLITS] == [2, 2, 2]
    assert [counts[split][dogs] for split in SPLITS] == [5, 0, 0]
    assert min(counts[split][birds] for split in SPLITS) >= 2


def test_small_classes_take_turns_so_that_each_split_has_its_part(root):
    classes(root, **{f"c{number}": 6 for number in range(60)})
    splits = open_all(root)
    parts = {split: len(data.labels) / 360 for split, data in splits.items()}
    assert parts["val"] == pytest.approx(0.1, abs=0.04)
    assert parts["test"] == pytest.approx(0.2, abs=0.05)
    for data in splits.values():
        assert min(Counter(data.labels.tolist()).values()) >= 2
    assert not any("gives" in note for note in splits["train"].notes)


def test_a_split_that_is_far_from_its_part_is_told(root, caplog):
    classes(root, cats=6, dogs=6)
    data = Folder("val", root=str(root))
    assert Counter(data.labels.tolist()) == {0: 2, 1: 2}
    assert [note.replace(str(root), "ROOT") for note in data.notes] == [
        f"ROOT: data.{split} = {fraction} gives 4 of 12 images (33%), as a class gives two images or none, and two "
        "classes at least give some"
        for split, fraction in (("val", 0.1), ("test", 0.2))
    ]
    assert caplog.messages == data.notes


def test_too_few_classes_to_keep_apart(root):
    classes(root, a=3, b=3, c=3, d=3, e=3)
    assert error_of(root, disjoint=True).startswith("ROOT: 5 classes are too few to make 3 splits of at least 2\n")
    fill(root / "flat", 4)
    assert error_of(root / "flat", disjoint=True) == (
        "ROOT: there are no classes to carve out\n  help: set data.disjoint = false"
    )


def test_loose_images_beside_class_folders(root):
    classes(root, cats=3, dogs=3)
    fill(root, 1)
    assert error_of(root) == (
        "ROOT: the image '000.png' lies beside the class folder 'cats'\n"
        "  help: move loose images into class folders, or elsewhere"
    )


def test_a_strange_folder_beside_train(root):
    classes(root / "train", cats=3, dogs=3)
    classes(root / "validation", cats=3, dogs=3)
    assert error_of(root) == (
        "ROOT: there is a folder 'validation' beside 'train'\n"
        "  help: folders of splits are named train, val, test: rename it or move it elsewhere"
    )


def test_a_loose_image_beside_train(root):
    classes(root / "train", cats=3, dogs=3)
    fill(root, 1)
    assert error_of(root) == (
        "ROOT: the image '000.png' lies beside the folder 'train'\n"
        "  help: move it into the folder of a split, or elsewhere"
    )


def test_a_split_switched_off(root):
    classes(root, cats=3, dogs=3)
    assert len(Folder("val", root=str(root), val=0.0, test=0.0).labels) == 0  # a run may do without it
    assert error_of(root, "test", val=0.0, test=0.0) == (
        "ROOT: the split 'test' has no image\n  help: give it a folder of its own, or raise data.test above 0"
    )


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "ROOT:1: the manifest has no column 'path'"),
        ("path,label\n", "ROOT: the manifest lists no image"),
        ("path,label\n000.png,a\nlost.png,b\n", "ROOT:3: there is no file 'lost.png'"),
        ("path,label\n000.png,a\n001.png\n", "ROOT:3: this line does not have one cell for each column"),
        ("path,label\n000.png,a,b\n", "ROOT:2: this line does not have one cell for each column"),
        ("path,label,split\n000.png,a,dev\n", "ROOT:2: there is no split 'dev'"),
        ("path,label\n000.png,a\n000.png,b\n", "ROOT:3: '000.png' is already in line 2"),
        ('path,label\n"000.png"x,b\n', "ROOT: this is no CSV file in UTF-8"),
        ("path,label\n000.png,a\n./000.png,b\n", "ROOT:3: '000.png' is already in line 2, with the label 'a' and not"),
        ("path,label\n000.png,a\nx/..//000.png,a\n", "ROOT:3: '000.png' is already in line 2\n  help: list each"),
        ("path,label\n000.png, a\n 000.png,a\n", "ROOT:3: '000.png' is already in line 2\n"),
        ("path,label\n000.png,nan\n", "ROOT:2: the cell 'nan' of the column 'label' is a missing value and no class"),
        ("path,label\n000.png,a\n001.png, None\n", "ROOT:3: the cell 'None' of the column 'label' is a missing"),
        ("path,label\n,a\n", "ROOT:2: the cell of the column 'path' is empty"),
        ("path,label,split\n000.png,a,\n", "ROOT:2: there is no split ''"),
        ("path,label,label\n000.png,a,b\n", "ROOT:1: there are two columns 'label'"),
        ("path,label\n.,a\n", "ROOT:2: '.' cannot be used: Is a directory"),
        ("path,label\npipe.png,a\n", "ROOT:2: 'pipe.png' cannot be used: It is a named pipe, not a regular file"),
    ],
)
def test_manifests_that_cannot_be_used(root, text, message):
    fill(root, 2)
    os.mkfifo(root / "pipe.png")
    (root / "all.csv").write_text(text)
    assert error_of(root / "all.csv").startswith(message)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16"])
def test_blanks_marks_and_ends_of_lines_in_a_manifest_change_nothing(root, encoding, caplog):
    paths = fill(root / "im", 4)
    lines = [
        "path , label,  note",
        *(f"./im//{path.name}\t,{label},x" for path, label in zip(paths, (" cat", "cat", "dög", " dög "), strict=True)),
    ]
    (root / "all.csv").write_bytes("\r\n".join(lines).encode(encoding))
    data = Folder("train", root=str(root / "all.csv"), val=0.0, test=0.0)
    assert data.classes == ["cat", "dög"]
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.names == [str(path) for path in paths]
    assert [note.replace(str(root), "ROOT") for note in data.notes] == [
        "ROOT/all.csv: left out the blanks around cells of 4 lines",
        "ROOT/all.csv: of its columns path, label are read, and not 'note'",
    ]
    assert caplog.messages == data.notes


def test_a_manifest_in_another_encoding(root):
    fill(root, 2)
    (root / "all.csv").write_bytes("path,label\n000.png,é\n".encode("latin-1"))
    assert error_of(root / "all.csv").startswith("ROOT: this is no CSV file in UTF-8")
