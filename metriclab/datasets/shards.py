"""Tar files of images, in the layout of webdataset."""

from __future__ import annotations

import os
import re
from collections import Counter
from pathlib import Path
from typing import Annotated, Literal

from annotated_types import Ge, Le, Lt

from metriclab.core.protocols import Split
from metriclab.core.splits import SPLITS
from metriclab.datasets.folder import carve_missing
from metriclab.datasets.splits import require_split
from metriclab.errors import DataError
from metriclab.images.columns import Files, LabelledFile
from metriclab.images.datasets import FileDataset
from metriclab.images.decode import Pixels, image_endings
from metriclab.images.files import OnError
from metriclab.images.shards import FOLDER, Fields, read_shard
from metriclab.images.table_problems import Problem
from metriclab.images.tree import has_split_level, place_of, require_only_splits
from metriclab.registry import register

_SHOWN = 20
_COMPRESSED = re.compile(r"\.(tgz|tar\.[a-z0-9]+)$", re.IGNORECASE)


@register("dataset", "shards")
def Shards(
    split: Split,
    /,
    *,
    root: str,
    label: str = "cls",
    group: str = "",
    category: str = "",
    image: str = "",
    size: Annotated[int, Ge(8), Le(4096)] = 256,
    val: Annotated[float, Ge(0), Lt(1)] = 0.1,
    test: Annotated[float, Ge(0), Lt(1)] = 0.2,
    disjoint: bool | Literal["class", "group", "class-and-group"] = False,
    on_error: OnError = "error",
    pixels: Pixels = "rgb",
) -> FileDataset:
    """Tar files of samples (webdataset's shards): members with one name up to its first dot are one sample.

    Each tar file is looked through once, and what is where in it is kept in the cache by its path, size and time of
    change; images are decoded once into the cache, shard by shard in the order of their names. So items have numbers,
    and what a run draws and how it resumes is as for a folder. Where the cache has no room, images are read from the
    shards again: the sampler `shuffled` with `window` reads so many neighbours at a time.

    Shards lie in `root` or below; folders `train`, `val` and `test` are splits, beside which no other shard may lie.
    What is not there is carved out of train as `folder` does it. The same key in two shards is two samples.

    Args:
        split: train, val or test.
        root: a `.tar` file, or a folder of them.
        label: where the class of a sample is: "cls" for a number in its `.cls` (negative for unknown), "txt" for the
            text of its `.txt`, "json.species" for that key of its `.json` ("json.product.id" for one further in),
            "folder" for the folder of the shard; "" for images without classes.
        group, category: where those are, in the same way.
        image: ending of the member that is the image, such as "jpg", where a sample has several.
        size: images are reduced until their short side has this many pixels, never enlarged; as in `folder`.
        val: part of train that becomes val, if there is no val; 0 for none.
        test: part of train that becomes test, if there is no test; 0 for none.
        disjoint: what is carved out whole, see `folder`.
        on_error: "error" to stop at members that give no image, "skip" to leave them out and list them in a file.
        pixels: "rgb", or "stored" for the channels and bits that the members have; as in `folder`.

    Raises:
        DataError: naming shard and member of all that cannot be used.
        StorageError: if the cache cannot be written.
    """
    require_split(split)
    given = {"label": label, "group": group, "category": category}
    where = {name: value for name, value in given.items() if value}
    endings = tuple(sorted(ending[1:] for ending in image_endings(pixels))) if not image else (image.lower(),)
    fields = Fields(endings, {name: value for name, value in where.items() if value != FOLDER})
    listed, notes = _listed(Path(root), fields, [name for name, value in where.items() if value == FOLDER])
    files, told = carve_missing(Files.of(listed), {"val": val, "test": test}, disjoint, root)
    return FileDataset(
        files,
        split,
        size=size,
        on_error=on_error,
        pixels=pixels,
        classes=_classes(files.labels.names),
        notes=[*notes, *told],
    )


def _listed(root: Path, fields: Fields, of_folder: list[str]) -> tuple[list[LabelledFile], list[str]]:
    names, left = _shards_below(root)
    split_level = _split_level(root, names, of_classes=bool(of_folder))
    files, problems = list[LabelledFile](), list[Problem]()
    for name in names:
        place, shard = place_of(name, split_level), root if name == root.name and root.is_file() else root / name
        found = read_shard(shard, fields)
        problems += found.problems
        if of_folder and not place.label:
            help = "put it into a folder of its class, or name a member or a key in data.label"
            problems.append(Problem(f"{shard}: it lies in no folder that could be its {of_folder[0]}", help))
        for member, values in found.samples:
            said = {**dict.fromkeys(of_folder, place.label), **values}
            label, group, category = (said.get(key, "") for key in ("label", "group", "category"))
            key = f"{name}/{member.name}"
            files.append(LabelledFile(Path(str(member)), label, place.split, key, group, category, source=member))
    _refuse(root, problems)
    return files, [f"{root}: left out {count:,} files ({kind})" for kind, count in left.items()]


def _split_level(root: Path, names: list[str], *, of_classes: bool) -> bool:
    """Whether the first folders are splits, as soon as one is called so; of classes, one may be called so."""
    folders = sorted({os.path.dirname(name) for name in names} - {""})
    first = list(dict.fromkeys(folder.partition("/")[0] for folder in folders))
    called_so = sum(name in SPLITS for name in first)
    if not has_split_level(folders) and called_so <= (1 if of_classes else 0):
        return False
    require_only_splits(root, first, [name for name in names if "/" not in name], "shard")
    return True


def _shards_below(root: Path) -> tuple[list[str], Counter[str]]:
    """Tar files in the order of their names, and what else is there."""
    if root.is_file():
        return [root.name], Counter()
    if not root.is_dir():
        raise DataError(
            f"{root}: {'is no folder' if root.exists() else 'does not exist'}",
            help=f"set data.root to a .tar file or a folder of them; relative paths start at {Path.cwd()}",
        )
    names, left = list[str](), Counter[str]()
    for folder, _, inner in os.walk(root, followlinks=True):
        for name in inner:
            path = os.path.relpath(os.path.join(folder, name), root)
            if name.lower().endswith(".tar"):
                names.append(path)
            elif _COMPRESSED.search(name):
                raise DataError(
                    f"{root / path}: this shard is compressed, and its members cannot be read one by one",
                    help="unpack it to a .tar; images inside are compressed already",
                )
            else:
                left[os.path.splitext(name)[1].lower() or "without an ending"] += 1
    if not names:
        raise DataError(f"{root}: there is no .tar file", help="set data.root to the folder of the shards")
    return sorted(names, key=lambda name: name.split("/")), left


def _refuse(root: Path, problems: list[Problem]) -> None:
    if problems:
        shown = [problem.text for problem in problems[:_SHOWN]]
        more = [f"and {len(problems) - _SHOWN:,} more"] if len(problems) > _SHOWN else []
        head = [] if len(problems) == 1 else [f"{root}: {len(problems):,} things are wrong in its shards:"]
        help = "; ".join(dict.fromkeys(problem.help for problem in problems[:_SHOWN]))
        raise DataError("\n  ".join([*head, *shown, *more]), help=help)


def _classes(names: list[str]) -> list[str]:
    """Their names, numbers in the order of numbers."""
    return sorted(names, key=int) if all(name.isdecimal() for name in names) else sorted(names)
