"""`metriclab init`: a recipe for any folder that a run takes, which `check` accepts, and no file lost."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.cli.first_recipe.photos import Photos, look
from metriclab.cli.first_recipe.text import balanced_batch, recipe_text, view_side
from metriclab.recipe import read_recipe
from tests.support.pictures import classes, fill

SMALL = ["encoder.model=test_resnet", "encoder.pretrained=false", "views.size=16"]
"""In place of the pretrained encoder, which no test can fetch."""


def init(*arguments: object):
    return CliRunner().invoke(main, ["init", *map(str, arguments)])


def checked(path: Path) -> str:
    """What `check` says of a recipe."""
    done = CliRunner().invoke(main, ["check", str(path), *(part for one in SMALL for part in ("--set", one))])
    assert done.exit_code == 0, done.output
    return done.output


def many(root: Path) -> Path:
    return classes(root, **{f"c{number:02}": 6 for number in range(24)})


def few(root: Path) -> Path:
    return classes(root, red=8, blue=9, green=7)


def flat(root: Path) -> Path:
    fill(root, 30)
    return root


def one_class(root: Path) -> Path:
    return classes(root, cat=30)


def own_splits(root: Path) -> Path:
    for split, count in (("train", 8), ("val", 3), ("test", 4)):
        classes(root / split, red=count, blue=count)
    return root


def own_test(root: Path) -> Path:
    classes(root / "train", red=9, blue=9, green=9, grey=9, pink=9)
    classes(root / "test", gold=4, black=4)
    return root


def tiny_classes(root: Path) -> Path:
    return classes(root, **{f"c{number}": 2 for number in range(8)})


def manifest(root: Path) -> Path:
    paths = fill(root, 40)
    lines = [
        f"{path.name},{'cat' if number % 2 else ''}{'dog' * (1 - number % 2)}" for number, path in enumerate(paths)
    ]
    (root / "all.csv").write_text("\n".join(["path,label", *lines]))
    return root / "all.csv"


def odd_names(root: Path) -> Path:
    return classes(root, **{os.fsdecode(b"caf\xe9"): 9, "a\nb": 9, 'quo"te': 9})


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (many, ["method supervised", "of 24 classes whole ones are kept apart"]),
        (few, ["method supervised", "3 classes, all trained on: images are kept apart"]),
        (flat, ["method simclr", "without classes nothing can be measured"]),
        (one_class, ["method simclr", "all images are of one class, cat: its folder is taken, without classes"]),
        (own_splits, ["method supervised", "its own splits are kept"]),
        (own_test, ["method supervised", "its own splits are kept"]),
        (tiny_classes, ["method supervised", "classes of so few images cannot be divided: whole ones are kept apart"]),
        (manifest, ["method supervised", "2 classes, all trained on: images are kept apart"]),
        (odd_names, ["method supervised", "3 classes, all trained on"]),
    ],
)
def test_it_writes_a_recipe_that_check_accepts(make, said, tmp_path):
    root = make(tmp_path / "my photos")
    done = init(root, "--out", tmp_path / "new" / "recipe.toml")
    assert done.exit_code == 0, done.output
    text = (tmp_path / "new" / "recipe.toml").read_text("utf-8")
    everything = checked(tmp_path / "new" / "recipe.toml") + text
    assert all(part in everything for part in said)
    assert said[1] in done.output
    for line in text.splitlines():
        assert line == line.rstrip()


def test_what_it_writes_runs(tmp_path):
    init(few(tmp_path / "photos"), "-o", tmp_path / "recipe.toml")
    sets = [part for one in [*SMALL, "train.epochs=1"] for part in ("--set", one)]
    done = CliRunner().invoke(main, ["run", str(tmp_path / "recipe.toml"), *sets, "--out", str(tmp_path / "run"), "-q"])
    assert done.exit_code == 0, done.output


def test_a_file_that_is_there_stays_unless_forced(tmp_path):
    root, path = few(tmp_path / "photos"), tmp_path / "recipe.toml"
    path.write_text("mine")
    done = init(root, "--out", path)
    assert done.exit_code != 0
    assert done.output == (
        f"{path} is there already\n  help: name another file by --out, or write over it by --force\n"
    )
    assert path.read_text() == "mine"
    assert init(root, "--out", path, "--force").exit_code == 0
    read_recipe(path)


@pytest.mark.parametrize(
    ("make", "text"),
    [
        (lambda root: root, "does not exist"),
        (lambda root: (root.mkdir(), root)[1], "the folder holds no image"),
        (lambda root: classes(root, a=1, b=1, c=1, d=1), "has a single image"),
        (lambda root: classes(root / "train", cat=5) and root, "all images are of one class, 'cat'"),
        (lambda root: few(root.parent / os.fsdecode(b"caf\xe9")), "the name of this folder is no text"),
    ],
)
def test_what_no_run_takes_is_refused_as_a_run_refuses_it(make, text, tmp_path):
    done = init(make(tmp_path / "photos"), "--out", tmp_path / "recipe.toml")
    assert done.exit_code == 3, done.output
    assert text in done.output
    assert "help: " in done.output
    assert not (tmp_path / "recipe.toml").exists()


@pytest.mark.parametrize(
    ("sizes", "batch"),
    [
        ([100] * 50, (16, 4)),
        ([100] * 3, (3, 21)),
        ([6, 7, 8], (3, 5)),
        ([2] * 40, (32, 2)),
        ([1, 1, 1, 5, 5], (2, 2)),
        ([1] * 9, None),
        ([9], None),
        ([], None),
    ],
)
def test_batches_are_of_classes_that_have_the_images(sizes, batch):
    labels = np.repeat(np.arange(len(sizes)), sizes)
    assert balanced_batch(np.concatenate([labels, [-1, -1]])) == batch


def photos(**changes) -> Photos:
    given = {
        "root": Path("photos"),
        "images": 100,
        "classes": 0,
        "splits": {"val": 0.0},
        "why": "so",
        "train": np.full(90, -1),
        "held": {"val": (0, 0), "test": (10, 0)},
        "short_side": 300,
        "aspect": 1.3,
        "unreadable": 0,
    }
    return Photos(**{**given, **changes})


@pytest.mark.parametrize(("short", "side"), [(300, 224), (224, 224), (100, 96), (20, 32), (None, 224)])
def test_views_are_no_larger_than_the_images(short, side):
    assert view_side(photos(short_side=short)) == side


def test_the_reasons_are_of_these_images():
    text = recipe_text(photos(aspect=2.0, unreadable=3))
    assert 'fit = "pad"' in text
    assert "the long side is 2.0 times the short" in text
    assert "# Of 100 files looked at, 3 could not be opened as images." in text
    assert "has nothing to measure it by" in text
    assert 'fit = "pad"' not in recipe_text(photos())


def test_files_that_are_no_images_are_counted(tmp_path):
    root = few(tmp_path / "photos")
    (root / "red" / "broken.png").write_bytes(b"no image")
    seen = look(root)
    assert (seen.images, seen.classes, seen.unreadable, seen.short_side) == (25, 3, 1, 12)
