from __future__ import annotations

import logging
import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from metriclab.core.cores import usable_cores
from metriclab.datasets.folder import Folder
from metriclab.errors import DataError, StorageError
from metriclab.images import files as image_files
from metriclab.images.files import ImageFiles
from tests.support.pictures import classes, fill


@pytest.fixture
def broken(tmp_path, cache):
    """Two classes of which cats have a text file, an empty one and one cut short."""
    root = classes(tmp_path / "pets", cats=10, dogs=10)
    (root / "cats/text.jpg").write_text("not a picture")
    (root / "cats/void.png").touch()
    whole = (root / "cats/000.png").read_bytes()
    (root / "cats/short.png").write_bytes(whole[:-30])
    return root


def test_bad_files_are_named_with_the_reason_and_the_way_out(broken, cache):
    with pytest.raises(DataError) as error:
        Folder("train", root=str(broken))
    assert str(error.value).replace(str(broken), "ROOT") == (
        "3 files give no image:\n"
        "  ROOT/cats/short.png: image file is truncated\n"
        "  ROOT/cats/text.jpg: this is no image, or not in a format that can be read\n"
        "  ROOT/cats/void.png: the file is empty\n"
        '  help: repair or remove them, or set data.on_error = "skip" to go on without them and get a list of them'
    )
    # What could be decoded is kept for the next try.
    assert len(list((cache / "decoded/pixels").glob("*/*"))) == 20


def test_one_bad_file_is_the_whole_message(broken):
    (broken / "cats/text.jpg").unlink()
    (broken / "cats/short.png").unlink()
    with pytest.raises(DataError, match=r"^\S*pets/cats/void.png: the file is empty\n  help: "):
        Folder("test", root=str(broken))


def test_many_bad_files_are_counted(tmp_path, cache):
    paths = fill(tmp_path / "flat", 12)
    for path in paths[:9]:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"^9 files give no image:(\n  .*: the file is empty){5}\n  and 4 more\n  help"):
        ImageFiles(paths, size=32)
    for path in paths:
        path.write_bytes(b"")
    with pytest.raises(DataError, match=r"none of 12 files gives an image, the first is .*/000.png: the file is empty"):
        ImageFiles(paths, size=32, on_error="skip")


def test_skipped_files_are_left_out_and_listed_and_never_replaced(broken, cache, caplog):
    with caplog.at_level(logging.WARNING):
        data = Folder("train", root=str(broken), on_error="skip", val=0.0, test=0.0)
    assert len(data.labels) == len(data.names) == 20
    assert {Path(name).stem for name in data.names} == {f"{number:03}" for number in range(10)}
    assert len({image.numpy().tobytes() for image in data.images(np.arange(20)).pixels}) == 20
    (listed,) = (cache / "decoded").glob("*.skipped.txt")
    assert caplog.messages == [f"train: left out 3 of 23 files, listed in {listed}"]
    lines = listed.read_text().splitlines()
    assert lines[2] == f"{broken}/cats/void.png\tthe file is empty"
    assert len(lines) == 3
    # What was skipped once is still refused where it must not be.
    with pytest.raises(DataError, match="3 files give no image"):
        Folder("train", root=str(broken))


def test_skipping_moves_no_image_to_another_split(tmp_path, cache):
    root = classes(tmp_path / "pets", cats=10, dogs=10)
    before = {split: Folder(split, root=str(root)).names for split in ("train", "val", "test")}
    bad = before["train"][0]
    Path(bad).write_bytes(b"")
    after = {split: Folder(split, root=str(root), on_error="skip").names for split in ("train", "val", "test")}
    assert after == before | {"train": before["train"][1:]}


def test_a_file_that_vanished(tmp_path, cache):
    with pytest.raises(DataError, match=r"gone.png: No such file or directory\n  help: check the path"):
        ImageFiles([tmp_path / "gone.png"], size=32)


@pytest.mark.parametrize("files", ["pixels/*/*", "*.npz"])
def test_a_cache_cut_short_is_made_again(tmp_path, cache, files):
    paths = fill(tmp_path / "flat", 5)
    expected = ImageFiles(paths, size=32).images(np.arange(5)).pixels
    for path in (cache / "decoded").glob(files):
        path.write_bytes(path.read_bytes()[:-20])
    assert torch.equal(ImageFiles(paths, size=32).images(np.arange(5)).pixels, expected)


@pytest.mark.parametrize("files", ["pixels/*/*", "*.npz"])
def test_pipes_in_place_of_a_cache_are_not_waited_for(tmp_path, cache, files):
    paths = fill(tmp_path / "flat", 3)
    expected = ImageFiles(paths, size=32).images(np.arange(3)).pixels
    for path in (cache / "decoded").glob(files):
        path.unlink()
        os.mkfifo(path)
    assert torch.equal(ImageFiles(paths, size=32).images(np.arange(3)).pixels, expected)


def test_a_cache_that_cannot_be_written(tmp_path, cache, monkeypatch):
    paths = fill(tmp_path / "flat", 2)

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "replace", full)
    with pytest.raises(StorageError, match=r"cannot be written \(No space left on device\)\n  help: .*METRICLAB_CACHE"):
        ImageFiles(paths, size=32)
    assert not [path for path in (cache / "decoded").rglob("*") if path.is_file()]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="the system forks no process")
def test_images_that_are_not_cached_share_one_pool_of_threads(tmp_path, cache, monkeypatch):
    """From batch to batch and over data sets, as wide as this process may be; and a forked process has its own."""
    monkeypatch.setenv("METRICLAB_CACHE_LIMIT", "0")
    paths = [tmp_path / f"{number}.png" for number in range(6)]
    for number, path in enumerate(paths):
        Image.new("RGB", (8, 8), (10 * number, 0, 0)).save(path)
    first, second = (ImageFiles(paths[start : start + 3], size=8) for start in (0, 3))
    image_files._decoding_threads.cache_clear()
    first.images(np.arange(3))
    pool = image_files._decoding_threads()
    for _ in range(4):
        first.images(np.arange(3))
        second.images(np.arange(3))
    assert image_files._decoding_threads() is pool
    assert pool._max_workers == usable_cores()
    child = os.fork()
    if child == 0:
        same = image_files._decoding_threads.cache_info().currsize == 0 and len(first.images(np.arange(3))) == 3
        os._exit(0 if same else 1)
    assert os.waitpid(child, 0)[1] == 0
