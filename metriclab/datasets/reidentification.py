"""What benchmarks of re-identification share: who was seen by which camera, and who looks for whom.

Queries look for the same person or vehicle as other cameras saw it: measure with `exclude = "same-group"`, where the
cameras are the groups.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from metriclab.core.protocols import Split
from metriclab.datasets.benchmark_images import Benchmark, benchmark_split
from metriclab.images.datasets import FileDataset, LabelledFile

_SEEN_BY = re.compile(r"(?P<identity>-1|\d{4})_c(?P<camera>\d+)")
_JUNK, _DISTRACTOR = "-1", "0000"


def open_folders(
    published: Benchmark, folders: tuple[str, str, str], split: Split, *, root: str, size: int, val: float
) -> FileDataset:
    """One split of a benchmark whose files are named by identity and camera.

    Args:
        published: what has to be there.
        folders: of train, query and gallery.
        split: which one.
        root: where the benchmark is.
        size: longest short side in pixels.
        val: part of the identities trained on that becomes val.

    Raises:
        DataError: if anything that was published is missing, or a file is named otherwise.
        StorageError: if the cache cannot be written.
    """
    folder = published.require(root, folders[0])
    listed = [
        entry
        for name, part in zip(folders, ("train", "query", "gallery"), strict=True)
        for entry in _named(published, folder, name, part)
    ]
    # VeRi-776 has its queries twice: they are images of the gallery.
    twice = {entry.path.name for entry in listed if entry.query} & {e.path.name for e in listed if e.gallery}
    kept = [entry for entry in listed if not (entry.query and entry.path.name in twice)]
    marked = [entry._replace(query=entry.query or entry.path.name in twice) for entry in kept]
    return benchmark_split(published, split, marked, folder, size=size, val=val)


def _named(published: Benchmark, folder: Path, name: str, part: str) -> Iterator[LabelledFile]:
    for path in sorted((folder / name).glob("*.jpg")):
        found = _SEEN_BY.match(path.name)
        if found is None:
            raise published.error(f"{path}: the name does not begin with identity and camera, as 0002_c1s1 does")
        if found["identity"] != _JUNK:
            label = "" if found["identity"] == _DISTRACTOR and part == "gallery" else found["identity"]
            yield photograph(folder, f"{name}/{path.name}", label, found["camera"], part)


def photograph(folder: Path, path: str, label: str, camera: str, part: str) -> LabelledFile:
    """What one camera saw: of `part` query or gallery in test, else in train; "" is the label of nobody looked for."""
    split = "test" if part in ("query", "gallery") else "train"
    name = f"camera {int(camera)}"
    return LabelledFile(folder / path, label, split, path, name, "", part == "query", part == "gallery")
