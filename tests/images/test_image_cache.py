"""The cache of decoded images: interrupted, wanted twice, too large, damaged, and told from others by its content."""

from __future__ import annotations

import logging
import multiprocessing
import os
import shutil
import signal
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from PIL import Image

from metriclab.errors import DataError, RecipeError, StorageError
from metriclab.images import build as image_build
from metriclab.images.cache_files import alone, room
from metriclab.images.decode import Decoded, decode
from metriclab.images.files import ImageFiles
from metriclab.images.index import PixelStore
from tests.support.pictures import fill, picture

N = 40

pytestmark = pytest.mark.filterwarnings("ignore:.*use of fork:DeprecationWarning")  # from Python 3.12 on
FORK = multiprocessing.get_context("fork")


@pytest.fixture
def paths(tmp_path, cache):
    return fill(tmp_path / "flat", N)


@pytest.fixture
def decoded(tmp_path, monkeypatch):
    """Counts what is decoded into caches, over processes; calls `decoded.at[n]` before the nth."""
    return DecodeCounter(tmp_path / "decoded", monkeypatch)


class DecodeCounter:
    def __init__(self, log, monkeypatch):
        self.log, self.at, open_upright = log, {}, image_build.open_upright
        log.touch()

        def counting(*given):
            with log.open("ab") as out:
                out.write(b".")
                out.flush()
                number = out.tell()  # its own, whoever else writes meanwhile
            self.at.get(number, lambda: None)()
            return open_upright(*given)

        monkeypatch.setattr(image_build, "open_upright", counting)

    def count(self):
        return self.log.stat().st_size


def in_process(target, *arguments):
    process = FORK.Process(target=target, args=arguments)
    process.start()
    return process


def same_as_files(files, paths, size=32):
    images = files.images(np.arange(len(paths)))
    for path, pixels, (height, width) in zip(paths, images.pixels, images.sizes.tolist(), strict=True):
        assert np.array_equal(pixels[:, :height, :width].numpy(), decode(path, size))
    return True


def kill_me():
    os.kill(os.getpid(), signal.SIGKILL)


def test_a_build_killed_in_the_middle_is_taken_up_where_it_stood(paths, cache, decoded):
    decoded.at[30] = kill_me
    process = in_process(lambda: ImageFiles(paths, size=32))
    process.join()
    assert process.exitcode == -signal.SIGKILL
    done = decoded.count()
    decoded.at.clear()
    files = ImageFiles(paths, size=32)
    assert N <= decoded.count() <= N + 2 * len(os.sched_getaffinity(0))  # but those under way
    assert done < N
    assert same_as_files(files, paths)


@pytest.mark.parametrize("damage", ["short", "empty", "changed", "longer"])
def test_what_a_crash_leaves_half_written_is_not_believed(paths, cache, decoded, damage):
    decoded.at[30] = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    with pytest.raises(KeyboardInterrupt):
        ImageFiles(paths, size=32)
    written = list((cache / "decoded/pixels").glob("*/*"))
    assert len(written) >= 20
    content = written[0].read_bytes()
    changes = {"short": content[:-5], "empty": b"", "changed": b"\1" + content[1:], "longer": content + b"rest"}
    written[0].write_bytes(changes[damage])
    decoded.at.clear()
    assert same_as_files(ImageFiles(paths, size=32), paths)
    assert written[0].read_bytes() == content


def test_of_two_processes_one_decodes_and_both_have_the_same(paths, decoded):
    queue = FORK.SimpleQueue()

    def open_it():
        files = ImageFiles(paths, size=32)
        queue.put((files.digests.tobytes(), files.images(np.arange(N)).pixels.numpy().tobytes()))

    builders = [in_process(open_it) for _ in range(3)]
    found = {queue.get() for _ in builders}
    for builder in builders:
        builder.join()
    assert len(found) == 1
    assert decoded.count() == N
    assert same_as_files(ImageFiles(paths, size=32), paths)


