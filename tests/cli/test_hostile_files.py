"""Files as they may be: whatever they hold, each reader answers or refuses, and all answer alike."""

from __future__ import annotations

import io
import json
import os
import tempfile
import warnings
from collections import Counter
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.numpy
from click.testing import CliRunner
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from metriclab.cli import main
from metriclab.datasets.folder import Folder
from metriclab.errors import MetriclabError
from metriclab.images import decode as decoding
from metriclab.images.decode import UnreadableImageError, decode, image_formats
from metriclab.vectors.arrays import labels_of
from metriclab.vectors.export import find_images
from metriclab.vectors.formats import read_arrays
from metriclab.vectors.rows import Source, read_rows
from tests.support.pictures import fill, picture
from tests.support.tiny import TINY

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("cache")]
bounded = settings(
    deadline=None, max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
)

ODD = [
    os.fsdecode(name) for name in (b"caf\xe9", "a\u2028b".encode(), b"a\nb", "\u0085".encode(), b'"q"', b" c ", b"-")
]
FOLDERS = st.sampled_from(["a", "b", "2020", ".hidden", *ODD])
FILES = st.tuples(
    st.sampled_from(["0", "1", "2", *ODD]),
    st.sampled_from([".png"] * 6 + [".JPG", ".jfif", ".heic", ".npy", "", ".txt"]),
).map("".join)
CONTENT = st.sampled_from(["image"] * 9 + ["empty", "fifo"])
LINKS = st.sampled_from([".", "..", "../..", "self", "nowhere", "a", "b", "../a", "../b", "0.png", "../b/0.png"])
ENTRIES = st.recursive(
    st.dictionaries(FILES, CONTENT, max_size=4),
    lambda inner: (
        st.dictionaries(FOLDERS, inner, max_size=3)
        | st.tuples(
            st.dictionaries(FOLDERS, inner, max_size=2), st.dictionaries(FILES, CONTENT | LINKS, max_size=3)
        ).map(lambda both: {**both[1], **both[0]})
    ),
    max_leaves=6,
)
FOUR = st.fixed_dictionaries({f"{number}.png": st.just("image") for number in range(4)})
CLASS = st.tuples(ENTRIES, FOUR).map(lambda both: {**both[0], **both[1]})
CLASSES = st.fixed_dictionaries(
    {"a": CLASS, "2020": st.fixed_dictionaries({"deep": CLASS})},
    optional={"b": CLASS, ODD[0]: CLASS, ODD[1]: CLASS, "link": st.just("a"), "out": st.just("../store")},
)
SPLITS = st.fixed_dictionaries({"train": CLASSES, "test": CLASSES}, optional={"val": CLASSES | ENTRIES})
TREES = st.one_of(
    ENTRIES, CLASSES, CLASSES, SPLITS, st.tuples(ENTRIES, CLASSES).map(lambda both: {**both[0], **both[1]})
)


@pytest.fixture
def plain(tmp_path):
    with tempfile.TemporaryDirectory(dir=tmp_path) as place:
        yield Path(place)


def plant(folder: Path, entries: dict, number: list[int]) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for name, what in entries.items():
        path = folder / name
        if os.path.lexists(path):
            continue
        if isinstance(what, dict):
            plant(path, what, number)
        elif what == "image":
            number[0] += 1
            picture(number[0]).save(path, "PNG")  # the content decides, not the ending
        elif what == "empty":
            path.with_suffix(".txt").touch()
        elif what == "fifo":
            os.mkfifo(path)
        else:
            path.symlink_to(name if what == "self" else what)
    return folder


def everything(folder: Path) -> dict[str, bytes | None]:
    found = {}
    for parent, folders, files in os.walk(folder):
        for name in [*folders, *files]:
            path = os.path.join(parent, name)
            regular = os.path.isfile(path) and not os.path.islink(path)
            found[path] = Path(path).read_bytes() if regular else None
    return found


def same_groups(one, other) -> bool:
    return np.array_equal(*(np.unique(labels, return_inverse=True)[1] for labels in (one, other)))


