"""What all published benchmarks have in common, on small copies of their original folders."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from metriclab.datasets.benchmark_images import Size
from metriclab.errors import DataError
from metriclab.recipe import read_recipe
from tests.support.originals import CLASSES, ORIGINALS, PER_CLASS, SMALL
from tests.support.tiny import TINY, run

pytestmark = pytest.mark.usefixtures("cache")
SPLITS = ("train", "val", "test")


@pytest.fixture(params=ORIGINALS, ids=lambda original: original.name)
def original(request, monkeypatch):
    request.param.shrink(monkeypatch)
    return request.param


@pytest.fixture
def folder(original, tmp_path):
    """The folder of the original files, below the root `data`."""
    folder = tmp_path / "data" / original.folder
    folder.mkdir(parents=True)
    original.write(folder)
    return folder


def open_all(original, folder, **options):
    return {split: original.open(split, folder.parent, **options) for split in SPLITS}


def test_classes_are_disjoint_and_labels_mean_the_same_in_every_split(original, folder):
    splits = open_all(original, folder, val=0.3)
    trained, chosen, tested = (set(data.labels.tolist()) for data in splits.values())
    assert trained | chosen | tested == set(range(2 * CLASSES))
    assert len(trained | chosen) == len(tested) == CLASSES
    assert not trained & chosen
    assert len(chosen) >= 2
    assert splits["train"].classes == splits["val"].classes == splits["test"].classes
    assert len(splits["test"].classes) == 2 * CLASSES == len(set(splits["test"].classes))
    assert sum(len(data.labels) for data in splits.values()) == 2 * CLASSES * PER_CLASS
    for data in splits.values():
        assert data.labels.dtype == np.int64
        assert set(np.bincount(data.labels)) <= {0, PER_CLASS}


def test_without_val_all_classes_are_trained_on(original, folder):
    train, val, test = open_all(original, folder, val=0.0).values()
    assert (len(train.labels), len(val.labels), len(test.labels)) == (SMALL.images, 0, SMALL.images)


def test_images_are_those_of_the_files_in_rgb(original, folder):
    data = original.open("test", folder.parent)
    images = data.images(np.arange(len(data.labels)))
    assert images.pixels.shape[1] == 3
    modes = set()
    for row, name in enumerate(data.names):
        with Image.open(name) as image:
            modes.add(image.mode)
            assert (images.pixels[row].numpy() == np.asarray(image.convert("RGB")).transpose(2, 0, 1)).all()
    assert modes == {"L", "RGB"}


def test_the_root_may_be_the_folder_itself_or_the_one_above_and_lie_anywhere(original, folder, tmp_path):
    above = original.open("train", folder.parent).fingerprint
    assert original.open("train", folder).fingerprint == above
    folder.parent.rename(tmp_path / "elsewhere")
    assert original.open("train", tmp_path / "elsewhere").fingerprint == above
    assert original.open("test", tmp_path / "elsewhere").fingerprint != above


def error_of(original, root, **options):
    with pytest.raises(DataError) as error:
        original.open("train", root, **options)
    message, help = str(error.value).split("\n  help: ")
    published = original.published
    assert help == (
        f"get {published.name} from {published.page}, unpack {published.layout} into one folder and set data.root to "
        f"it; relative paths start at {Path.cwd()}"
    )
    return message.replace(str(root), "ROOT")


def test_a_missing_folder_says_what_to_download(original, tmp_path):
    name = original.published.name
    assert error_of(original, tmp_path / "no") == f"ROOT: {name} is not here, there is no {original.marker}"


def test_missing_images_are_counted_and_the_first_are_named(original, folder):
    names = original.open("train", folder).names
    Path(names[0]).unlink()
    first = error_of(original, folder)
    if original.by_folders:  # what is not there is on no list
        assert first == f"ROOT: the lists have 17 images of 6 classes for train, {original.published.name} has {SMALL}"
        return
    assert first.startswith("ROOT: 1 of 36 images are missing:\n  ")
    assert names[0].endswith(first.rpartition("\n  ")[2])
    for name in names[1:7]:
        Path(name).unlink()
    message = error_of(original, folder)
    assert message.startswith("ROOT: 7 of 36 images are missing:\n")
    assert message.endswith("\n  and 2 more")
    assert message.count("\n") == 6


def test_a_damaged_image_is_named_and_cannot_be_left_out(original, folder):
    name = original.open("train", folder).names[0]
    Path(name).write_bytes(b"")
    assert error_of(original, folder).replace("ROOT", str(folder)) == f"{name}: the file is empty"


def test_lists_of_another_size_than_published_are_refused(original, folder, monkeypatch):
    name = original.published.name
    original.shrink(monkeypatch, test=Size(1234, CLASSES))
    assert error_of(original, folder) == (
        f"ROOT: the lists have 18 images of 6 classes for test, {name} has 1,234 images of 6 classes"
    )


@pytest.mark.parametrize("val", [0.0, 0.4])
def test_a_recipe_trains_on_it_and_measures_by_its_protocol(original, folder, tmp_path, val):
    (tmp_path / "tiny.toml").write_text(TINY)
    data = [f"data.name={original.name}", f"data.root={folder.parent}", f"data.val={val}"]
    sampling = ["sampler.name=balanced", "sampler.classes_per_batch=2", "sampler.per_class=2"]
    recipe = read_recipe(tmp_path / "tiny.toml", [*data, *sampling, "train.steps=2", "method.name=supervised"])
    run(recipe, tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    one_side = original.name in ("cub200", "cars196", "sop")
    expected = "leave-one-out on the test split" if one_side else "test queries against the test gallery"
    assert result["protocol"] == expected
    assert result["items"]["test"] == SMALL.images
    assert result["steps"] == 2
