"""Embeddings that a user has in files, as rows to measure: mapped into memory where they can be, never copied whole."""

from __future__ import annotations

import logging
import math
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Float32, Float64, Int64
from torch import Tensor

from metriclab.core.copies import is_copy
from metriclab.core.rows import Rows, normalize, rows
from metriclab.errors import DataError, StorageError
from metriclab.images.manifest import read_manifest
from metriclab.images.tables import is_table
from metriclab.images.tree import folder_classes
from metriclab.ranking.candidates import count_matches
from metriclab.vectors.arrays import Labels, embeddings_of, groups_in, integers_of, labels_in, labels_of, require_order
from metriclab.vectors.formats import read_arrays

_PART = 2**20
"""Numbers that are looked at, or written, at a time."""

_IN_MEMORY = 2**25
"""Numbers up to which what had to be normalised is kept in memory: 128 MB."""

_NEAR_ONE = 2.0**-19
"""What a norm may be off by, as those are that were summed in float32: two of the smallest steps that rank rows."""

_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Source:
    """Where one side's embeddings are, and what is known of them.

    Attributes:
        embeddings: a file of one of `formats.FORMATS`.
        labels: a file of labels; else those in the file of the embeddings are taken, if there are any.
        items: a file of integers, equal for rows of one thing; else those in the file of the embeddings, else none are.
        groups: a file of numbers or names of groups (camera, sequence); else those in the file of the embeddings, or of
            a table that `labels` is.
        by_folder: whether the label of a row is the class folder of its image, by the paths that `metriclab embed`
            wrote: see `folder_classes`.
    """

    embeddings: Path
    labels: Path | None = None
    items: Path | None = None
    groups: Path | None = None
    by_folder: bool = False


class _Side(NamedTuple):
    source: Source
    z: Float32[Tensor, "n d"]
    labels: Labels | None
    items: Int64[Tensor, "n"] | None
    groups: Labels | None


def read_rows(queries: Source, gallery: Source | None = None) -> tuple[Rows, Rows]:
    """Queries and gallery, as `read_named_rows` reads them; what classes are called is left out."""
    return read_named_rows(queries, gallery)[:2]


def read_named_rows(queries: Source, gallery: Source | None = None) -> tuple[Rows, Rows, np.ndarray | None]:
    """Queries and gallery, the queries again without a gallery for leave-one-out; and the name of each label.

    Items mean the same on both sides; rows of a side without any are nobody else's.

    Rows of unit norm in float32 are read where they lie. Others are normalised into a copy, which lies in an unnamed
    temporary file where it is large. Labels are numbers or names; of a side without any all are unknown. Numbers have
    no names, which are None then.

    Raises:
        DataError: where a file cannot be read, or its content cannot be measured; it names the file.
        StorageError: where there is no room for the copy.
    """
    if gallery is not None and _same(queries.embeddings, gallery.embeddings):
        raise DataError(
            f"{gallery.embeddings} is the file of the queries: every row would find itself",
            help="leave --gallery away to measure each row against all others",
        )
    sides = [_read(source) for source in (queries, gallery) if source is not None]
    first, last = sides[0], sides[-1]
    if first.z.shape[1] != last.z.shape[1]:
        raise DataError(
            f"{first.source.embeddings} has {first.z.shape[1]} dimensions, {last.source.embeddings} {last.z.shape[1]}",
            help="embed queries and gallery by the same network",
        )
    (codes, names), (groups, _) = _coded(sides, "labels"), _coded(sides, "groups")
    made = [_unit_rows(*parts) for parts in zip(sides, codes, _numbered(sides), groups, strict=True)]
    if is_copy(made[0], made[-1]):
        raise DataError(
            f"{last.source.embeddings} has the rows of {first.source.embeddings}: every row would find itself",
            help="leave --gallery away to measure each row against all others, or give the items of both",
        )
    if any(side.labels is not None for side in sides):
        _require_matches(sides, made)
    return made[0], made[-1], names


