"""Fabrics: the same bytes everywhere, classes that only the pattern tells apart, and splits."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.datasets import fabrics
from metriclab.datasets.fabric_drawing import Cloth, Scene, draw
from metriclab.datasets.fabric_patterns import FAMILIES, MOTIFS, cell, invert, triangle
from metriclab.datasets.fabrics import Fabrics

pytestmark = pytest.mark.usefixtures("own_cache")
SCENE = Scene(size=48, turn=20.0, clutter=1, noise=0.03, preference=0.2)
KINDS = ("families", "compositions")
DIGEST = "7c65919d1d4619c9d4be6dd8378c760dfbc2d02b3aa62fc97e49aff643c7e077"


@pytest.fixture
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("METRICLAB_CACHE", str(tmp_path))


def digest() -> str:
    """Of two images of every family, and of one of every composition."""
    state = hashlib.sha256()
    for number, name in enumerate(FAMILIES):
        state.update(draw(fabrics._cloth(name, number), SCENE, 2, [0, number]).tobytes())
    for number, name in enumerate(fabrics._COMPOSITIONS):
        state.update(draw(fabrics._cloth(name, number), SCENE, 1, [1, number]).tobytes())
    return state.hexdigest()


def test_the_bytes_are_those_that_every_machine_draws():
    assert digest() == DIGEST


@pytest.mark.slow
@pytest.mark.parametrize("features", ["", "AVX512F AVX512CD AVX512_SKX", "AVX512F AVX512CD AVX512_SKX AVX2 FMA3"])
def test_the_bytes_do_not_depend_on_the_processors_instructions(features):
    program = "from tests.datasets.test_fabrics import digest; print(digest())"
    environment = {**os.environ, "NPY_DISABLE_CPU_FEATURES": features, "OMP_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", program], env=environment, capture_output=True, text=True
    )
    assert done.stdout.strip() == DIGEST, done.stderr


def test_families_are_the_same_classes_in_every_split_and_other_images():
    splits = {split: Fabrics(split, per_class=3, test_per_class=2) for split in ("train", "val", "test")}
    for split, data in splits.items():
        assert data.classes == list(FAMILIES)
        assert data.labels.tolist() == np.arange(20).repeat(3 if split == "train" else 2).tolist()
        assert data.images(np.arange(2)).pixels.shape == (2, 3, 48, 48)
    assert splits["train"].names[4] == "fabrics/train/lines/1"
    images = [image.tobytes() for data in splits.values() for image in data.pixels]
    assert len(set(images)) == len(images)


def test_compositions_are_in_one_split_each():
    splits = {split: Fabrics(split, classes="compositions", test_per_class=1) for split in ("train", "val", "test")}
    labels = {split: set(data.labels.tolist()) for split, data in splits.items()}
    assert sum(map(len, labels.values())) == len(set().union(*labels.values())) == len(splits["val"].classes) == 222
    assert 60 < len(labels["train"]) < 110
    assert 90 < len(labels["test"]) < 135
    assert "rings long bold spotted" in splits["train"].classes


def test_families_and_compositions_of_one_size_are_not_taken_for_each_other():
    families, compositions = (Fabrics("val", classes=classes, test_per_class=1) for classes in KINDS)
    again = [Fabrics("val", classes=classes, test_per_class=1) for classes in KINDS]
    assert [data.fingerprint for data in again] == [families.fingerprint, compositions.fingerprint]
    assert len(compositions.labels) == len(families.labels) == 20
    assert not np.array_equal(compositions.pixels, families.pixels)


def test_more_images_begin_with_the_same_ones():
    few, many = (draw(Cloth("rings"), SCENE, count, [5]) for count in (3, 40))
    assert (few == many[:3]).all()
    assert len(np.unique(many.reshape(40, -1), axis=0)) == 40


def test_it_is_drawn_once(monkeypatch):
    first = Fabrics("val", test_per_class=1, size=16)
    monkeypatch.setattr(fabrics, "draw", None)
    assert Fabrics("val", test_per_class=1, size=16).fingerprint == first.fingerprint


@pytest.mark.parametrize("setting", [{"turn": 0.0}, {"clutter": 3}, {"noise": 0.5}, {"preference": 1.0}, {"seed": 1}])
def test_every_setting_changes_the_images(setting):
    assert (
        Fabrics("val", test_per_class=1, size=16, **setting).fingerprint
        != Fabrics("val", test_per_class=1, size=16).fingerprint
    )


def test_a_class_that_prefers_a_hue_and_a_direction_shows_it():
    def mean_colours(preference: float) -> np.ndarray:
        scene = Scene(size=16, turn=20.0, clutter=0, noise=0.0, preference=preference)
        cloths = [Cloth("dots", hue=hue) for hue in (0.0, 1 / 3, 2 / 3)]
        return np.stack([draw(cloth, scene, 64, [n]).mean((0, 2, 3)) for n, cloth in enumerate(cloths)])

    assert mean_colours(1.0).argmax(1).tolist() == [0, 1, 2]
    assert np.ptp(mean_colours(0.0), axis=0).max() < np.ptp(mean_colours(1.0), axis=0).max() / 2


def test_noise_has_the_standard_deviation_that_it_says():
    quiet, loud = (draw(Cloth("dots"), Scene(48, 20.0, 1, noise, 0.2), 8, [2]) for noise in (0.0, 0.05))
    inside = (quiet > 60) & (quiet < 195)
    assert (loud.astype(float) - quiet)[inside].std() == pytest.approx(0.05 * 255, rel=0.03)


@settings(max_examples=50, deadline=None)
@given(st.floats(-50, 50, width=32))
def test_waves_have_period_one(x):
    value = np.full((1, 1, 1, 1), x, dtype=np.float32)
    assert -0.5 <= cell(value).item() <= 0.5
    assert -1 <= triangle(value).item() <= 1
    assert triangle(value + 1).item() == pytest.approx(triangle(value).item(), abs=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_heights_stay_float32_and_have_ink_and_ground(family):
    line = np.linspace(-2, 2, 64, dtype=np.float32)
    height = FAMILIES[family](
        line[None, None, None, :] + 0 * line[:, None], line[:, None] + 0 * line[None, None, None, :]
    )
    assert height.dtype == np.float32
    assert 0.1 < (height > 0).mean() < 0.9


def test_no_two_classes_are_one_another_with_ink_and_ground_exchanged():
    line = np.linspace(-2, 2, 96, dtype=np.float32)
    u, v = np.broadcast_arrays(line[None, None, None, :], line[None, None, :, None])
    drawn = {}
    for name, cloth in fabrics._COMPOSITIONS.items():
        height = FAMILIES[cloth.family](u, v / np.float32(cloth.stretch)) + np.float32(cloth.bold)
        if cloth.motif:
            height = invert(height, MOTIFS[cloth.motif](u, v / np.float32(cloth.stretch)))
        drawn[name] = (height > 0).ravel()
    inks = np.stack(list(drawn.values())).astype(np.float32) * 2 - 1
    agreement = abs(inks @ inks.T / inks.shape[1])
    np.fill_diagonal(agreement, 0)
    assert agreement.max() < 0.95
