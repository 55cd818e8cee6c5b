"""A trained encoder in use: the head is dropped, order and paths are kept."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import safetensors.numpy
import torch
from click.testing import CliRunner
from PIL import Image

from metriclab.api import DataError, RecipeError, StorageError, load
from metriclab.cli.run_commands import embed
from metriclab.encoders import TimmEncoder
from metriclab.vectors.export import find_images, writer_for
from metriclab.vectors.formats import read_arrays
from tests.support.pictures import classes, fill, picture


@pytest.fixture
def folder(tiny_run) -> Path:
    return tiny_run


@pytest.fixture(scope="module")
def pictures(tmp_path_factory) -> Path:
    place = tmp_path_factory.mktemp("pictures")
    (place / "b").mkdir()
    noise = np.random.default_rng(0)
    for name, size in (("z.png", (20, 14)), ("b/a.png", (9, 30)), ("a.jpg", (16, 16))):
        Image.fromarray(noise.integers(0, 256, (*size, 3), dtype=np.uint8)).save(place / name)
    return place


def test_what_comes_out_is_what_the_run_was_measured_by(folder, pictures):
    embedder = load(folder)
    assert torch.equal(*(torch.cat(list(embedder.files([*pictures.glob("*.jpg")], output=o))) for o in (None, "h")))
    paths = find_images([pictures])
    (h,), (z,) = (list(embedder.files(paths, output=output)) for output in ("h", "z"))
    assert h.shape == (3, embedder.network.encoder.out_features)
    assert z.shape == (3, 8)
    torch.testing.assert_close(embedder.network.head(h), z)


def test_loading_gives_the_encoder_that_was_measured(folder):
    best = json.loads((folder / "result.json").read_text())["best_step"]
    first, second = load(folder), load(folder, step=best)
    for name, value in first.state_dict().items():
        assert torch.equal(value, second.state_dict()[name]), name


def test_an_encoder_with_adapters_is_asked_to_merge_them_once_all_is_restored(folder, monkeypatch):
    merged = []
    monkeypatch.setattr(
        TimmEncoder, "merge", lambda self: merged.append({k: v.clone() for k, v in self.state_dict().items()}), False
    )
    load(folder)
    monkeypatch.undo()
    (state,) = merged
    expected = load(folder).network.encoder.state_dict()
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[key], value) for key, value in expected.items())


def test_files_are_read_as_the_data_within_the_data_of_the_run_read_them(folder, tmp_path):
    """Folds of a folder: its own size, pixels and columns count, and what it leaves to its defaults."""
    recipe = shutil.copytree(folder, tmp_path / "run") / "recipe.toml"
    columns = '{ x_1 = "l", y_1 = "t", x_2 = "r", y_2 = "b" }'
    own = f'{{ name = "folder", root = "a.csv", pixels = "stored", columns = {columns} }}'
    head, _, rest = recipe.read_text().partition("[data]\n")
    recipe.write_text(f'{head}[data]\nname = "class-folds"\ndata = {own}\n\n{rest[rest.index("[") :]}')
    embedder = load(tmp_path / "run")
    assert (embedder.short_side, embedder.pixels) == (256, "stored")
    picture(0).save(tmp_path / "a.png")
    (tmp_path / "a.csv").write_text("path,l,t,r,b\na.png,0,0,10,12\na.png,10,0,20,12\n")
    out, table = tmp_path / "rows.npy", tmp_path / "a.csv"
    CliRunner().invoke(embed, [str(tmp_path / "run"), str(table), "-o", str(out)], catch_exceptions=False)
    assert read_arrays(out).paths == [f"{tmp_path}/a.png#xywh={box}" for box in ("0,0,10,12", "10,0,10,12")]


def test_images_come_out_in_their_order_whatever_the_batches(folder, pictures):
    embedder, paths = load(folder), find_images([pictures])
    together = torch.cat(list(embedder.files(paths)))
    alone = torch.cat(list(embedder.files(paths[::-1], batch_size=1))).flip(0)
    torch.testing.assert_close(together, alone)


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_embed_writes_embeddings_and_paths(suffix, folder, pictures, tmp_path):
    out = tmp_path / "deep" / f"rows{suffix}"
    outcome = CliRunner().invoke(embed, [str(folder), str(pictures), "-o", str(out)], catch_exceptions=False)
    assert outcome.exit_code == 0
    assert f"3 images x {load(folder).network.encoder.out_features} dimensions written to {out}" in outcome.output
    expected = [str(pictures / name) for name in ("a.jpg", "b/a.png", "z.png")]
    if suffix == ".npy":
        rows, paths = np.load(out), out.with_suffix(".paths.txt").read_text().splitlines()
    elif suffix == ".parquet":
        table = pyarrow.parquet.read_table(out)
        rows, paths = np.stack(table["embedding"].to_numpy()), table["path"].to_pylist()
    else:
        with safetensors.safe_open(out, "numpy") as file:
            rows, paths = file.get_tensor("embeddings"), json.loads(file.metadata()["paths"])
    assert paths == expected
    np.testing.assert_allclose(rows, torch.cat(list(load(folder).files([Path(p) for p in expected]))), atol=1e-6)


def test_an_unknown_format_is_refused_before_any_work(tmp_path):
    with pytest.raises(RecipeError, match=r"rows\.csv has no format metriclab can write") as caught:
        writer_for(tmp_path / "rows.csv")
    assert caught.value.help == "end it in .npy, .safetensors, .parquet"


def test_parquet_without_its_extra_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RecipeError, match=r"writing \.parquet needs pyarrow") as caught:
        writer_for(tmp_path / "rows.parquet")
    assert caught.value.help == "pip install 'metriclab-toolkit[parquet]'"


def test_missing_and_empty_places_are_named(tmp_path):
    with pytest.raises(DataError, match="nowhere is not there"):
        find_images([tmp_path / "nowhere"])
    with pytest.raises(DataError, match="no image in"):
        find_images([tmp_path])


def test_images_are_found_as_a_run_finds_them(tmp_path, caplog):
    classes(tmp_path / "pets", cats=2)
    fill(tmp_path / "store", 1)
    (tmp_path / "pets" / "dogs").symlink_to(tmp_path / "store")
    (tmp_path / "pets" / "dogs" / "note.txt").touch()
    (tmp_path / "pets" / "gone.png").symlink_to("nowhere")
    manifest = tmp_path / "all.csv"
    manifest.write_text("path,label\npets/cats/001.png,cat\npets//cats/000.png,cat\n")
    found = find_images([tmp_path / "pets", manifest, tmp_path / "store" / "000.png"])
    assert [os.path.relpath(path, tmp_path) for path in found] == [
        "pets/cats/000.png", "pets/cats/001.png", "pets/dogs/000.png",
        "pets/cats/001.png", "pets/cats/000.png", "store/000.png",
    ]  # fmt: skip
    assert [message.replace(str(tmp_path), "ROOT") for message in caplog.messages] == [
        "ROOT/pets: left out 1 file (1 .txt): dogs/note.txt",
        "ROOT/pets: left out 1 link to nothing that can be read: gone.png",
    ]


def test_what_is_no_file_is_refused_before_any_work(tmp_path):
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "link.png").symlink_to("nowhere")
    with pytest.raises(DataError, match=r"pipe\.png cannot be read: It is a named pipe, not a regular file"):
        find_images([tmp_path / "pipe.png"])
    with pytest.raises(DataError, match=r"link\.png is not there: it is a link to nothing"):
        find_images([tmp_path / "link.png"])


def test_what_cannot_be_written_is_refused_before_any_work(tmp_path):
    (tmp_path / "a.paths.txt").mkdir()
    os.mkfifo(tmp_path / "b.npy")
    (tmp_path / "file").touch()
    for name, reason in (
        ("a.npy", r"a\.paths\.txt: cannot be written \(Is a directory\)"),
        ("b.npy", r"b\.npy: cannot be written \(It is a named pipe, not a regular file\)"),
        ("file/z.npy", r"z\.npy: cannot be written \((File exists|Not a directory)\)"),
        (f"{'z' * 240}.npy", r"cannot be written \(File name too long\)"),
    ):
        with pytest.raises(StorageError, match=reason):
            writer_for(tmp_path / name)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.paths.txt", "b.npy", "file"]


@pytest.mark.parametrize("failing", [1, 2])
def test_a_failing_write_leaves_both_files_as_they_were(failing, tmp_path, monkeypatch):
    write = writer_for(tmp_path / "z.npy")
    write(np.zeros((2, 3), np.float32), ["a", "b"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    calls, sync = [], os.fsync

    def full(descriptor):
        calls.append(descriptor)
        if len(calls) == failing:
            raise OSError(28, "No space left on device")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(StorageError, match="No space left on device"):
        write(np.ones((3, 3), np.float32), ["a", "b", "c"])
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_whoever_is_killed_while_files_get_their_names_leaves_no_paths_of_others(tmp_path, monkeypatch):
    write = writer_for(tmp_path / "z.npy")
    write(np.zeros((2, 3), np.float32), ["a", "b"])
    seen, rename = [], os.replace

    def watched(one, other):
        rename(one, other)
        arrays, paths = read_arrays(tmp_path / "z.npy")  # what a reader finds if nothing more is done
        seen.append((float(arrays[""][0, 0]), paths))

    monkeypatch.setattr(os, "replace", watched)
    write(np.ones((2, 3), np.float32), ["c", "d"])
    assert seen == [(1.0, None), (1.0, ["c", "d"])]


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_images_of_any_name_are_embedded(suffix, folder, tmp_path):
    names = sorted(map(os.fsdecode, (b"caf\xe9.png", "a\u2028.png".encode(), b"a\n.png", "a\u0085.png".encode())))
    for number, name in enumerate(names):
        picture(number).save(tmp_path / name)
    out = tmp_path / f"rows{suffix}"
    outcome = CliRunner().invoke(embed, [str(folder), str(tmp_path), "-o", str(out)], catch_exceptions=False)
    assert outcome.exit_code == 0
    assert read_arrays(out).paths == [str(tmp_path / name) for name in names]


def test_a_corrupt_image_is_named(folder, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"bad\.png"):
        list(load(folder).files([bad]))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(StorageError, match=r"is no run folder: it has no recipe\.toml"):
        load(tmp_path)