def test_who_waits_for_a_process_that_is_killed_goes_on_in_its_place(paths, decoded, caplog):
    caplog.set_level(logging.INFO)
    reached = FORK.Event()
    decoded.at[20] = lambda: (reached.set(), signal.pause())
    builder = in_process(lambda: ImageFiles(paths, size=32))
    assert reached.wait(30)
    decoded.at.clear()
    found = []
    waiter = threading.Thread(target=lambda: found.append(ImageFiles(paths, size=32)))
    waiter.start()
    while not any("waiting for another process" in message for message in caplog.messages):
        time.sleep(0.01)
    builder.kill()
    builder.join()
    waiter.join()
    assert same_as_files(found[0], paths)


def test_a_lock_is_held_by_one_and_leaves_no_file(tmp_path):
    path = tmp_path / "lock"
    with alone(path, waiting=None) as first, alone(path, waiting=None) as second:
        assert first
        assert not second
    assert not path.exists()
    path.touch()
    expected = pytest.raises(StorageError, match=r"cannot be locked \(.*\)\n  help: .*METRICLAB_CACHE")
    with expected, alone(path / "lock", waiting=None):
        pass


def test_what_is_kept_free_is_told_beside_what_the_disk_has(tmp_path, monkeypatch):
    monkeypatch.delenv("METRICLAB_CACHE_LIMIT", raising=False)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: SimpleNamespace(free=200_000_000))
    assert room(tmp_path) == (0, "beyond 268.4 MB kept free the disk has")


def test_images_without_room_are_decoded_when_read_and_nothing_else_changes(paths, cache, monkeypatch, caplog):
    cached = ImageFiles(paths, size=32)
    shutil.rmtree(cache)
    monkeypatch.setenv("METRICLAB_CACHE_LIMIT", "20 kB")
    files = ImageFiles(paths, size=32)
    assert "no room in the cache for 13 of 40 images: they need 9 kB and METRICLAB_CACHE_LIMIT = 20 kB" in caplog.text
    assert "decoded anew whenever they are read" in caplog.text
    assert sum(path.stat().st_size for path in (cache / "decoded/pixels").glob("*/*")) <= 27 * 740
    assert np.array_equal(files.digests, cached.digests)
    assert same_as_files(files, paths)
    lacking = int(np.flatnonzero(files.index.lacking)[0])
    picture(999).save(paths[lacking])
    with pytest.raises(DataError, match=r"\d.png: cannot be read again: the file has changed\n  help: "):
        files.images(np.array([lacking]))
    monkeypatch.setenv("METRICLAB_CACHE_LIMIT", "plenty")
    with pytest.raises(RecipeError, match="METRICLAB_CACHE_LIMIT = 'plenty' is no size\n  help: write it like 500MB"):
        ImageFiles(paths, size=16)


def test_room_that_is_made_is_used_and_its_lack_does_not_decode_again(paths, monkeypatch, decoded):
    monkeypatch.setenv("METRICLAB_CACHE_LIMIT", "20kB")
    for _ in range(2):
        lacking = int(ImageFiles(paths, size=32).index.lacking.sum())
        assert lacking == 13
    assert decoded.count() == N
    monkeypatch.setenv("METRICLAB_CACHE_LIMIT", "0.1MB")
    files = ImageFiles(paths, size=32)
    assert files.index.cached.all()
    assert decoded.count() == N + lacking
    assert same_as_files(files, paths)


def damage_first(files):
    """Changes a pixel of the first image in the cache; its file and what was in it."""
    path = Path(files._store.path(files.index.contents[0].tobytes()))
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    return path, content


def test_damaged_pixels_are_decoded_again_and_put_right(paths, caplog):
    files = ImageFiles(paths, size=32)
    whole = files.images(np.arange(N)).pixels
    path, content = damage_first(files)
    for _ in range(2):
        assert torch.equal(ImageFiles(paths, size=32).images(np.arange(N)).pixels, whole)
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1
    assert warned[0].startswith(f"{paths[0]}: its pixels in the cache were damaged or removed, and are made again")
    assert path.read_bytes() == content
    path.unlink()
    assert torch.equal(files.images(np.arange(N)).pixels, whole)
    assert path.read_bytes() == content
    damage_first(files)
    paths[0].unlink()
    with pytest.raises(
        DataError, match=r"000.png: cannot be read again: No such file or directory\n  help: put it back"
    ):
        files.images(np.array([0]))


