"""What a build has done so far, so that it can be taken up: a line for every so many images, with its checksum."""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections.abc import Sequence
from pathlib import Path
from typing import IO

from metriclab.images.store import JOURNAL, PIXELS, Record

_log = logging.getLogger(__name__)


def pixel_bytes(record: Record) -> int:
    """How many bytes of pixels an image has."""
    return 3 * record.size[0] * record.size[1]


def write_journal(journal: IO[bytes], pixels: IO[bytes], chunk: Sequence[Record]) -> None:
    """Adds a line to the journal, once the pixels it tells of are on the disk."""
    pixels.flush()
    os.fsync(pixels.fileno())
    text = json.dumps(chunk).encode()
    journal.write(hashlib.sha256(text).hexdigest().encode() + b" " + text + b"\n")
    journal.flush()
    os.fsync(journal.fileno())


def resume(part: Path, cached: bool) -> list[Record]:
    """What the journal tells of a build that ended early; none where the pixels are not there, though wanted."""
    path, pixels = part / JOURNAL, part / PIXELS
    records: list[Record] = []
    if not path.exists():
        return records
    good = 0
    for line in path.read_bytes().splitlines(keepends=True):
        checksum, _, text = line.rstrip(b"\n").partition(b" ")
        if not line.endswith(b"\n") or hashlib.sha256(text).hexdigest().encode() != checksum:
            break
        good += len(line)
        records += [Record(tuple(size), tuple(original), *rest) for size, original, *rest in json.loads(text)]
    if cached and (not pixels.exists() or pixels.stat().st_size < sum(pixel_bytes(record) for record in records)):
        records, good = [], 0
    os.truncate(path, good)
    if records:
        _log.info("going on after %s images that were decoded before", f"{len(records):,}")
    return records
