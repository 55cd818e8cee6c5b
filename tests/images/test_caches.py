from __future__ import annotations

import os
import threading

import numpy as np
import pytest

from metriclab.errors import StorageError
from metriclab.images.cache_files import cache_folder, load_arrays, save_arrays, writing


def test_the_environment_chooses_the_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.delenv("METRICLAB_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    assert cache_folder("x") == tmp_path / "home/.cache/metriclab/x"
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_folder("x") == tmp_path / "xdg/metriclab/x"
    monkeypatch.setenv("METRICLAB_CACHE", str(tmp_path / "own"))
    assert cache_folder("x") == tmp_path / "own/x"
    assert (tmp_path / "own/x").is_dir()


def test_a_cache_that_cannot_be_made_says_how_to_choose_another(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("METRICLAB_CACHE", str(tmp_path / "file"))
    with pytest.raises(
        StorageError, match=r"cannot make the cache folder.*\n  help: set the environment variable METR"
    ):
        cache_folder("x")


def test_a_write_that_fails_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"old")

    def interrupted():
        with writing(path) as file:
            file.write(b"new")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_full_disk_is_a_storage_error(tmp_path):
    expected = pytest.raises(StorageError, match=r"file: cannot be written \(No space left on device\)\n  help: ")
    with expected, writing(tmp_path / "file"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_readers_never_see_half_a_file(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"0" * 100_000)

    def write(digit):
        for _ in range(20):
            with writing(path) as file:
                for _ in range(100):
                    file.write(digit * 1000)

    writers = [threading.Thread(target=write, args=(digit,)) for digit in (b"1", b"2")]
    for writer in writers:
        writer.start()
    while any(writer.is_alive() for writer in writers):
        content = path.read_bytes()
        assert len(content) == 100_000
        assert len(set(content)) == 1
    for writer in writers:
        writer.join()


def test_arrays_come_back_and_damage_is_noticed(tmp_path):
    path = tmp_path / "arrays.npz"
    assert load_arrays(path, "numbers", "words") is None
    save_arrays(path, {"numbers": np.arange(100), "words": np.array(["a", "bc"])})
    loaded = load_arrays(path, "numbers", "words")
    assert (loaded["numbers"] == np.arange(100)).all()
    assert loaded["words"].tolist() == ["a", "bc"]
    whole = path.read_bytes()
    for place in range(0, len(whole), 7):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 1]) + whole[place + 1 :])
        damaged = load_arrays(path, "numbers", "words")
        assert damaged is None or all((damaged[name] == loaded[name]).all() for name in loaded)
    for length in (0, 10, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert load_arrays(path, "numbers", "words") is None