def test_damaged_pixels_are_not_taken_for_another_list_of_files(paths, decoded):
    damage_first(ImageFiles(paths, size=32))
    paths[-1].unlink()
    assert same_as_files(ImageFiles(paths[:-1], size=32), paths[:-1])
    assert decoded.count() == N + 1


def test_files_that_moved_or_were_touched_are_read_again_but_not_decoded(paths, cache, decoded, tmp_path):
    ImageFiles(paths, size=32)
    (tmp_path / "flat").rename(tmp_path / "moved")
    moved = [tmp_path / "moved" / path.name for path in paths]
    os.utime(moved[5])
    assert same_as_files(ImageFiles(moved, size=32), moved)
    assert decoded.count() == N
    assert len(list((cache / "decoded/pixels").glob("*/*"))) == N
    ImageFiles([*moved, *fill(tmp_path / "more", 2, start=500)], size=32)
    assert decoded.count() == N + 2
    ImageFiles(moved, size=31)
    assert decoded.count() == 2 * N + 2


def test_a_change_that_hides_behind_old_times_is_seen(paths, decoded):
    before, status = ImageFiles(paths, size=32), paths[7].stat()
    content = paths[7].read_bytes()
    picture(8).save(paths[7])
    assert paths[7].stat().st_size == len(content)
    os.utime(paths[7], ns=(status.st_atime_ns, status.st_mtime_ns))
    after = ImageFiles(paths, size=32)
    assert [item for item in range(N) if (before.digests[item] != after.digests[item]).any()] == [7]


def test_files_that_can_be_read_again_are_tried_again(paths, monkeypatch, decoded):
    def no_disk():
        raise OSError(5, "Input/output error")

    decoded.at[3] = no_disk
    with pytest.raises(DataError, match="Input/output error"):
        ImageFiles(paths, size=32)
    assert same_as_files(ImageFiles(paths, size=32), paths)
    assert decoded.count() == N + 1


def test_every_kind_of_file_comes_out_of_the_cache_as_it_is_decoded(tmp_path, cache):
    folder = tmp_path / "kinds"
    folder.mkdir()
    noise = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    image, turned = Image.fromarray(noise), Image.Exif()
    turned[0x0112] = 6
    image.save(folder / "turned.jpg", exif=turned)
    image.convert("CMYK").save(folder / "cmyk.jpg")
    image.convert("L").save(folder / "grey.png")
    image.convert("P", palette=Image.Palette.ADAPTIVE).save(folder / "palette.png")
    Image.fromarray(noise[..., 0].astype(np.uint16) * 257).save(folder / "deep.png")
    image.convert("RGBA").save(folder / "clear.webp")
    paths = sorted(folder.iterdir())
    files = ImageFiles(paths, size=16)
    images = files.images(np.arange(len(paths)))
    assert images.pixels.dtype == torch.uint8
    assert same_as_files(files, paths, size=16)
    assert images.sizes[paths.index(folder / "turned.jpg")].tolist() == [24, 16]
    assert files.index.reduced == len(paths)
    assert files.index.originals.tolist() == [[40, 60]] * len(paths)


def resident():
    with open("/proc/self/status") as status:
        return next(int(line.split()[1]) for line in status if line.startswith("VmRSS")) * 1024


def test_reading_keeps_no_more_memory_than_what_is_asked_for(tmp_path):
    side, count = 592, 64  # a mebibyte each
    store, pixels = PixelStore(tmp_path, "any"), np.zeros((3, side, side), dtype=np.uint8)
    contents = [bytes([number]) * 16 for number in range(count)]
    for content in contents:
        store.put(content, Decoded(pixels, (side, side)))
    before = resident()
    for content in contents:
        assert store.get(content) is not None
    assert resident() - before < count * pixels.nbytes / 4
