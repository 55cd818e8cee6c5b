"""Which images a folder holds, of which class and split: links, endings, layouts, and what is left out."""

from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metriclab.datasets.folder import Folder
from metriclab.errors import DataError
from metriclab.images.listing import list_images
from metriclab.images.tree import folder_classes, scan
from metriclab.vectors.export import find_images
from tests.support.pictures import classes, fill, picture

pytestmark = pytest.mark.usefixtures("cache")


@pytest.fixture
def root(tmp_path):
    return tmp_path / "pets"


def labels(root) -> dict[str, tuple[str, str]]:
    return {file.key: (file.label, file.split) for file in list_images(root).files}


def notes(root) -> list[str]:
    return [note.replace(str(root), "ROOT") for note in scan(root).notes]


def test_the_class_is_the_first_folder_however_deep_an_image_lies(root):
    for place in ("red/2020", "red/2021", "blue/2020", "blue/2021/may"):
        fill(root / place, 1)
    expected = {
        "blue/2020/000.png": ("blue", "train"),
        "blue/2021/may/000.png": ("blue", "train"),
        "red/2020/000.png": ("red", "train"),
        "red/2021/000.png": ("red", "train"),
    }
    assert labels(root) == expected
    assert folder_classes([str(root / name) for name in expected]) == ["blue", "blue", "red", "red"]


def test_the_class_is_the_second_folder_in_a_layout_of_splits(root):
    classes(root / "train", red=1, blue=1)
    classes(root / "test" / "blue", deep=1)
    expected = {
        "test/blue/deep/000.png": ("blue", "test"),
        "train/blue/000.png": ("blue", "train"),
        "train/red/000.png": ("red", "train"),
    }
    assert labels(root) == expected
    assert folder_classes([str(root / name) for name in expected]) == ["blue", "blue", "red"]


def test_flat_folders_and_flat_splits_have_no_classes(root):
    fill(root / "train", 2)
    fill(root / "test", 1)
    assert set(labels(root).values()) == {("", "train"), ("", "test")}
    assert folder_classes([str(root / name) for name in labels(root)]) == ["", "", ""]
    assert folder_classes(["a.png", "./b.png"]) == ["", ""]
    assert folder_classes([]) == []


@pytest.mark.parametrize("place", ["red/2020 red/2021", "red", "train/train train/val train/test", "red/a/x red/a/y"])
def test_one_class_folder_is_a_class_also_by_the_paths_that_embed_writes(place, root):
    for folder in place.split():
        fill(root / folder, 2)
    paths = find_images([root])
    assert folder_classes(paths) == [label for label, _ in labels(root).values()]
    assert all(Path(path) == root / name for path, name in zip(paths, labels(root), strict=True))  # opened alike
    assert all(path.startswith(f"{root}/./") for path in paths)


def test_the_root_is_told_in_paths_only_where_they_do_not_tell_it(root, monkeypatch):
    classes(root, red=1, blue=1)
    assert find_images([root]) == [f"{root}/blue/000.png", f"{root}/red/000.png"]
    assert folder_classes(["./a/red/1.png", "./a/blue/1.png"]) == ["red", "blue"]
    assert folder_classes(["x/./a/red/1.png", "y/./a/blue/1.png"]) == ["a", "a"]
    classes(root / "red", old=1, new=1)
    monkeypatch.chdir(root / "red")
    assert find_images([Path()]) == ["000.png", "new/000.png", "old/000.png"]
    (root / "red" / "000.png").unlink()
    (root / "red" / "old" / "000.png").unlink()
    assert find_images([Path()]) == ["././new/000.png"]
    assert folder_classes(find_images([root, root / "blue"])) == ["blue", "red", "blue"]


def test_links_to_files_and_to_folders_are_followed_on_every_level(root, tmp_path):
    store = classes(tmp_path / "store", a=8, b=8, c=8)
    fill(store / "a" / "more", 8)
    fill(store / "extra", 8)
    root.mkdir()
    for name in "abc":
        (root / name).symlink_to(store / name)
    (root / "a" / "extra").symlink_to(store / "extra")
    (root / "b" / "one.png").symlink_to(store / "a" / "000.png")
    data = Folder("train", root=str(root), val=0.0, test=0.0)
    assert np.bincount(data.labels).tolist() == [24, 9, 8]
    assert notes(root) == []


