"""Tar files of samples, as webdataset has them: which members are in one, and where; no image is opened."""

from __future__ import annotations

import hashlib
import json
import os
import tarfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np

from metriclab.core.reading import open_regular
from metriclab.errors import DataError
from metriclab.images.cache_files import cache_folder, load_arrays, save_arrays
from metriclab.images.sources import ImageBytes, Member
from metriclab.images.table_problems import Problem

FOLDER = "folder"
"""As what a label is read from: the folder of the tar file."""

_VERSION, _BLOCK, _MOST_TEXT = 2, 512, 2**20


class Fields(NamedTuple):
    """Which member of a sample is what.

    Attributes:
        image: endings of the member that is the image, in lower case and without a dot.
        values: by name, "label" and the like, the member that says it ("cls", "txt"), or a key in it ("json.product").
    """

    image: tuple[str, ...]
    values: Mapping[str, str]


class Sample(NamedTuple):
    """An image of a shard, and what its other members say of it by the names in `Fields.values`."""

    image: Member
    values: Mapping[str, str]


@dataclass(slots=True)
class Shard:
    """What is in one tar file."""

    samples: list[Sample] = field(default_factory=list)
    problems: list[Problem] = field(default_factory=list)


def read_shard(path: Path, fields: Fields) -> Shard:
    """The samples of a tar file in their order, or what is wrong with it; read once, then from an index in the cache.

    The index is known by the path, size and time of change of the tar file.

    Raises:
        StorageError: if the index cannot be written.
        DataError: where the file is not there.
    """
    try:
        status = os.stat(path)
    except OSError as error:
        raise DataError(f"{path}: {error.strerror}", help="check the path, and that you may read it") from error
    known = repr(
        (_VERSION, os.path.abspath(path), status.st_size, status.st_mtime_ns, tuple(fields.image), fields.values)
    )
    name = hashlib.blake2b(known.encode(errors="surrogateescape"), digest_size=16).hexdigest()
    place = cache_folder("shards") / f"{name}.npz"
    columns = ("names", "places", *fields.values)
    stored = load_arrays(place, *columns)
    if stored is None:
        found = _scan(path, status.st_mtime_ns, fields)
        if not found.problems:
            save_arrays(place, _arrays(found.samples, fields))
        return found
    names, places = stored["names"].tolist(), stored["places"].tolist()
    values = zip(*(stored[key].tolist() for key in fields.values), strict=True) if fields.values else [()] * len(names)
    return Shard(
        [
            Sample(Member(path, name, offset, size, status.st_mtime_ns), dict(zip(fields.values, said, strict=True)))
            for name, (offset, size), said in zip(names, places, values, strict=True)
        ]
    )


def _arrays(samples: Sequence[Sample], fields: Fields) -> dict[str, np.ndarray]:
    """What the index holds."""
    places = np.array([(one.image.offset, one.image.size) for one in samples], dtype=np.int64).reshape(-1, 2)
    names = np.array([one.image.name for one in samples], dtype=np.str_)
    values = {key: np.array([one.values[key] for one in samples], dtype=np.str_) for key in fields.values}
    return {"names": names, "places": places, **values}


def _scan(path: Path, changed: int, fields: Fields) -> Shard:
    shard, samples = Shard(), dict[str, dict[str, tarfile.TarInfo]]()
    with open_regular(path) as file:
        last = "its beginning"
        try:
            with tarfile.open(fileobj=file, mode="r:") as tar:
                for member in tar:
                    last = f"the member {member.name!r}"
                    parts = None if member.isdir() else _key_and_ending(member.name)
                    if parts is not None and (member.issparse() or not member.isfile()):
                        shard.problems.append(_not_whole(path, member))
                    elif parts is not None:
                        _put(path, samples.setdefault(parts[0], {}), parts[1], member, shard)
                end = tar.offset
            shard.problems += _after_the_end(path, file, end, last)
        except (tarfile.TarError, OSError, EOFError) as error:
            text = f"{path}: it cannot be read beyond {last}: {error}"
            shard.problems.append(Problem(text, _help_of(path)))
        for key, members in samples.items():
            _add(path, file, key, members, changed, fields, shard)
    if not samples and not shard.problems:
        shard.problems.append(Problem(f"{path}: it holds no sample", "fill it, or remove it"))
    return shard


