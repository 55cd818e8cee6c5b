"""Decoding image files into the cache, in parallel; what is in it already is taken from there."""

from __future__ import annotations

import contextlib
import functools
import hashlib
import itertools
import logging
import sys
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import numpy as np
from jaxtyping import Int64

from metriclab.core.cores import usable_cores
from metriclab.images.boxes import Box, split_box
from metriclab.images.decode import Pixels, Upright, giving_reasons, loss_of, open_upright, reduce
from metriclab.images.index import PixelStore, Record, format_of, pixel_digest
from metriclab.images.sources import Source, opened
from metriclab.images.stored import UnreadableImageError

_LONG = 10_000  # images whose decoding is told of on the way, where there is no bar

_log = logging.getLogger(__name__)


@contextlib.contextmanager
def progress(total: int) -> Iterator[Callable[[], None]]:
    """A bar on a terminal, where metriclab may speak at all; what it yields moves the bar by one image."""
    if not (sys.stderr.isatty() and _log.isEnabledFor(logging.INFO)):
        _log.info("decoding %s images", f"{total:,}")
        numbers = itertools.count(1)
        yield lambda: _say_tenths(next(numbers), total)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (TextColumn("decoding images"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task("decoding", total=total)
        yield lambda: bar.advance(task)


def _say_tenths(number: int, total: int) -> None:
    if number * 10 % total < 10 and total >= _LONG:
        _log.info("decoded %s of %s images", f"{number:,}", f"{total:,}")


_AHEAD = 4096  # files given to the threads at a time

_log = logging.getLogger(__name__)


class Room:
    """Bytes that may still be written; threads take of them."""

    def __init__(self, left: int) -> None:
        self._left, self._lock = left, threading.Lock()

    def take(self, count: int) -> bool:
        """Whether there was so much."""
        with self._lock:
            taken = count <= self._left
            self._left -= count * taken
        return taken


def read_files(
    paths: Sequence[Source],
    size: int,
    pixels: Pixels,
    store: PixelStore,
    room: Room,
    known: list[Record],
    items: Int64[np.ndarray, "m"],
) -> list[Record]:
    """Records of all files, those of some items read anew, with the pixels written as far as there is room.

    A file of several boxes is opened once.

    What is decoded stays in the store if this ends early, so that it is found there the next time. Raises a
    StorageError if the store cannot be written.
    """
    started, records = time.monotonic(), list(known)
    read = partial(_read_file, size=size, pixels=pixels, store=store, room=room)
    # Threads are enough: Pillow decodes and resizes, and hashes are taken, without the interpreter's lock.
    pool = ThreadPoolExecutor(usable_cores(), thread_name_prefix="metriclab-decode")
    try:
        with quiet_pillow(), progress(len(items)) as advance:
            boxes = dict[str, tuple[Source, dict[int, Box | None]]]()
            for item in items.tolist():
                path, box = split_box(paths[item])
                boxes.setdefault(str(path), (path, {}))[1][item] = box
            files = list(boxes.values())
            for start in range(0, len(files), _AHEAD):
                for made in pool.map(read, files[start : start + _AHEAD]):
                    for item, record in made.items():
                        records[item] = record
                        advance()
    finally:
        pool.shutdown(cancel_futures=True)
    _log.info("decoded %s images in %.0f s", f"{len(items):,}", time.monotonic() - started)
    return records


def _read_file(
    file_boxes: tuple[Source, dict[int, Box | None]], size: int, pixels: Pixels, store: PixelStore, room: Room
) -> dict[int, Record]:
    """The records of the items of one file."""
    path, boxes = file_boxes
    content = Record().content
    with contextlib.ExitStack() as stack:
        try:
            with giving_reasons():
                file = opened(path)
                stack.enter_context(file)
                content = hashlib.file_digest(file, partial(hashlib.blake2b, digest_size=16)).digest()
        except UnreadableImageError as error:
            return dict.fromkeys(boxes, Record(content, problem=str(error)))
        # Decoded where the first item is not in the store, and once for all boxes; the whole image comes out the same
        # with boxes beside it and without.
        upright = functools.cache(lambda short: open_upright(file, short, pixels))
        record = partial(_record, upright=upright, loss=functools.cache(partial(loss_of, file, pixels)), size=size)
        return {item: record(content_of(content, box), box, store=store, room=room) for item, box in boxes.items()}


def _record(
    content: bytes,
    box: Box | None,
    upright: Callable[[int | None], Upright],
    loss: Callable[[], str],
    size: int,
    store: PixelStore,
    room: Room,
) -> Record:
    known = store.get(content)
    try:
        with giving_reasons():
            decoded = reduce(upright(size if box is None else None), size, box) if known is None else known
            lost = decoded.lost if known is None else loss()
    except UnreadableImageError as error:
        return Record(content, problem=str(error))
    made, cached = decoded.pixels, known is not None
    if not cached and room.take(made.nbytes):
        store.put(content, decoded)
        cached = True
    return Record(content, pixel_digest(made), made.shape[1:], decoded.original, cached, "", format_of(made), lost)


def content_of(file: bytes, box: Box | None) -> bytes:
    """16 bytes for what an image is made of: those for the bytes of its file, and its box."""
    return file if box is None else hashlib.blake2b(file + str(box).encode(), digest_size=16).digest()


@contextlib.contextmanager
def quiet_pillow() -> Iterator[None]:
    """Pillow warns of files that are odd but readable. Filters are global: set them around all threads."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"PIL\.")
        yield
