"""Decoding a list of image files into a cache: in parallel, with what was done before kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import shutil
import time
import warnings
import zlib
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import PIL
from jaxtyping import UInt8

from metriclab.errors import StorageError
from metriclab.images.cache_files import LIMIT, bytes_in, bytes_text, room, writing
from metriclab.images.decode import (
    DECODING,
    Decoded,
    UnreadableImageError,
    decode_file,
    decoded_bytes,
    giving_reasons,
)
from metriclab.images.journal import pixel_bytes, resume, write_journal
from metriclab.images.progress import progress
from metriclab.images.store import (
    ABOUT,
    INDEX,
    JOURNAL,
    PART,
    PIXELS,
    Index,
    Known,
    Record,
    open_cache,
    pixel_digest,
)  # fmt: skip

_CHUNK = 256  # files between two lines of the journal: what a kill can cost
_AHEAD = 4  # images a thread may be ahead of the writer: bounds what is held in memory
_SAMPLE = 64  # headers looked at to tell how much room is needed
_NONE = "00" * 16

_log = logging.getLogger(__name__)


def build(paths: Sequence[Path], size: int, folder: Path, stamp: str, needed: int | None = None) -> str:
    """Decodes all files into a cache; returns its name in the folder. Call it with the lock of the stamp held.

    A build that ended early is taken up where it stood. Files whose content is in another cache of this size are
    taken from there. Where the pixels would need more room than there is, only the index is written.

    Args:
        paths: the files.
        size: see `decode`.
        folder: where caches of images lie.
        stamp: what is unique to these files as they are.
        needed: how many bytes their pixels take, where that is known.

    Raises:
        StorageError: if the cache cannot be written; what there is of it is removed.
    """
    started = time.monotonic()
    part = folder / f"{stamp}{PART}"
    try:
        part.mkdir(exist_ok=True)
        cached = _fits(len(paths), _estimate(paths, size) if needed is None else needed, part)
        records, cached = _decode_into(part, paths, size, Known(_others(folder, size)), cached)
    except OSError as error:
        shutil.rmtree(part, ignore_errors=True)
        raise StorageError(
            f"{part}: cannot be written ({error.strerror})",
            help="set the environment variable METRICLAB_CACHE to a folder that can be written and has room, "
            "or remove old caches with `metriclab data clean`",
        ) from error
    index = Index.of(records, cached=cached)
    name = _finish(part, index, size, paths)
    _log.info("%s", _summary(index, folder / name, size, time.monotonic() - started))
    return name


def _fits(count: int, needed: int, part: Path) -> bool:
    """Whether there is room for the pixels; says so where there is not."""
    there, bound = room(part.parent)
    there += bytes_in(part)
    if needed > there:
        _say_no_room(f"{count:,} images need about {bytes_text(needed)}", bytes_text(there), bound)
    return needed <= there


def _estimate(paths: Sequence[Path], size: int) -> int:
    """Bytes of all pixels, by the headers of some of the files."""
    sizes = []
    for path in paths[:: max(1, len(paths) // _SAMPLE)]:
        with contextlib.suppress(UnreadableImageError), quiet_pillow():
            sizes.append(decoded_bytes(path, size))
    return int(len(paths) * sum(sizes) / len(sizes)) if sizes else 0


def _say_no_room(needed: str, there: str, bound: str) -> None:
    _log.warning(
        "no room for the cache: %s and %s %s, so they will be decoded anew whenever they are read, which is slower; "
        "set a smaller data.size, raise %s, or remove old caches with `metriclab data clean`",
        needed, bound, there, LIMIT,
    )  # fmt: skip


def _others(folder: Path, size: int) -> Iterator[Path]:
    """Whole caches that hold what this decoding makes of the same files."""
    for about in folder.glob(f"*/{ABOUT}"):
        with contextlib.suppress(OSError, ValueError):
            if json.loads(about.read_text()).get("decoding") == decoding(size):
                yield about.parent


def decoding(size: int) -> str:
    """What pixels depend on besides the bytes of a file."""
    return f"{size} px, decoding {DECODING}, Pillow {PIL.__version__}"


def _decode_into(part: Path, paths: Sequence[Path], size: int, known: Known, cached: bool) -> tuple[list[Record], bool]:
    """Records of all files, with their pixels written, and whether they were: they may prove too large."""
    records = resume(part, cached)
    end = sum(pixel_bytes(record) for record in records)
    there = room(part.parent)[0] if cached else 0
    mode = "r+b" if records and cached else "wb"
    with (part / PIXELS).open(mode) as pixels_file, (part / JOURNAL).open("ab") as journal:
        pixels_file.truncate(end if cached else 0)
        pixels_file.seek(0, os.SEEK_END)
        chunk: list[Record] = []
        with progress(len(paths), len(records)) as advance:
            for record, pixels in _decode_all(paths[len(records) :], size, known):
                chunk.append(record)
                there -= pixels.nbytes
                if cached and there < 0:
                    cached = False
                    _say_no_room("the images need more than expected", "less", "the room is")
                    pixels_file.truncate(0)
                if cached:
                    pixels_file.write(pixels.data)
                advance()
                if len(chunk) == _CHUNK:
                    write_journal(journal, pixels_file, chunk)
                    records += chunk
                    chunk = []
            write_journal(journal, pixels_file, chunk)
    return records + chunk, cached


def _decode_all(paths: Sequence[Path], size: int, known: Known) -> Iterator[tuple[Record, UInt8[np.ndarray, "3 h w"]]]:
    workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    # Threads are enough: Pillow decodes and resizes, and hashes are taken, without the interpreter's lock.
    with quiet_pillow(), ThreadPoolExecutor(workers, thread_name_prefix="metriclab-decode") as pool:
        waiting = deque[Future[tuple[Record, np.ndarray]]]()
        try:
            for path in paths:
                waiting.append(pool.submit(_attempt, path, size, known))
                if len(waiting) > _AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:
                future.cancel()


def _attempt(path: Path, size: int, known: Known) -> tuple[Record, UInt8[np.ndarray, "3 h w"]]:
    content = _NONE
    try:
        with giving_reasons(), path.open("rb") as file:
            content = hashlib.file_digest(file, _new_digest).hexdigest()
            file.seek(0)
            found = known.find(bytes.fromhex(content))
            decoded = decode_file(file, size) if found is None else Decoded(*found)
    except UnreadableImageError as error:
        return Record((0, 0), (0, 0), content, _NONE, 0, str(error)), np.empty((3, 0, 0), dtype=np.uint8)
    pixels = decoded.pixels
    size_of = (pixels.shape[1], pixels.shape[2])
    digest, checksum = pixel_digest(pixels).hex(), zlib.crc32(pixels.data)
    return Record(size_of, decoded.original, content, digest, checksum, ""), pixels


def _new_digest() -> hashlib.blake2b:
    return hashlib.blake2b(digest_size=16)


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow warns of files that are odd but readable. Filters are global: set them around all threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield


def _finish(part: Path, index: Index, size: int, paths: Sequence[Path]) -> str:
    """Turns what was decoded into a cache named by its content, unless there is that one already."""
    state = hashlib.sha256(decoding(size).encode())
    state.update(index.contents.tobytes() + index.readable.tobytes() + bytes([index.cached]))
    name = state.hexdigest()[:32]
    index.write(part / INDEX)
    with writing(part / ABOUT) as file:
        file.write((json.dumps(_about(index, size, paths), indent=2) + "\n").encode(errors="surrogateescape"))
    if not index.cached:
        (part / PIXELS).unlink()
    place = part.parent / name
    if place.exists() and open_cache(place) is None:
        shutil.rmtree(place)
    try:
        part.rename(place)
    except OSError:  # another folder with the same images has been decoded already
        if open_cache(place) is None:
            raise
        shutil.rmtree(part)
    (place / JOURNAL).unlink(missing_ok=True)
    return name


def _about(index: Index, size: int, paths: Sequence[Path]) -> dict[str, object]:
    return {
        "what": "images decoded by metriclab; it makes them again where they are missing",
        "source": os.path.commonpath([os.path.abspath(path.parent) for path in paths]),
        "decoding": decoding(size),
        "images": len(index),
        "reduced": index.reduced,
        "cached": index.cached,
        "made": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def _summary(index: Index, place: Path, size: int, seconds: float) -> str:
    held = f"{bytes_text(index.bytes)} in {place}" if index.cached else "no pixels kept"
    lost = f"; {index.reduced:,} of them reduced to a short side of {size} pixels (data.size)" if index.reduced else ""
    return f"decoded {len(index):,} images in {seconds:.0f} s, {held}{lost}"
