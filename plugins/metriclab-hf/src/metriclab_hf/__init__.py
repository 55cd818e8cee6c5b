"""Data sets of the library `datasets` for metriclab: by name, from a folder or from parquet files."""

from __future__ import annotations

import io
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le

from metriclab.api import DataError, FileDataset, LabelledFile, register

__all__ = ["HuggingFace"]

_USUAL = {"train": ("train",), "val": ("validation", "val", "valid", "dev"), "test": ("test",)}
"""What the splits are called in most data sets, the first that is there."""

_SLICES = 'splits = { train = "train[:80%]", test = "train[80%:]" }'


@register("dataset", "hf")
def HuggingFace(
    split: Literal["train", "val", "test"],
    /,
    *,
    root: str,
    config: str | None = None,
    revision: str | None = None,
    download: bool = False,
    splits: dict[str, str] = {},  # noqa: B006  (a plain default, never changed)
    image: str = "image",
    label: str = "label",
    group: str = "",
    category: str = "",
    size: Annotated[int, Ge(8), Le(4096)] = 256,
    on_error: Literal["error", "skip"] = "error",
    pixels: Literal["rgb", "stored"] = "rgb",
) -> FileDataset:
    """A data set of the library `datasets`: a name on the hub, a folder that it wrote or can read, or a parquet file.

    Images are decoded once into metriclab's cache, as those of a folder are, and never by `datasets`.

    Args:
        split: train, val or test.
        root: folder of `save_to_disk`, folder of parquet or image files, `.parquet` file, or a name on the hub.
        config: name of the configuration, where there are several.
        revision: commit or tag on the hub; name one, so that a run can be repeated.
        download: whether a name is fetched from the hub, or taken from the cache of `datasets`.
        splits: what train, val and test are called there, in its own syntax: slices such as "train[:80%]" too. By
            default train, test, and validation or val, of which none need be there.
        image: column of the images.
        label: column of the classes, names or numbers; "" for images without classes.
        group, category: columns of what makes two images of a class too easy a match, and of coarser classes.
        size: images are reduced until their short side has this many pixels, never enlarged.
        on_error: "error" to stop at rows that give no image, "skip" to leave them out and list them in a file.
        pixels: "rgb", or "stored" for the channels and bits that the images have.

    Raises:
        DataError: where it cannot be had, or lacks a split or a column; it names them.
    """
    parts = _parts(root, config, revision, download)
    columns = {"label": label, "group": group, "category": category}
    chosen = {key: column for key, column in columns.items() if column}
    called = _called(root, parts, splits)
    files = [
        file
        for name, spec in called.items()
        for file in _files(f"{root}/{spec}", _sliced(root, parts, spec), image, chosen, name)
    ]
    return FileDataset(files, split, size=size, on_error=on_error, pixels=pixels, classes=_classes(files, parts, label))


@dataclass(frozen=True, slots=True)
class Cell:
    """The image of a row.

    Attributes:
        table: with a column of images that are not decoded, and no other.
        row: in it.
        column: its name.
        name: of the row, for people.
        container: the file that has it.
        changed: size and time of change of that.
    """

    table: Any
    row: int
    column: str
    name: str
    container: Path
    changed: tuple[int, int]

    def __str__(self) -> str:
        return self.name

    def open(self) -> io.BytesIO:
        cell = self.table[self.row][self.column]
        if cell is None or cell["bytes"] is None:
            raise OSError("this row has no image")
        return io.BytesIO(cell["bytes"])

    def state(self) -> tuple[int, int, int]:
        return self.row, *self.changed


def _parts(root: str, config: str | None, revision: str | None, download: bool) -> Mapping[str, Any]:
    """All its splits by their names."""
    import datasets  # here, and below: it takes seconds, and who lists what there is need not wait

    place = Path(root)
    if not place.exists() and not download:
        raise DataError(
            f"{root}: there is no such folder or file", help="set data.download = true if it is a name on the hub"
        )
    try:
        if (place / "dataset_dict.json").is_file() or (place / "state.json").is_file():
            loaded: Any = datasets.load_from_disk(root)
        elif place.suffix.lower() == ".parquet" and place.is_file():
            loaded = datasets.load_dataset("parquet", data_files={"train": root})
        else:
            loaded = datasets.load_dataset(root, name=config, revision=revision)
    except Exception as error:  # whatever the library, the hub or a file of somebody else raises
        reason = str(error).partition("\n")[0] or type(error).__name__
        raise DataError(
            f"{root}: datasets cannot load it ({reason})", help="check the name, data.config, and that the hub is there"
        ) from error
    return loaded if isinstance(loaded, datasets.DatasetDict) else {"train": loaded}