@bounded
@given(tree=TREES)
def test_a_tree_is_the_same_to_all_that_read_it(tree, tiny_run, tmp_path):
    with tempfile.TemporaryDirectory(dir=tmp_path) as place:
        fill(Path(place) / "store", 4, start=900)
        root, out = plant(Path(place) / "root", tree, [0]), Path(place) / "out" / "z.npy"
        before = everything(root)
        embedded = CliRunner().invoke(main, ["embed", str(tiny_run), str(root), "-o", str(out)])
        assert embedded.exit_code in (0, 3), embedded.output
        measured = CliRunner().invoke(main, ["measure", str(out), "--by-folder", "--json"])
        assert measured.exit_code in (0, 3), measured.output
        recipe = Path(place) / "recipe.toml"
        where = f'name = "folder"\nroot = "{root}"\nval = 0.0\n'
        recipe.write_text(TINY.replace('name = "synthetic"\nsize = 12\n', where))
        checked = CliRunner().invoke(main, ["check", str(recipe), "--data", "--json"])
        assert checked.exit_code in (0, 1, 2, 3), checked.output  # 2: too few images for the recipe's batch
        assert everything(root) == before
        assert {path.name for path in Path(place).iterdir()} <= {"root", "store", "out", "recipe.toml"}
        try:
            data = Folder("train", root=str(root), val=0.0)
        except MetriclabError:
            return
        splits = {name: data.with_split(name) for name in ("train", "val", "test") if name in _splits(data)}
        labels = {
            path: split.classes[label] if label >= 0 else ""
            for split in splits.values()
            for path, label in zip(split.names, split.labels, strict=True)
        }
        paths = read_arrays(out).paths
        assert paths == find_images([root])
        paths = [os.path.normpath(path) for path in paths]
        assert sorted(paths) == sorted(labels)
        assert len(np.load(out)) == len(paths)
        found = json.loads(checked.stdout)["splits"].values()
        assert sum(split["images"] for split in found) == len(paths)
        counts = sum((Counter(split["classes"]) for split in found), Counter())
        assert counts == Counter(label for label in labels.values() if label)
        if measured.exit_code == 0:
            queries, _ = read_rows(Source(out, by_folder=True))
            names = np.array([labels[path] for path in paths])
            assert same_groups(queries.labels.numpy(), names)
            assert np.array_equal(queries.labels.numpy() < 0, names == "")


def _splits(data) -> set[str]:
    return {file.split for file in data._listed}


PATHS = ["0.png", "./1.png", "im/2.png", "im//../im/3.png", " 4.png "]
CELLS = st.sampled_from(
    [
        *PATHS,
        "lost.png",
        "",
        "a",
        "a ",
        "b",
        "nan",
        "train",
        "é\u2028",
        '"a,b"',
        '"a',
        "pipe",
        ".",
        "..",
        "\0",
        "x" * 300,
    ]
)
TABLES = st.lists(st.lists(CELLS, min_size=1, max_size=4).map(",".join), max_size=6).map("\n".join)
SOUND = st.lists(
    st.tuples(st.sampled_from(PATHS), st.sampled_from("ab ")),
    unique_by=lambda row: row[0],
    min_size=1,
).map(lambda rows: "\n".join(map(",".join, rows)))


@bounded
@given(
    head=st.sampled_from(["path,label\n", "path,label,split\n", " label ,path,x\r\n", "path,path\n", ""]),
    text=TABLES | SOUND | SOUND,
    encoding=st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "latin-1"]),
)
def test_a_table_is_the_same_to_all_that_read_it(head, text, encoding, plain):
    fill(plain, 1)
    (plain / "im").mkdir(exist_ok=True)
    for number in range(5):
        picture(number).save(plain / ("im" if number in (2, 3) else "") / f"{number}.png")
    if not (plain / "pipe").exists():
        os.mkfifo(plain / "pipe")
    table = plain / "all.csv"
    table.write_bytes((head + text).encode(encoding, errors="replace"))
    answers = []
    for reader in (
        lambda: Folder("train", root=str(table), val=0.0, test=0.0),
        lambda: find_images([table]),
        lambda: labels_of(table),
    ):
        try:
            answers.append(reader())
        except MetriclabError as error:
            answers.append(error)
    data, paths, labels = answers
    assert isinstance(paths, Exception) == isinstance(labels, Exception)
    if not isinstance(data, Exception):
        names = [data.classes[label] if label >= 0 else "" for label in data.labels]
        together = zip(map(str, paths), labels.tolist(), strict=True)
        assert list(zip(data.names, names, strict=True)) == [pair for pair in together if pair[0] in set(data.names)]


