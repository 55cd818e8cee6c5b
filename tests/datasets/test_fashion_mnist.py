from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest

from metriclab.datasets import fashion_mnist
from metriclab.datasets.fashion_mnist import FashionMNIST, read_idx
from metriclab.errors import DataError, RecipeError


def idx(array):
    return bytes([0, 0, 8, array.ndim]) + np.array(array.shape, dtype=">u4").tobytes() + array.tobytes()


@pytest.fixture
def root(tmp_path):
    rng = np.random.default_rng(0)
    for prefix, count in (("train", 40), ("t10k", 7)):
        images = rng.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        (tmp_path / f"{prefix}-images-idx3-ubyte").write_bytes(idx(images))
        labels = (np.arange(count) % 10).astype(np.uint8)
        (tmp_path / f"{prefix}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


def test_val_is_taken_out_of_train(root):
    splits = {split: FashionMNIST(split, root=str(root), val=10) for split in ("train", "val", "test")}
    assert [len(data.labels) for data in splits.values()] == [30, 10, 7]
    names = splits["train"].names + splits["val"].names
    assert set(names) == {f"fashion-mnist/train/{item}" for item in range(40)}
    raw = read_idx(root / "train-images-idx3-ubyte", 3)
    for data in (splits["train"], splits["val"]):
        positions = [int(name.rpartition("/")[2]) for name in data.names]
        images = data.images(np.arange(len(positions)))
        assert (images.pixels[:, 0].numpy() == raw[positions]).all()
        assert images.pixels.shape[1:] == (1, 28, 28)
        assert data.labels.tolist() == [position % 10 for position in positions]
    assert splits["test"].classes[9] == "Ankle boot"
    assert len({data.fingerprint for data in splits.values()}) == 3


def test_torchvisions_layout(root, tmp_path_factory):
    home = tmp_path_factory.mktemp("data")
    (home / "FashionMNIST").mkdir()
    (home / "FashionMNIST/raw").symlink_to(root)
    assert len(FashionMNIST("test", root=str(home)).labels) == 7


def test_without_a_root_the_usual_folders_are_searched(root, monkeypatch):
    monkeypatch.setattr(fashion_mnist, "_FOLDERS", ("nowhere", str(root)))
    assert len(FashionMNIST("test").labels) == 7
    monkeypatch.setattr(fashion_mnist, "_FOLDERS", ("nowhere", "neither"))
    with pytest.raises(
        DataError, match=r"^there are no Fashion-MNIST files in nowhere or neither\n  help: install Deb"
    ):
        FashionMNIST("test")


def test_one_file_of_the_four_is_missing(root):
    (root / "t10k-labels-idx1-ubyte.gz").unlink()
    with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz: there is no such file\n  help: "):
        FashionMNIST("test", root=str(root))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content[:-1], "t10k-images-idx3-ubyte: it has 5,503 bytes in place of 5,504"),
        (lambda content: content + b"x", "t10k-images-idx3-ubyte: it has 5,505 bytes in place of 5,504"),
        (lambda content: content[:10], "t10k-images-idx3-ubyte: this is no idx file of bytes with 3 axes"),
        (lambda content: b"", "t10k-images-idx3-ubyte: this is no idx file of bytes with 3 axes"),
        (lambda content: b"<html>" + content, "t10k-images-idx3-ubyte: this is no idx file of bytes with 3 axes"),
    ],
)
def test_damaged_files_are_named(root, change, message):
    path = root / "t10k-images-idx3-ubyte"
    path.write_bytes(change(path.read_bytes()))
    with pytest.raises(DataError, match=message):
        FashionMNIST("test", root=str(root))


def test_a_damaged_archive(root):
    path = root / "t10k-labels-idx1-ubyte.gz"
    whole = path.read_bytes()
    for content in (whole[:-5], whole[:20], b"no archive", whole[:12] + b"\xff\xff\xff" + whole[15:]):
        path.write_bytes(content)
        with pytest.raises(DataError, match=r"t10k-labels-idx1-ubyte.gz: cannot be unpacked"):
            FashionMNIST("test", root=str(root))


@pytest.mark.parametrize("labels", [np.zeros(6), np.full(7, 10)], ids=["too few", "too high"])
def test_labels_must_fit_the_images(root, labels):
    (root / "t10k-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))
    with pytest.raises(
        DataError, match=r"t10k-labels-idx1-ubyte: . labels up to \d+ do not fit 7 images of 10 classes"
    ):
        FashionMNIST("test", root=str(root))


def test_val_must_leave_something(root):
    with pytest.raises(RecipeError, match=r"data.val = 40 leaves none of 40 images to train on"):
        FashionMNIST("train", root=str(root), val=40)


@pytest.mark.slow
def test_the_real_files():
    """Needs Debian's dataset-fashion-mnist, or the files in data/."""
    splits = {split: FashionMNIST(split) for split in ("train", "val", "test")}
    assert [len(data.labels) for data in splits.values()] == [55_000, 5_000, 10_000]
    assert np.bincount(splits["test"].labels).tolist() == [1000] * 10
    means = [data.images(np.arange(len(data.labels))).pixels.double().mean().item() / 255 for data in splits.values()]
    assert (55 * means[0] + 5 * means[1]) / 60 == pytest.approx(0.2860, abs=1e-4)
    assert Path(splits["test"].names[0]).name == "0"