def _unit_rows(side: _Side, labels: Int64[Tensor, "n"], items: Int64[Tensor, "n"], groups: Int64[Tensor, "n"]) -> Rows:
    # `rows` would copy embeddings: it is given narrow ones to make all the rest.
    known = None if side.groups is None else groups
    return replace(rows(side.z.new_zeros(len(labels), 1), labels, items, groups=known), z=side.z)


def _numbered(sides: Sequence[_Side]) -> list[Int64[Tensor, "_"]]:
    """Items by their ranks on all sides together, and numbers beyond them for the rows of a side without any."""
    given = [side.items for side in sides if side.items is not None]
    known = torch.unique(torch.cat(given)) if given else torch.empty(0, dtype=torch.int64)
    start, numbers = len(known), []
    for side in sides:
        fresh = torch.arange(start, start + len(side.z))
        numbers.append(fresh if side.items is None else torch.searchsorted(known, side.items))
        start += len(fresh)
    return numbers


def _same(one: Path, other: Path) -> bool:
    return one.exists() and other.exists() and one.samefile(other)


def _read(source: Source) -> _Side:
    path = source.embeddings
    arrays, paths = read_arrays(path)
    z = embeddings_of(path, arrays)
    if source.by_folder:
        labels: Labels | None = _by_folder(path, paths, len(z))
    else:
        labels = labels_in(path, arrays) if source.labels is None else labels_of(source.labels)
    items = integers_of(path, arrays, "items") if source.items is None else integers_of(source.items, None, "items")
    if source.groups is not None:
        groups: Labels | None = labels_of(source.groups, "groups")
    else:
        groups = groups_in(path, arrays, source.labels)
    for what, values in (("labels", labels), ("items", items), ("groups", groups)):
        if values is not None and len(values) != len(z):
            raise DataError(
                f"there are {len(values):,} {what} for the {len(z):,} embeddings of {path}",
                help="give one for each row, in their order",
            )
    if source.labels is not None and is_table(source.labels, "labels"):
        listed, _ = read_manifest(source.labels)
        require_order(source.labels, listed.names, path, paths)
    return _Side(source, unit(z, path), labels, None if items is None else torch.from_numpy(items), groups)


def _by_folder(path: Path, paths: Sequence[str] | None, count: int) -> Labels:
    if paths is None:
        raise DataError(
            f"{path} has no paths to take folders from", help="`metriclab embed` writes them; else give --labels"
        )
    if len(paths) != count:
        raise DataError(
            f"there are {len(paths):,} paths for the {count:,} embeddings of {path}", help="embed the images again"
        )
    labels = folder_classes(paths)
    if not any(labels):
        raise DataError(
            f"{path}: all of its images lie in one folder, and the class is the first folder below that",
            help="embed the folder that has the folders of the classes, or give --labels",
        )
    if lone := labels.count(""):
        _log.warning("%s: %s of %s images lie in no class folder: their label is unknown", path, lone, count)
    return np.array(labels)


def unit(z: Float[Tensor, "n d"], path: Path) -> Float32[Tensor, "n d"]:
    """The rows with norm 1 in float32: themselves where they have it, else a copy; a row of zeros stays zero.

    Raises:
        DataError: where a row is not finite.
        StorageError: where there is no room for the copy.
    """
    norms, parts = finite_norms(z, path), _parts(z)
    fine = z.dtype == torch.float32 and z.is_contiguous()
    if fine and bool((((norms - 1).abs() <= _NEAR_ONE) | (norms == 0)).all()):
        return z
    if z.numel() <= _IN_MEMORY:
        return torch.cat([normalize(part).float() for part in parts])
    return _on_disk(parts, z.shape)


