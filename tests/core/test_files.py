"""Files that cannot be written or read: what is wrong, and the repair that this calls for."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from metriclab.core.files import read_regular, repair, replacing
from metriclab.errors import StorageError


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "free some space, or choose another --out"),
        (errno.EDQUOT, "free some of your quota, or choose another --out"),
        (errno.EACCES, "let this user write there, or choose another --out"),
        (errno.EPERM, "let this user write there, or choose another --out"),
        (errno.EROFS, "mount the disk for writing, or choose another --out"),
        (errno.ENOENT, "put its folder back, which was moved or removed, or choose another --out"),
        (errno.EIO, "choose another --out"),
    ],
)
def test_the_repair_is_that_of_the_error(number, said):
    assert repair(OSError(number, os.strerror(number)), "choose another --out") == said


def test_a_folder_that_is_gone_is_told_without_a_word_of_space(tmp_path):
    with pytest.raises(StorageError) as caught, replacing(tmp_path / "gone" / "a.json"):
        pass
    assert caught.value.message == f"{tmp_path}/gone/a.json: cannot be written (No such file or directory)"
    assert caught.value.help == "put its folder back, which was moved or removed, or write somewhere else"


def test_a_full_disk_is_told(tmp_path, monkeypatch):
    def full(file: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError) as caught, replacing(tmp_path / "a.json") as file:
        file.write(b"x")
    assert caught.value.help == "free some space, or write somewhere else"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("make", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("/dev/zero")])
def test_only_regular_files_are_read(make, tmp_path: Path):
    path = tmp_path / "a.json"
    make(path)
    with pytest.raises(StorageError, match=r"a.json is no regular file"):
        read_regular(path)


def test_what_is_not_there_is_left_to_the_caller(tmp_path):
    with pytest.raises(FileNotFoundError):
        read_regular(tmp_path / "a.json")
    (tmp_path / "real.json").write_bytes(b"12")
    (tmp_path / "a.json").symlink_to("real.json")
    assert read_regular(tmp_path / "a.json") == b"12"
    with pytest.raises(StorageError, match="it has 2 bytes, and may have 1"):
        read_regular(tmp_path / "a.json", most=1)
