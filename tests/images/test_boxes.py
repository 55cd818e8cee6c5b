"""Boxes: parts of images that are items of their own, in a run, in embeddings and in what is said of them."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from PIL import Image

from metriclab.cli.data_commands import data as data_command
from metriclab.datasets.folder import Folder
from metriclab.errors import DataError
from metriclab.images import build as image_build
from metriclab.images.boxes import Box, split_box
from metriclab.images.columns import Files, LabelledFile
from metriclab.images.datasets import FileDataset
from metriclab.images.decode import decode
from metriclab.vectors.export import find_images

pytestmark = pytest.mark.usefixtures("cache")

HEADER = "path,label,split,x_1,x_2,y_1,y_2"


@pytest.fixture
def root(tmp_path):
    (tmp_path / "photos").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (60, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "photos/a.png")
    Image.fromarray(pixels[::-1].copy()).save(tmp_path / "photos/b.png")
    return tmp_path / "photos"


def table(root: Path, *lines: str, header: str = HEADER) -> Path:
    (root / "all.csv").write_text("\n".join([header, *lines]) + "\n")
    return root / "all.csv"


def refusal(path: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        Folder("train", root=str(path), val=0.0, test=0.0, **options)
    return f"{caught.value.message}\n  help: {caught.value.help}".replace(str(path), "TABLE")


GOOD = ["a.png,x,train,0,20,0,30", "a.png,y,train,50.0,90,10,60", "b.png,x,test,1,9,2,12", "b.png,x,test,9,19,2,12"]


def test_each_box_is_an_item_cut_out_of_its_image_and_an_image_is_opened_once(root, monkeypatch):
    opened = []
    opening = image_build.open_upright
    monkeypatch.setattr(
        image_build, "open_upright", lambda file, size, *more: opened.append(size) or opening(file, size, *more)
    )
    train = Folder("train", root=str(table(root, *GOOD)), val=0.0)
    assert opened == [None, None]
    assert train.names == [f"{root}/a.png#xywh=0,0,20,30", f"{root}/a.png#xywh=50,10,40,50"]
    assert train.with_split("test").labels.tolist() == [0, 0]
    whole = np.asarray(Image.open(root / "a.png")).transpose(2, 0, 1)
    for item, (left, right, top, bottom) in enumerate([(0, 20, 0, 30), (50, 90, 10, 60)]):
        images = train.images(np.array([item]))
        assert images.pixels.numpy()[0].tolist() == whole[:, top:bottom, left:right].tolist()
        assert decode(train.names[item], 256).tolist() == images.pixels.numpy()[0].tolist()
    assert Folder("train", root=str(table(root, *GOOD)), val=0.0).fingerprint == train.fingerprint
    assert len(opened) == 2


def test_boxes_are_reduced_by_their_own_size_and_lie_in_the_image_as_it_is_seen(root):
    turned = Image.Exif()
    turned[0x0112] = 6
    Image.open(root / "a.png").save(root / "t.png", exif=turned)  # 60 wide and 90 high, as it is seen
    seen = np.asarray(Image.open(root / "t.png").transpose(Image.Transpose.ROTATE_270)).transpose(2, 0, 1)
    assert decode(f"{root}/t.png#xywh=10,30,40,60", 256).tolist() == seen[:, 30:90, 10:50].tolist()
    assert decode(f"{root}/t.png#xywh=10,30,40,60", 20).shape == (3, 30, 20)


@pytest.mark.parametrize("limit", ["0", "1GB"])
def test_boxes_without_room_in_the_cache_are_cut_whenever_they_are_read(root, limit, monkeypatch):
    monkeypatch.setenv("METRICLAB_CACHE_LIMIT", limit)
    files = [LabelledFile(root / "a.png", "x", box=Box(3, 4, 13, 24)), LabelledFile(root / "a.png", "y")]
    data = FileDataset(files, "train")
    assert data.images(np.arange(2)).sizes.tolist() == [[20, 10], [60, 90]]


def test_a_whole_jpeg_is_the_same_with_a_box_beside_it_and_without(root, tmp_path, monkeypatch):
    Image.open(root / "a.png").resize((900, 600)).save(root / "a.jpg")
    whole, part = LabelledFile(root / "a.jpg", "x"), LabelledFile(root / "a.jpg", "x", box=Box(3, 4, 403, 304))
    alone = {file.box: FileDataset([file], "train", size=64).images(np.arange(1)).pixels for file in (whole, part)}
    for number, files in enumerate([[whole, part], [part, whole]]):
        monkeypatch.setenv("METRICLAB_CACHE", str(tmp_path / f"cache-{number}"))
        data = FileDataset(files, "train", size=64)
        for item, file in enumerate(files):
            assert torch.equal(data.images(np.array([item])).pixels, alone[file.box])


@dataclass
class Within:
    """A source that is not hashable."""

    container: Path
    name: str

    def open(self) -> io.BytesIO:
        return io.BytesIO(self.container.read_bytes())

    def state(self) -> tuple[int, int, int]:
        return 1, 2, 3


def test_sources_of_ones_own_lie_beside_files_and_boxes_of_files(root):
    files = [
        LabelledFile(Path("archive/b"), "x", source=Within(root / "b.png", "b")),
        LabelledFile(root / "a.png", "y"),
        LabelledFile(root / "a.png", "y", box=Box(3, 4, 13, 24)),
    ]
    data = FileDataset(files, "train")
    assert data.images(np.arange(3)).sizes.tolist() == [[60, 90], [60, 90], [20, 10]]
    assert np.array_equal(data.images(np.arange(1)).pixels[0], decode(root / "b.png", 256))
    assert list(Files.of(files)) == files


def test_a_box_of_what_lies_within_a_file_is_refused(root):
    with pytest.raises(DataError) as caught:
        Files.of([LabelledFile(Path("archive/b"), box=Box(0, 0, 2, 2), source=Within(root / "b.png", "b"))])
    assert caught.value.message == "archive/b: boxes of images that lie within files are not read"
    assert caught.value.help == "leave its box away, or store the image in a file of its own"


def test_names_with_boxes(root):
    found = find_images([table(root, *GOOD)])
    assert found[1] == f"{root}/a.png#xywh=50,10,40,50"
    assert split_box(found[1]) == (f"{root}/a.png", Box(50, 10, 90, 60))
    assert split_box(root / "a.png") == (f"{root}/a.png", None)
    strange = root / "c#xywh=1,2,3,4"
    (root / "a.png").rename(strange)
    assert split_box(strange) == (str(strange), None)  # a file that is called so


def test_what_a_run_calls_the_columns_counts_in_tables_that_have_them(root):
    called = {"path": "file", "label": "product", "x_1": "l", "x_2": "r", "y_1": "t", "y_2": "b"}
    there = table(root, "a.png,50,90,10,60", header="file,l,r,t,b")
    assert find_images([there], columns=called) == [f"{root}/a.png#xywh=50,10,40,50"]
    assert find_images([table(root, *GOOD)], columns=called)[1] == f"{root}/a.png#xywh=50,10,40,50"
    with pytest.raises(DataError, match="a box has four columns, and there is no 'y_2'"):
        find_images([table(root, "a.png,50,90,10", header="file,l,r,t")], columns=called)


def test_everything_that_is_wrong_with_boxes_is_told_at_once(root):
    lines = [
        "a.png,x,train,0,20,0,30",
        "a.png,x,train,,,,",
        "a.png,x,train,1,,0,30",
        "a.png,x,train,1,two,0,30",
        "a.png,x,train,1.5,2,0,30",
        "a.png,x,train,-1,20,0,30",
        "a.png,x,train,20,20,0,30",
        "a.png,x,train,0,20,30,10",
        "./a.png,y,train,0,20.0,0,30",
    ]
    corners = "(x_1, y_1) is the upper left pixel of a box, and (x_2, y_2) the first one below and to the right of it"
    assert refusal(table(root, *lines)).splitlines() == [
        "TABLE: 8 lines cannot be used:",
        "  TABLE:3: this line has no box, and others have one",
        "  TABLE:4: the cell of the column 'x_2' is empty, and others of its box are not",
        "  TABLE:5: the cell 'two' of the column 'x_2' is no whole number of pixels",
        "  TABLE:6: the cell '1.5' of the column 'x_1' is no whole number of pixels",
        "  TABLE:7: the cell '-1' of the column 'x_1' is below 0, outside of the image",
        "  TABLE:8: the box is empty: the cell '20' of the column 'x_2' is not above the cell '20' of the column 'x_1'",
        "  TABLE:9: the box is empty: the cell '10' of the column 'y_2' is not above the cell '30' of the column 'y_1'",
        "  TABLE:10: 'a.png#xywh=0,0,20,30' is already in line 2, with the label 'x' and not 'y'",
        f"  help: give it that of the whole image; {corners}; {corners}; round it; {corners}; cut the box off at the "
        "border of its image; list each image once",
    ]


def test_boxes_beyond_their_image_are_named_by_their_lines(root):
    lines = ["a.png,x,train,0,91,0,30", "a.png,y,train,0,20,0,30", "b.png,x,train,0,99,0,61"]
    told = refusal(table(root, *lines)).splitlines()
    assert told[:3] == [
        "2 files give no image:",
        f"  TABLE:2: {root}/a.png#xywh=0,0,91,30: its box reaches out of the image: x_2 = 91 is beyond its width of 90",
        f"  TABLE:4: {root}/b.png#xywh=0,0,99,61: its box reaches out of the image: x_2 = 99 is beyond its width of "
        "90, y_2 = 61 is beyond its height of 60",
    ]
    data = Folder("train", root=str(root / "all.csv"), val=0.0, test=0.0, on_error="skip")
    assert data.names == [f"{root}/a.png#xywh=0,0,20,30"]


def test_some_of_the_four_columns(root):
    assert refusal(table(root, "a.png,x,1,2", header="path,label,x_1,right")) == (
        "TABLE:1: a box has four columns, and there is no 'y_1' and no 'x_2' and no 'y_2'\n  help: add what is lacking"
        ", or name it in data.columns; (x_1, y_1) is the upper left pixel of a box, and (x_2, y_2) the first one below "
        "and to the right of it"
    )
    lines, header = ["a.png,x,1,11,2,22", "b.png,y,1,11,2,22"], "path,label,left,right,top,bottom"
    columns = {"x_1": "left", "x_2": "right", "y_1": "top", "y_2": "bottom"}
    data = Folder("train", root=str(table(root, *lines, header=header)), val=0.0, test=0.0, columns=columns)
    assert data.images(np.arange(2)).sizes.tolist() == [[20, 10], [20, 10]]
    empty = ["a.png,x,,,,", "b.png,y,,,,"]
    whole = Folder("train", root=str(table(root, *empty, header="path,label,x_1,x_2,y_1,y_2")), val=0.0, test=0.0)
    assert whole.names == [f"{root}/a.png", f"{root}/b.png"]


def test_data_cache_takes_boxes(root):
    done = CliRunner().invoke(data_command, ["cache", str(table(root, *GOOD))])
    assert "4 images" in done.output, done.output