def _key_and_ending(name: str) -> tuple[str, str] | None:
    """What stands before and after the first dot of the file's name; None where a hidden file has no key."""
    folder, slash, base = name.rpartition("/")
    key, dot, ending = base.partition(".")
    return (folder + slash + key, ending.lower()) if key and dot else None


def _not_whole(path: Path, member: tarfile.TarInfo) -> Problem:
    what = "is a link" if member.issym() or member.islnk() else "is sparse" if member.issparse() else "is no file"
    help = "write the shard again with files that are whole in it, as `tar --dereference --hard-dereference` does"
    return Problem(f"{path}: the member {member.name!r} {what}: its bytes are not in its place", help)


def _put(path: Path, sample: dict[str, tarfile.TarInfo], ending: str, member: tarfile.TarInfo, shard: Shard) -> None:
    if ending in sample:
        text = f"{path}: the member {member.name!r} is there twice"
        shard.problems.append(Problem(text, "give each sample of a shard a key of its own"))
    sample[ending] = member


def _after_the_end(path: Path, file: ImageBytes, end: int, last: str) -> list[Problem]:
    """`tarfile` takes a damaged header for the end, as it takes the end of one tar file within several joined."""
    file.seek(max(0, end - _BLOCK))
    rest = file.read(2 * _BLOCK)
    if not rest.endswith(bytes(_BLOCK)):
        return [Problem(f"{path}: it is damaged or cut short after {last}", _help_of(path))]
    while block := file.read(_MOST_TEXT):
        if any(block):
            return [Problem(f"{path}: more follows after its end", "join tar files with `tar -A`, not with `cat`")]
    return []


def _help_of(path: Path) -> str:
    return "write the shard again; it is an uncompressed .tar, as members are read one by one"


def _add(
    path: Path,
    file: ImageBytes,
    key: str,
    members: Mapping[str, tarfile.TarInfo],
    changed: int,
    fields: Fields,
    shard: Shard,
) -> None:
    """One sample, or what is wrong with it."""
    images = [ending for ending in members if ending in fields.image]
    if len(images) != 1:
        there = ", ".join(f".{ending}" for ending in (images or members))
        what = f"has {len(images)} images" if images else "has no image"
        help = "name the ending of the one that is meant in data.image" if images else "add one, or set data.image"
        shard.problems.append(Problem(f"{path}: the sample {key!r} {what} ({there})", help))
        return
    image = members[images[0]]
    values = {}
    for name, where in fields.values.items():
        said = _value(path, file, key, name, where, members)
        if isinstance(said, Problem):
            shard.problems.append(said)
            return
        values[name] = said
    shard.samples.append(Sample(Member(path, image.name, image.offset_data, image.size, changed), values))


def _value(
    path: Path, file: ImageBytes, key: str, name: str, where: str, members: Mapping[str, tarfile.TarInfo]
) -> str | Problem:
    """What a sample's members say of it; a number in .cls may be negative, which is unknown."""
    ending, _, keys = where.partition(".")
    place = f"{path}: the sample {key!r}"
    if ending not in members:
        return Problem(f"{place} has no .{ending} with its {name}", f"add it, or set data.{name} to where it is")
    file.seek(members[ending].offset_data)
    content = file.read(min(members[ending].size, _MOST_TEXT))
    try:
        text = content.decode("utf-8-sig").strip()
        if ending == "cls":
            return "" if int(text) < 0 else str(int(text))
        return _text_of(json.loads(text), keys.split(".")) if keys else text
    except KeyError as error:
        return Problem(f"{place} has no key {error} in its .{ending}", f"add it, or set data.{name} to another")
    except (ValueError, TypeError) as error:
        wanted = "a whole number" if ending == "cls" else f"a plain value at {keys!r}" if keys else "text in UTF-8"
        shown = content[:40].decode(errors="replace").strip()
        return Problem(f"{place} has {shown!r} in its .{ending}, not {wanted}", f"write {wanted} ({error})")


def _text_of(value: object, keys: Sequence[str]) -> str:
    for key in keys:
        if not isinstance(value, dict):
            raise TypeError(f"there is no object with {key!r}")
        value = value[key]
    if isinstance(value, dict | list):
        raise TypeError("it is a list or an object")
    return "" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
