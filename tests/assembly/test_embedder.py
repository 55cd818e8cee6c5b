"""A trained encoder in use: the head is dropped, order and paths are kept."""

from __future__ import annotations

import json
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
from metriclab.vectors.export import find_images, writer_for
from tests.support.tiny import run, tiny


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("load")
    run(tiny(folder), folder / "run")
    return folder / "run"


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


def test_a_corrupt_image_is_named(folder, tmp_path):
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"not an image")
    with pytest.raises(DataError, match=r"bad\.png"):
        list(load(folder).files([bad]))


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(StorageError, match=r"is no run folder: it has no recipe\.toml"):
        load(tmp_path)
