from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from metriclab.datasets import glyphs
from metriclab.datasets.glyphs import FONTS, Glyphs
from metriclab.errors import DataError

pytestmark = pytest.mark.usefixtures("drawn_cache")
SPLITS = ("train", "val", "test")


@pytest.fixture(scope="module")
def splits(drawn_cache):
    return {split: Glyphs(split) for split in SPLITS}


def test_how_much_there_is(splits):
    classes = {split: len(set(data.labels)) for split, data in splits.items()}
    total = sum(classes.values())
    assert total == len(splits["train"].classes)
    assert 1900 < total < 2300
    assert 26_000 < sum(len(data.labels) for data in splits.values()) < 32_000
    assert classes["train"] / total == pytest.approx(0.4, abs=0.03)
    assert classes["val"] / total == pytest.approx(0.1, abs=0.03)


def test_no_class_is_in_two_splits(splits):
    assert len(set().union(*(set(data.labels) for data in splits.values()))) == len(splits["train"].classes)


def test_every_class_is_drawn_in_12_or_more_fonts_and_is_one_character(splits):
    for data in splits.values():
        assert min(Counter(data.labels.tolist()).values()) >= 12
        assert max(Counter(data.labels.tolist()).values()) <= len(FONTS)
        assert all(len(name) == 1 for name in data.classes)


def test_no_two_classes_share_an_image_and_no_image_is_blank(splits):
    owner = {}
    for data in splits.values():
        pixels = data.images(np.arange(len(data.labels))).pixels
        assert pixels.flatten(1).amax(1).min() > 0
        for image, label in zip(pixels.numpy(), data.labels, strict=True):
            assert owner.setdefault(image.tobytes(), label) == label


def test_look_alikes_are_dropped_but_the_first(splits):
    classes = splits["train"].classes
    assert "A" in classes
    assert "Α" not in classes  # Greek Alpha
    assert "А" not in classes  # Cyrillic A


def test_images_are_white_on_black_with_the_ink_in_the_middle(splits):
    data = splits["test"]
    item = data.names.index("glyphs/U+0044/DejaVuSans")
    images = data.images(np.array([item]))
    assert images.pixels.shape == (1, 1, 32, 32)
    assert data.classes[data.labels[item]] == "D"
    ink = np.argwhere(images.pixels[0, 0].numpy() > 127)
    assert np.abs((ink.min(0) + ink.max(0)) / 2 - 15.5).max() <= 1


def test_it_is_drawn_once(splits, monkeypatch):
    monkeypatch.setattr(glyphs, "_draw_all", None)
    again = Glyphs("test")
    assert again.fingerprint == splits["test"].fingerprint
    assert again.fingerprint != splits["val"].fingerprint


def test_the_fingerprint_knows_what_drew_the_images(splits, monkeypatch):
    drawn = glyphs._drawn(32)
    monkeypatch.setattr(glyphs, "version", lambda package: "0.0")
    monkeypatch.setattr(glyphs, "_draw_all", lambda size: drawn)
    assert Glyphs("test").fingerprint != splits["test"].fingerprint


def test_a_damaged_cache_is_drawn_again(splits, monkeypatch, tmp_path):
    drawn = glyphs._drawn(32)
    monkeypatch.setenv("METRICLAB_CACHE", str(tmp_path))
    calls = []
    monkeypatch.setattr(glyphs, "_draw_all", lambda size: calls.append(size) or drawn)
    Glyphs("val")
    (path,) = (tmp_path / "glyphs").iterdir()
    path.write_bytes(path.read_bytes()[:-100_000])
    assert Glyphs("val").fingerprint == splits["val"].fingerprint
    assert Glyphs("val").fingerprint == splits["val"].fingerprint
    assert calls == [32, 32]


def test_the_size_can_be_chosen_and_moves_no_character_to_another_split(splits):
    small = Glyphs("test", size=16)
    assert small.images(np.array([0])).pixels.shape == (1, 1, 16, 16)
    of_train = {splits["train"].classes[label] for label in splits["train"].labels}
    assert of_train.isdisjoint(small.classes[label] for label in small.labels)


def test_missing_fonts(monkeypatch, tmp_path):
    monkeypatch.setattr("matplotlib.get_data_path", lambda: str(tmp_path))
    with pytest.raises(
        DataError, match=r"DejaVuSans.ttf: matplotlib's font is missing\n  help: install matplotlib again"
    ):
        Glyphs("test", size=8)