def finite_norms(z: Float[Tensor, "n d"], path: Path) -> Float64[Tensor, "n"]:
    """The norms of the rows; how many are zero is logged.

    Raises:
        DataError: where a row is not finite.
    """
    parts = _parts(z)
    # Into one place: small results kept between large temporary ones would leave the heap full of holes.
    norms, largest = torch.empty(len(z), dtype=torch.float64), torch.empty(len(z), dtype=torch.float64)
    for part, norm, most in zip(
        parts, *(torch.split(values, len(parts[0])) for values in (norms, largest)), strict=True
    ):
        norm.copy_(torch.linalg.vector_norm(part, dim=1, dtype=torch.float64))
        most.copy_(torch.linalg.vector_norm(part, math.inf, dim=1))  # squares of float64 may leave its range
    broken = (~largest.isfinite()).nonzero().squeeze(1)
    if len(broken):
        raise DataError(
            f"{path}: {len(broken):,} of {len(z):,} embeddings are not finite, the first is row {int(broken[0])}",
            help="leave out NaN and infinite rows, or look for what made them",
        )
    zeros = int((largest == 0).sum())
    if zeros:
        _log.warning("%s: %s of %s embeddings are zero: they are alike to nothing", path, f"{zeros:,}", f"{len(z):,}")
    return norms


def _parts(z: Float[Tensor, "n d"]) -> Sequence[Tensor]:
    return torch.split(z, max(1, _PART // z.shape[1]))


def _on_disk(parts: Sequence[Tensor], shape: Sequence[int]) -> Float32[Tensor, "n d"]:
    try:
        # Written and then mapped: a full disk is an error when writing, and a crash when touching a map.
        with tempfile.TemporaryFile(prefix="metriclab-") as file:
            for part in parts:
                file.write(normalize(part).float().numpy().data)
            file.flush()
            return torch.from_numpy(np.memmap(file, np.float32, mode="c", shape=tuple(shape)))
    except OSError as error:
        raise StorageError(
            f"no room for the normalised embeddings in {tempfile.gettempdir()}: {error.strerror}",
            help="set the environment variable TMPDIR to a folder with room, or store embeddings of norm 1 in float32",
        ) from error


def _coded(
    sides: Sequence[_Side], what: Literal["labels", "groups"]
) -> tuple[list[Int64[Tensor, "_"]], np.ndarray | None]:
    """Labels as integers that mean the same on all sides, and their names; -1 for an unknown one, as an empty name."""
    given: list[Labels | None] = [getattr(side, what) for side in sides]
    known = [labels for labels in given if labels is not None]
    if len({labels.dtype.kind for labels in known}) > 1:
        raise DataError(
            f"{what} of {sides[0].source.embeddings} and {sides[-1].source.embeddings} are numbers on one side and "
            "names on the other",
            help="give both the same",
        )
    unknown = [torch.full((len(side.z),), -1) for side in sides]
    if not known or known[0].dtype.kind == "i":
        return [rest if of is None else torch.from_numpy(of) for of, rest in zip(given, unknown, strict=True)], None
    names, codes = np.unique(np.concatenate(known), return_inverse=True)
    codes = np.where(names[codes] == "", -1, codes).astype(np.int64)
    parts = iter(np.split(codes, np.cumsum([len(labels) for labels in known])[:-1]))
    both = zip(given, unknown, strict=True)
    return [rest if of is None else torch.from_numpy(next(parts).copy()) for of, rest in both], names


def _require_matches(sides: Sequence[_Side], made: Sequence[Rows]) -> None:
    queries, gallery = made[0], made[-1]
    first, last = sides[0].source.embeddings, sides[-1].source.embeddings
    for side, path in ((queries, first), (gallery, last)):
        if not bool((side.labels >= 0).any()):
            raise DataError(
                f"no row of {path} has a label", help="give its labels; negative and empty ones are unknown"
            )
    known = queries.labels[queries.labels >= 0]
    if gallery is not queries and not bool(torch.isin(known, gallery.labels).any()):
        raise DataError(
            f"no label of {first} is among those of {last}: there is nothing to find",
            help="label both sides by the same names or numbers",
        )
    known_label = queries.labels >= 0
    if not bool((count_matches(queries, gallery)[known_label] > 0).any()):
        where = f"no two rows of {first}" if gallery is queries else f"no row of {first} and one of {last}"
        raise DataError(
            f"{where} have the same label and different items: there is nothing to find",
            help="labels name classes, which rows share, and items things, which never match themselves",
        )
    if bool((gallery.labels == gallery.labels[0]).all()):
        raise DataError(
            f"all rows of {last} are of one class: whatever is nearest is right",
            help="embed the folder that has the folders of the classes, or give other --labels",
        )
