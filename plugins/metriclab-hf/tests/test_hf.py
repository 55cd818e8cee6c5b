"""Data sets built here, as `datasets` writes them, and what can be wrong with them."""

from __future__ import annotations

import io
import warnings

import numpy as np
import pytest
import torch
from PIL import Image

from metriclab.api import DataError, build
from metriclab.testing import check_dataset

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import datasets

datasets.disable_progress_bars()


@pytest.fixture(autouse=True)
def _caches(tmp_path, monkeypatch):
    monkeypatch.setenv("METRICLAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "hf")


def pixels(number):
    return np.random.default_rng(number).integers(0, 256, (3, 9, 8), np.uint8)


def png(number):
    buffer = io.BytesIO()
    Image.fromarray(pixels(number).transpose(1, 2, 0)).save(buffer, "png")
    return buffer.getvalue()


def rows(start, count, label=None):
    numbers = range(start, start + count)
    label = label or datasets.ClassLabel(names=["dog", "cat"])
    features = {
        "image": datasets.Image(),
        "label": label,
        "camera": datasets.Value("string"),
        "weight": datasets.Value("float32"),
    }
    columns = {
        "image": [{"bytes": png(number), "path": None} for number in numbers],
        "label": [number % 2 for number in numbers],
        "camera": [f"c{number % 3}" if number % 4 else None for number in numbers],
        "weight": [0.5] * count,
    }
    return datasets.Dataset.from_dict(columns, features=datasets.Features(features))


@pytest.fixture
def saved(tmp_path):
    parts = {"train": rows(0, 12), "validation": rows(20, 4), "test": rows(30, 6)}
    datasets.DatasetDict(parts).save_to_disk(tmp_path / "saved")
    return str(tmp_path / "saved")


def hf(root, split="train", **params):
    return build("dataset", "hf", split, root=str(root), **params)


def test_it_keeps_what_data_sets_keep(saved):
    check_dataset(lambda split: hf(saved, split))


def test_rows_have_their_classes_groups_and_pixels(saved):
    data = hf(saved, "val", group="camera", category="label")
    assert list(data.classes) == ["dog", "cat"]  # in its own order
    assert data.labels.tolist() == [0, 1, 0, 1]
    assert data.groups.tolist() == [-1, 0, 1, 2]
    assert data.names[3] == f"{saved}/validation/3"
    for _ in range(2):
        images = hf(saved, "val").images(np.array([3, 0])).pixels.numpy()
        assert np.array_equal(images, np.stack([pixels(23), pixels(20)]))


def test_images_are_decoded_once(saved, monkeypatch):
    first = hf(saved)
    monkeypatch.setattr("metriclab.images.build.open_upright", None)
    again = hf(saved)
    assert first.fingerprint == again.fingerprint
    assert torch.equal(first.images(np.arange(12)).pixels, again.images(np.arange(12)).pixels)


def test_parquet_files_and_slices(tmp_path):
    path = tmp_path / "a.parquet"
    rows(0, 10, datasets.Value("int64")).to_parquet(path)
    cut = {"train": "train[:60%]", "test": "train[60%:]"}
    assert list(hf(path, splits=cut).classes) == ["0", "1"]
    data = hf(path, "test", splits=cut)
    assert np.array_equal(data.images(np.arange(4)).pixels.numpy(), np.stack([pixels(6 + row) for row in range(4)]))
    assert len(hf(path, "val", splits=cut).labels) == 0


def test_a_folder_of_image_files_is_read_where_it_is(tmp_path):
    for split in ("train", "test"):
        for number, label in enumerate(("cat", "dog", "cat", "dog")):
            (tmp_path / "photos" / split / label).mkdir(parents=True, exist_ok=True)
            (tmp_path / "photos" / split / label / f"{number}.png").write_bytes(png(number))
    data = hf(tmp_path / "photos")
    assert sorted(data.names) == sorted(str(path) for path in (tmp_path / "photos/train").glob("*/*.png"))
    assert list(data.classes) == ["cat", "dog"]


WRONG = {
    "no such place": (
        {"root": "nowhere"},
        "nowhere: there is no such folder or file",
        "set data.download = true if it is a name on the hub",
    ),
    "no such column": (
        {"label": "species"},
        "ROOT/train: there is no column 'species'",
        "set data.label to one of image, label, camera, weight",
    ),
    "no images": (
        {"image": "weight"},
        "ROOT/train: the column 'weight' holds no images (Value('float32'))",
        "set data.image to a column of images, of their bytes or of their paths",
    ),
    "no such split": (
        {"splits": {"test": "held-out"}},
        "ROOT: 'held-out' is no split of it; there is train, validation, test",
        'write it so: splits = { train = "train[:80%]", test = "train[80%:]" }',
    ),
    "no such part of a run": (
        {"splits": {"dev": "test"}},
        "data.splits names 'dev'",
        "the splits of a run are train, val and test",
    ),
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_named_with_its_repair(kind, saved):
    params, text, help = WRONG[kind]
    with pytest.raises(DataError) as caught:
        hf(**{"root": saved, **params})
    assert (caught.value.message, caught.value.help) == (text.replace("ROOT", saved), help)


def test_a_data_set_without_a_test_split(tmp_path):
    rows(0, 8).save_to_disk(tmp_path / "one")
    with pytest.raises(DataError, match="it has no split for test; there is train"):
        hf(tmp_path / "one")


def test_rows_without_an_image_are_named_and_can_be_skipped(tmp_path):
    good = rows(0, 6)
    bad = good.cast_column("image", datasets.Image(decode=False)).map(
        lambda row, at: {**row, "image": None if at == 2 else row["image"]}, with_indices=True
    )
    datasets.DatasetDict({"train": bad, "test": rows(10, 4)}).save_to_disk(tmp_path / "gaps")
    with pytest.raises(DataError, match="gaps/train/2: this row has no image"):
        hf(tmp_path / "gaps")
    assert len(hf(tmp_path / "gaps", on_error="skip").labels) == 5


def test_what_cannot_be_loaded_says_why(tmp_path):
    (tmp_path / "broken.parquet").write_bytes(b"no parquet")
    with pytest.raises(DataError, match=r"broken.parquet: datasets cannot load it \("):
        hf(tmp_path / "broken.parquet")
