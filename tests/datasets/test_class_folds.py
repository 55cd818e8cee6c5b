"""Cross-validation by classes: what is held out, and that nothing else of a data set is opened."""

from __future__ import annotations

import numpy as np
import pytest

from metriclab.core.splits import build_splits
from metriclab.datasets import class_folds
from metriclab.datasets.class_folds import ClassFolds
from metriclab.errors import DataError, RecipeError
from metriclab.images.datasets import ArrayDataset

DATA = {"name": "synthetic", "size": 8, "classes": 10, "per_class": 3, "disjoint": True}


def test_each_class_is_held_out_once_and_never_trained_on_then():
    held = []
    for fold in range(3):
        train, val, test = build_splits(
            lambda split, fold=fold: ClassFolds(split, data=DATA, folds=3, fold=fold), ("train", "val", "test")
        )
        assert len(val.labels) == 0
        assert not set(train.labels) & set(test.labels)
        assert len(train.labels) + len(test.labels) == 30
        assert train.fingerprint != test.fingerprint
        assert len({train.fingerprint, ClassFolds("train", data=DATA, folds=3, fold=(fold + 1) % 3).fingerprint}) == 2
        np.testing.assert_array_equal(
            test.images(np.array([2])).pixels,
            ClassFolds("test", data=DATA, folds=3, fold=fold).images(np.array([2])).pixels,
        )
        held += np.unique(test.labels).tolist()
    assert sorted(held) == list(range(10))
    # As equal as ten classes in three folds can be.
    assert sorted(np.unique([held.index(label) for label in range(10)])) == list(range(10))


def test_only_the_training_split_is_opened(monkeypatch):
    opened = []

    def opening(kind, name, split, **parameters):
        opened.append((kind, name, split, parameters))
        labels = np.array([0, 1, 2, 3, -1])
        pixels = np.arange(5, dtype=np.uint8).reshape(5, 1, 1, 1)
        return ArrayDataset(pixels, labels, ["d", "a", "c", "b"], list("vwxyz"))

    monkeypatch.setattr(class_folds, "build", opening)
    train, _, test = build_splits(lambda split: ClassFolds(split, data=DATA, folds=2, fold=1), ("train", "val", "test"))
    assert opened == [("dataset", "synthetic", "train", {key: DATA[key] for key in DATA if key != "name"})]
    # An image of unknown class is trained on; an image keeps its name and its pixels.
    assert -1 in train.labels
    assert train.names[-1] == "z"
    for part in (train, test):
        there = ["vwxyz".index(name) for name in part.names]
        np.testing.assert_array_equal(part.images(np.arange(len(there))).pixels.reshape(-1), there)


def test_a_fold_does_not_depend_on_the_order_of_the_classes(monkeypatch):
    names = [f"class {number}" for number in range(9)]

    def held(order):
        pixels = np.zeros((9, 1, 1, 1), np.uint8)
        data = ArrayDataset(pixels, np.arange(9), [names[at] for at in order], names)
        monkeypatch.setattr(class_folds, "build", lambda *given, **parameters: data)
        found = ClassFolds("test", data={"name": "any"}, folds=3, fold=2)
        return {found.classes[label] for label in found.labels}

    assert held(range(9)) == held([4, 2, 0, 8, 6, 7, 5, 3, 1])


def test_what_the_other_data_set_says_of_its_items_stays(monkeypatch):
    given = {
        "items": np.array([7, 7, 8, 9, 9]),
        "groups": np.array([0, 1, 0, 1, -1]),
        "categories": np.array([1, 1, 0, 0, 0]),
        "is_query": np.array([True, False, True, True, False]),
        "is_gallery": np.array([False, True, True, True, True]),
    }
    data = ArrayDataset(np.zeros((5, 1, 1, 1), np.uint8), np.array([0, 1, 2, 3, 0]), list("abcd"), list("vwxyz"))
    for key, values in {**given, "files": "files", "notes": ["a note"]}.items():
        setattr(data, key, values)
    monkeypatch.setattr(class_folds, "build", lambda *_, **__: data)
    for split in ("train", "test"):
        fold = ClassFolds(split, data=DATA, folds=2)
        rows = ["vwxyz".index(name) for name in fold.names]
        assert len(rows) in (2, 3)
        for key, values in given.items():
            assert getattr(fold, key).tolist() == values[rows].tolist(), key
        assert (fold.files, fold.notes) == ("files", ["a note"])
    del data.items, data.is_query
    again = ClassFolds("test", data=DATA, folds=2)
    assert again.items is None
    assert again.is_query is None


def test_what_cannot_be_had_is_told():
    with pytest.raises(RecipeError, match="there is no fold 3 of 3"):
        ClassFolds("train", data=DATA, folds=3, fold=3)
    with pytest.raises(DataError, match="10 classes to train on are too few for 6 folds of at least 2") as error:
        ClassFolds("train", data=DATA, folds=6)
    assert error.value.help == "take at most 5 folds, or data of more classes"