def _called(root: str, parts: Mapping[str, Any], splits: Mapping[str, str]) -> dict[str, str]:
    """What its splits are called, of those that there are."""
    if unknown := sorted(set(splits) - set(_USUAL)):
        raise DataError(f"data.splits names {unknown[0]!r}", help="the splits of a run are train, val and test")
    usual = {name: next((own for own in names if own in parts), None) for name, names in _USUAL.items()}
    called = {name: spec for name, spec in {**usual, **splits}.items() if spec is not None}
    for name in ("train", "test"):
        if name not in called:
            raise DataError(
                f"{root}: it has no split for {name}; there is {', '.join(parts)}",
                help=f"say in data.splits what it is called, or cut it out of another: {_SLICES}",
            )
    return called


def _sliced(root: str, parts: Mapping[str, Any], spec: str) -> Any:
    import datasets

    try:
        (cut,) = datasets.ReadInstruction.from_spec(spec).to_absolute({name: len(part) for name, part in parts.items()})
    except (ValueError, KeyError, AssertionError) as error:
        raise DataError(
            f"{root}: {spec!r} is no split of it; there is {', '.join(parts)}", help=f"write it so: {_SLICES}"
        ) from error
    start, stop = cut.from_ or 0, len(parts[cut.splitname]) if cut.to is None else cut.to
    return parts[cut.splitname].select(range(start, stop))


def _files(place: str, table: Any, image: str, columns: Mapping[str, str], split: str) -> Iterator[LabelledFile]:
    import datasets
    from pyarrow import compute

    for key, column in {"image": image, **columns}.items():
        if column not in table.column_names:
            raise DataError(
                f"{place}: there is no column {column!r}",
                help=f"set data.{key} to one of {', '.join(table.column_names)}",
            )
    try:
        images = table.select_columns([image]).cast_column(image, datasets.Image(decode=False))
        stored = images.data.column(image)
        inside = compute.is_valid(compute.struct_field(stored, "bytes")).to_pylist()
        paths = compute.struct_field(stored, "path").to_pylist()
    except Exception as error:  # of Arrow, which has many
        raise DataError(
            f"{place}: the column {image!r} holds no images ({table.features[image]})",
            help="set data.image to a column of images, of their bytes or of their paths",
        ) from error
    values = {key: _texts(table, column) for key, column in columns.items()}
    container, changed = _container(table)
    for row, path in enumerate(paths):
        label, group, category = (values[key][row] if key in values else "" for key in ("label", "group", "category"))
        name = f"{place}/{row}"
        if path is not None and not inside[row]:
            yield LabelledFile(Path(path), label, split, name, group, category)
        else:
            cell = Cell(images, row, image, name, container, changed)
            yield LabelledFile(Path(name), label, split, name, group, category, source=cell)


def _texts(table: Any, column: str) -> list[str]:
    """The values of a column as names; "" for what is unknown: nothing, or a class below 0."""
    import datasets

    feature = table.features[column]
    names = feature.names if isinstance(feature, datasets.ClassLabel) else None
    values = table.select_columns([column]).with_format(None)[column]
    if names is not None:
        return ["" if value is None or value < 0 else names[value] for value in values]
    return ["" if value is None else str(value) for value in values]


def _container(table: Any) -> tuple[Path, tuple[int, int]]:
    paths = [file["filename"] for file in table.cache_files]
    if not paths:
        return Path(), (0, 0)
    states = [os.stat(path) for path in paths]
    return Path(paths[0]), (sum(state.st_size for state in states), max(state.st_mtime_ns for state in states))


def _classes(files: list[LabelledFile], parts: Mapping[str, Any], label: str | None) -> list[str] | None:
    """In the data set's own order, where it has one."""
    import datasets

    features = [part.features.get(label) for part in parts.values()]
    if not all(isinstance(feature, datasets.ClassLabel) and feature == features[0] for feature in features):
        return None
    names: list[str] = features[0].names
    return names
