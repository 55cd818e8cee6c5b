from __future__ import annotations

import hashlib
import pickle
from typing import get_args

import numpy as np
import pytest
import torchvision
from PIL import Image
from scipy.io import savemat

from metriclab.datasets.torchvision import SOURCES, Name, Torchvision
from metriclab.errors import DataError, RecipeError

RNG = np.random.default_rng(0)


@pytest.fixture
def cifar(tmp_path, monkeypatch):
    """CIFAR-10 in small: 30 and 8 images in the original layout, with checksums to fit."""
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()

    def write(name, content):
        data = pickle.dumps(content)
        (folder / name).write_bytes(data)
        return [name, hashlib.md5(data).hexdigest()]

    def batch(count):
        pixels = RNG.integers(0, 256, (count, 3 * 32 * 32), dtype=np.uint8)
        return {"data": pixels, "labels": [item % 10 for item in range(count)]}

    train, test = batch(30), batch(8)
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "train_list", [write("data_batch_1", train)])
    monkeypatch.setattr(torchvision.datasets.CIFAR10, "test_list", [write("test_batch", test)])
    meta = write("batches.meta", {"label_names": list("abcdefghij")})
    monkeypatch.setattr(
        torchvision.datasets.CIFAR10, "meta", {"filename": meta[0], "key": "label_names", "md5": meta[1]}
    )
    return tmp_path, train, test


def test_cifar(cifar):
    root, train, test = cifar
    splits = {split: Torchvision(split, dataset="CIFAR10", root=str(root)) for split in ("train", "val", "test")}
    assert len(splits["train"].labels) + len(splits["val"].labels) == 30
    assert len(splits["val"].labels) > 0
    assert set(splits["train"].names).isdisjoint(splits["val"].names)
    for split, data in splits.items():
        raw = test if split == "test" else train
        positions = [int(name.rpartition("/")[2]) for name in data.names]
        images = data.images(np.arange(len(positions)))
        assert (images.pixels.numpy() == raw["data"].reshape(-1, 3, 32, 32)[positions]).all()
        assert images.sizes.tolist() == [[32, 32]] * len(positions)
        assert data.labels.tolist() == [position % 10 for position in positions]
        assert data.classes == list("abcdefghij")
    assert len({data.fingerprint for data in splits.values()}) == 3


def test_a_damaged_file(cifar):
    root, _, _ = cifar
    path = root / "cifar-10-batches-py/data_batch_1"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataError, match="CIFAR10 is missing or damaged"):
        Torchvision("train", dataset="CIFAR10", root=str(root))


def test_flowers_are_image_files(tmp_path, cache):
    folder = tmp_path / "flowers-102"
    (folder / "jpg").mkdir(parents=True)
    for number in range(1, 13):
        size = (60 + number, 40)
        Image.new("RGB", size, (20 * number, 0, 0)).save(folder / f"jpg/image_{number:05}.jpg")
    savemat(folder / "imagelabels.mat", {"labels": np.arange(12)[None] % 102 + 1})
    savemat(folder / "setid.mat", {"trnid": [[1, 2, 3, 4]], "valid": [[5, 6, 7]], "tstid": [[8, 9, 10, 11, 12]]})
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(torchvision.datasets.Flowers102, "_check_integrity", lambda self: True)
        splits = {
            split: Torchvision(split, dataset="Flowers102", root=str(tmp_path), size=20)
            for split in ("train", "val", "test")
        }
    assert [data.labels.tolist() for data in splits.values()] == [[0, 1, 2, 3], [4, 5, 6], [7, 8, 9, 10, 11]]
    images = splits["val"].images(np.array([1]))
    assert images.sizes.tolist() == [[20, 33]]
    assert abs(int(images.pixels[0, 0, 10, 10]) - 120) < 4
    assert splits["val"].names[1].endswith("image_00006.jpg")
    assert len({data.fingerprint for data in splits.values()}) == 3


class _SmallSTL10:
    classes = ("airplane", "bird")

    def __init__(self, root, split, download):
        count = {"train": 20, "test": 4, "unlabeled": 6}[split]
        self.data = RNG.integers(0, 256, (count, 3, 96, 96), dtype=np.uint8)
        self.labels = np.full(count, -1) if split == "unlabeled" else np.arange(count) % 2


def test_unlabelled_images_join_train_alone(monkeypatch):
    monkeypatch.setattr(torchvision.datasets, "STL10", _SmallSTL10)
    counts = {
        split: len(Torchvision(split, dataset="STL10", unlabelled=True).labels) for split in ("train", "val", "test")
    }
    assert counts["train"] + counts["val"] == 26
    assert counts["test"] == 4
    train = Torchvision("train", dataset="STL10", unlabelled=True)
    assert train.labels[-6:].tolist() == [-1] * 6
    assert train.names[-1] == "STL10/unlabeled/5"
    assert len(Torchvision("train", dataset="STL10").labels) == counts["train"] - 6


@pytest.mark.parametrize("dataset", sorted(SOURCES))
def test_missing_data_say_how_to_get_them(tmp_path, dataset):
    with pytest.raises(DataError) as error:
        Torchvision("test", dataset=dataset, root=str(tmp_path))
    assert str(error.value).startswith(f"{tmp_path}: torchvision's {dataset} is missing or damaged (")
    assert f"help: set data.download = true, or get it from {SOURCES[dataset].home}" in str(error.value)


def test_a_download_that_fails(tmp_path, monkeypatch):
    def fail(*args, **options):
        raise OSError("no route to host")

    monkeypatch.setattr(torchvision.datasets, "MNIST", fail)
    with pytest.raises(
        DataError, match=r"MNIST cannot be downloaded \(no route to host\)\n  help: check the network, or"
    ):
        Torchvision("test", dataset="MNIST", root=str(tmp_path), download=True)


def test_parameters_that_a_data_set_does_not_have():
    with pytest.raises(RecipeError, match="CIFAR10 has no unlabelled images\n  help: only STL10 has"):
        Torchvision("train", dataset="CIFAR10", unlabelled=True)
    with pytest.raises(RecipeError, match=r"the images of MNIST have one size\n  help: leave data.size out"):
        Torchvision("train", dataset="MNIST", size=32)


def test_every_name_is_known_here_and_to_torchvision():
    assert sorted(get_args(Name)) == sorted(SOURCES)
    assert all(getattr(torchvision.datasets, name).__name__ == name for name in SOURCES)