def test_links_in_circles_end_and_are_told(root):
    classes(root, red=2, blue=2)
    fill(root / "red" / "old", 1)
    (root / "red" / "loop").symlink_to("..")
    (root / "red" / "old" / "up").symlink_to("..")
    (root / "red" / "again").symlink_to("old")
    (root / "red" / "self").symlink_to("self")
    (root / "red" / "blue").symlink_to("../blue")
    assert [key for key, (label, _) in labels(root).items() if label == "red"] == [
        "red/000.png",
        "red/001.png",
        "red/blue/000.png",
        "red/blue/001.png",
        "red/old/000.png",
    ]
    assert notes(root) == [
        "ROOT: left out 1 link to nothing that can be read: red/self",
        "ROOT: left out 3 links to a folder that is here already: red/old/up, red/again, red/loop",
    ]


def test_a_maze_of_links_is_left(root):
    for number in range(12):
        fill(root / f"c{number}", 1)
    for one in range(12):
        for other in range(12):
            (root / f"c{one}" / f"to{other}").symlink_to(f"../c{other}")
    assert len(list_images(root).files) == 12 * 12  # each class has all


def test_every_link_that_dangles_is_told(root):
    classes(root, red=2, blue=2)
    (root / "red" / "gone.png").symlink_to("nowhere")
    (root / "green").symlink_to("nowhere")
    assert notes(root) == ["ROOT: left out 2 links to nothing that can be read: green, red/gone.png"]


def test_all_that_pillow_decodes_is_taken_and_the_rest_is_told(root, caplog):
    classes(root, red=2, blue=2)
    for ending in ("jfif", "jp2", "tga", "pbm", "webp", "AVIF", "ico", "qoi", "gif"):
        picture(len(ending), 16, 16).convert("1" if ending == "pbm" else "RGB").save(root / "red" / f"x.{ending}")
    for name in ("a.heic", "b.npy", "c.NPY", "d", "e.txt", ".hidden.png", "f.eps", "g.h5"):
        (root / "blue" / name).touch()
    os.mkfifo(root / "blue" / "pipe.png")
    with caplog.at_level(logging.WARNING):
        data = Folder("train", root=str(root), val=0.0, test=0.0)
    assert np.bincount(data.labels).tolist() == [2, 11]
    assert caplog.messages == data.notes
    assert notes(root) == [
        "ROOT: left out 9 files (2 .npy, 1 hidden, 1 .heic, 1 without an ending, 1 .txt, 1 .eps, 1 .h5, "
        "1 neither file nor folder): blue/.hidden.png, blue/a.heic, blue/b.npy and 6 more"
    ]


def test_a_format_that_a_plugin_has_brought_is_taken(root, monkeypatch):
    from metriclab.images import decode

    classes(root, red=2, blue=2)
    (root / "red" / "000.png").rename(root / "red" / "000.mine")
    monkeypatch.setitem(Image.EXTENSION, ".mine", "PNG")
    decode.image_formats.cache_clear()
    decode.image_endings.cache_clear()
    try:
        assert "red/000.mine" in labels(root)
    finally:
        monkeypatch.undo()
        decode.image_formats.cache_clear()
        decode.image_endings.cache_clear()


@pytest.mark.parametrize("name", [b"caf\xe9", "a\u2028b".encode(), b"a\nb", "a\u0085b".encode(), b'"q"'])
def test_names_are_bytes(root, name):
    name = os.fsdecode(name)
    classes(root, **{name: 3, "other": 3})
    data = Folder("train", root=str(root), val=0.0, test=0.0)
    assert data.classes == sorted([name, "other"])
    assert [Path(path).parent.name for path in data.names] == sorted([name] * 3 + ["other"] * 3)
    (root / name / "000.png").rename(root / name / f"{name}.txt")
    assert all("\n" not in note and note.encode() for note in notes(root))


def test_a_folder_deeper_than_python_recurses(root):
    classes(root, red=1, blue=1)
    made = [root / "red"]
    for _ in range(1200):
        made.append(made[-1] / "d")
        made[-1].mkdir()
    assert len(list_images(root).files) == 2
    for folder in made[:0:-1]:  # pytest's own removal recurses
        folder.rmdir()


def test_a_folder_that_cannot_be_read(root, monkeypatch):
    classes(root, red=1, blue=1)
    scandir = os.scandir

    def refuse(path):
        if str(path).endswith("red"):
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(DataError, match="pets/red: Permission denied\n  help: check that you may read it"):
        scan(root)
