"""Files that are whole or not there, whose they are, and what is wrong where they cannot be written or read."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path

import pytest

from metriclab.core.cores import usable_cores
from metriclab.core.files import read_regular, repair, replacing
from metriclab.errors import StorageError


@pytest.mark.parametrize(("umask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664), (0o027, 0o640)])
def test_a_file_is_its_owner_s_as_the_umask_says(tmp_path, umask, mode):
    before = os.umask(umask)
    try:
        with replacing(tmp_path / "file") as file:
            file.write(b"whole")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == mode
    assert [path.name for path in tmp_path.iterdir()] == ["file"]


def test_a_block_that_fails_leaves_what_was(tmp_path):
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(TypeError), replacing(tmp_path / "file") as file:
        file.writelines([b"half", None])
    assert (tmp_path / "file").read_bytes() == b"before"
    assert len(list(tmp_path.iterdir())) == 1


def test_a_folder_that_is_not_there_is_told(tmp_path):
    with pytest.raises(StorageError, match="cannot be written"), replacing(tmp_path / "missing" / "file") as file:
        file.write(b"")


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="the system binds no process to cores")
def test_the_cores_are_those_that_the_process_is_bound_to():
    before = os.sched_getaffinity(0)
    try:
        os.sched_setaffinity(0, {min(before)})
        assert usable_cores() == 1
    finally:
        os.sched_setaffinity(0, before)
    assert usable_cores() == len(before)


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