def _vectors() -> dict[str, bytes]:
    draw = np.random.default_rng(0)
    z, labels = draw.normal(size=(12, 3)).astype(np.float32), np.arange(12) % 3
    buffers = {ending: io.BytesIO() for ending in (".npy", ".npz", ".parquet")}
    np.save(buffers[".npy"], z)
    np.savez(buffers[".npz"], embeddings=z, labels=labels, items=np.arange(12))
    columns = {"embedding": z.tolist(), "label": labels, "path": [f"{label}/{i}.png" for i, label in enumerate(labels)]}
    pyarrow.parquet.write_table(pa.table(columns), buffers[".parquet"])
    tensors = safetensors.numpy.save({"embeddings": z, "labels": labels}, {"paths": "[]"})
    text = "".join(f"{label}\n" for label in labels).encode()
    return {**{ending: file.getvalue() for ending, file in buffers.items()}, ".safetensors": tensors, ".txt": text}


VECTORS = _vectors()
EDITS = st.lists(st.tuples(st.floats(0, 1), st.binary(max_size=4)), max_size=3)


def edited(content: bytes, edits, cut: float) -> bytes:
    for place, new in edits:
        start = int(place * len(content))
        content = content[:start] + new + content[start + len(new) :]
    return content[: int(cut * len(content))] if cut < 1 else content


@settings(bounded, max_examples=150)
@given(
    ending=st.sampled_from(sorted(VECTORS)),
    edits=EDITS,
    cut=st.floats(0, 1) | st.just(1.0),
    names=st.none() | st.binary(max_size=60) | st.just(b'a/1.png\n"b/\\u2028.png"\n' * 6),
    other=st.none() | st.binary(max_size=40),
)
@pytest.mark.filterwarnings("ignore")
def test_damaged_vectors_are_measured_or_refused(ending, edits, cut, names, other, plain):
    content = edited(VECTORS[ending], edits, cut) if other is None else other
    (plain / f"z{ending}").write_bytes(content)
    (plain / "sound.npy").write_bytes(VECTORS[".npy"])
    (plain / "z.paths.txt").unlink(missing_ok=True)
    if names is not None:
        (plain / "z.paths.txt").write_bytes(names)
    arguments = [[f"z{ending}"], [f"z{ending}", "--by-folder"]] if ending != ".txt" else []
    for given_files in [*arguments, ["sound.npy", "--labels", f"z{ending}"], ["sound.npy", "--items", f"z{ending}"]]:
        done = CliRunner().invoke(
            main, ["measure", *(str(plain / a) if "." in a else a for a in given_files), "--json"]
        )
        assert done.exit_code in (0, 2, 3), (given_files, done.output, done.exception)
    assert {path.name for path in plain.iterdir()} <= {f"z{end}" for end in VECTORS} | {"sound.npy", "z.paths.txt"}


def _images() -> dict[str, bytes]:
    images = {}
    for name in sorted({*image_formats(), "MPO", "EPS", "PDF"}):
        for mode in ("RGB", "L", "1", "P"):
            file = io.BytesIO()
            try:
                with warnings.catch_warnings(action="ignore"):
                    picture(3, 16, 16).convert(mode).save(file, name)
            except (OSError, ValueError, KeyError):
                continue
            images[name] = file.getvalue()
            break
    return images


IMAGES = _images()


@settings(bounded, max_examples=400)
@given(name=st.sampled_from(sorted(IMAGES)), edits=EDITS, cut=st.floats(0, 1) | st.just(1.0))
@pytest.mark.filterwarnings("ignore")
def test_damaged_images_are_decoded_or_refused(name, edits, cut, plain, monkeypatch):
    monkeypatch.setattr(decoding, "MOST_PIXELS", 2**20)
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 2**20)
    (plain / "a.png").write_bytes(edited(IMAGES[name], edits, cut))
    try:
        pixels = decode(plain / "a.png", 16)
    except UnreadableImageError:
        return
    assert pixels.dtype == np.uint8
    assert pixels.shape[0] == 3


@pytest.mark.filterwarnings("ignore:IM image format")
def test_every_format_that_pillow_writes_and_decodes_comes_back(plain):
    for name, content in IMAGES.items():
        (plain / "a.png").write_bytes(content)
        if name in ("EPS", "PDF"):
            with pytest.raises(UnreadableImageError, match="this is no image"):
                decode(plain / "a.png", 16)
        else:
            assert decode(plain / "a.png", 16).shape[0] == 3
    assert len(IMAGES) > 15
