"""`metriclab data`: caches built ahead, listed and removed."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner
from PIL import Image

from metriclab.cli import main
from metriclab.images.cache_files import alone
from metriclab.images.caches import find_caches

RECIPE = """
[data]
name = "folder"
root = "{root}"
size = 16

[views]
name = "plain"

[encoder]
name = "pixels"

[method]
name = "none"

[train]
steps = 0
"""


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setenv("METRICLAB_CACHE", str(folder))
    return folder


@pytest.fixture
def root(tmp_path):
    """Two classes of 6 images of 32 x 24 pixels."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 32, 24, 3), dtype=np.uint8)
    for number, image in enumerate(pixels):
        path = tmp_path / "pets" / ("cats" if number % 2 else "dogs") / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(image).save(path)
    return tmp_path / "pets"


def command(*arguments: str | Path, code: int = 0) -> str:
    result = CliRunner().invoke(main, ["data", *map(str, arguments)])
    assert result.exit_code == code, result.output
    return result.output


def image_caches():
    return [cached for cached in find_caches() if cached.kind == "images"]


def age(days: float) -> None:
    for cached in image_caches():
        os.utime(cached.place, (time.time() - days * 86400,) * 2)


def test_a_folder_is_decoded_and_what_it_took_is_said(cache, root):
    said = command("cache", root, "--size", "16")
    (cached,) = image_caches()
    assert "12 images, 12 of them reduced to a short side of 16 pixels\n" in said
    assert f"12 kB in {cached.place}, ready in " in said
    assert (cached.source, cached.images) == (str(root), 12)


def test_folds_of_a_folder_are_decoded_too(cache, root, tmp_path):
    recipe = tmp_path / "recipe.toml"
    folds = (
        'name = "class-folds"\nfolds = 2\ndata = {{ name = "folder", root = "{root}", size = 16, val = 0, test = 0 }}'
    )
    recipe.write_text(RECIPE.replace('name = "folder"\nroot = "{root}"\nsize = 16', folds.format(root=root)))
    for name in ("birds", "fish"):
        (root / name).mkdir()
        for number in (0, 2):
            (root / "dogs" / f"{number + 4 * (name == 'fish')}.png").rename(root / name / f"{number}.png")
    assert "12 images, 12 of them reduced to a short side of 16 pixels" in command("cache", recipe)


def test_a_recipe_uses_what_was_decoded_for_its_folder(cache, root, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.format(root=root))
    command("cache", root, "--size", "16")
    first = image_caches()
    said = command("cache", tmp_path / "recipe.toml")
    assert "decoding" not in said
    assert [cached.place for cached in image_caches()] == [cached.place for cached in first]
    assert said.count("12 images") == 1  # though there are three splits
    command("cache", tmp_path / "recipe.toml", "--set", "data.size=8")
    assert len(image_caches()) == 2


def test_a_recipe_without_image_files_has_nothing_to_cache(cache, root, tmp_path):
    (tmp_path / "recipe.toml").write_text(RECIPE.format(root=root))
    said = command("cache", tmp_path / "recipe.toml", "--set", "data.name=synthetic")
    assert said == "this data set has no image files to decode: there is nothing to cache\n"


def test_bad_files_stop_it_unless_they_are_to_be_left_out(cache, root):
    (root / "cats/void.png").touch()
    assert "void.png: the file is empty\n  help: " in command("cache", root, code=3)
    assert "12 images, without 1 that give none\n" in command("cache", root, "--skip")


def test_options_that_do_not_fit_are_refused(cache, root, tmp_path):
    assert "help: use --set data.size=" in command("cache", tmp_path / "a.toml", "--size", "9", code=2)
    assert "--set is for a recipe" in command("cache", root, "--set", "data.size=9", code=2)
    assert "cannot go together" in command("clean", "--all", "--older-than", "3", code=2)
    assert "does not exist" in command("cache", tmp_path / "nowhere", code=3)


def test_caches_are_listed_and_only_removed_on_demand(cache, root):
    assert command("clean") == f"there is no cache in {cache}\n"
    command("cache", root)
    (cached,) = image_caches()
    for options in ((), ("--all", "--dry-run")):
        said = command("clean", *options)
        assert f"{cached.place}  12 images of {root}\n" in said
        assert said.startswith("would go" if options else "kept")
        assert image_caches() == [cached]
    assert command("clean", "--all").startswith("removed")
    assert not [path for path in (cache / "decoded").rglob("*") if path.is_file()]


def test_caches_are_removed_by_their_last_use(cache, root):
    command("cache", root)
    age(10)
    command("cache", root, "--size", "16")
    assert command("clean", "--older-than", "11").count("kept") == 2
    said = command("clean", "--older-than", "9")
    assert said.count("kept") == said.count("removed  ") == 1
    (left,) = image_caches()
    assert left.bytes > 0
    age(10)
    command("cache", root, "--size", "16")  # is a use
    assert "removed  " not in command("clean", "--older-than", "9")


def test_nothing_is_removed_that_metriclab_did_not_make(cache, root):
    command("cache", root)
    (cached,) = image_caches()
    group = Path(cached.files[-1]).parent.name
    strange = {"decoded/notes.txt", f"decoded/pixels/{group}/mine.txt", "decoded/pixels/holiday", "else/about.json"}
    for name in strange:
        (cache / name).parent.mkdir(parents=True, exist_ok=True)
        (cache / name).write_text("{}")
    command("clean", "--all")
    assert {path.relative_to(cache).as_posix() for path in cache.rglob("*") if path.is_file()} == strange


def test_images_that_two_caches_share_stay_until_the_last_of_them_goes(cache, root):
    command("cache", root)
    age(10)
    root.rename(root.with_name("moved"))
    root = root.with_name("moved")
    command("cache", root)
    new, old = image_caches()
    assert new.bytes > 12 * 3 * 32 * 24
    assert old.bytes < 12 * 3 * 32 * 24
    command("clean", "--older-than", "5")
    assert [cached.source for cached in image_caches()] == [str(root)]
    assert "12 images" in command("cache", root)
    assert len(list((cache / "decoded/pixels").glob("*/*"))) == 12


def test_what_killed_builds_leave_is_removed_but_not_while_images_are_decoded(cache, root):
    command("cache", root)
    (cached,) = image_caches()
    cached.place.unlink()
    temporary = cache / "decoded/.x.npz.123.part"
    temporary.touch()
    with alone(cached.place.with_suffix(".lock"), waiting=None):
        assert command("clean", "--all").startswith("in use")
        assert len(list((cache / "decoded/pixels").glob("*/*"))) == 12
    assert temporary.exists()  # as it may be being written
    os.utime(temporary, (0, 0))
    assert command("clean", "--all").count("removed  ") == 2
    assert not [path for path in cache.rglob("*") if path.is_file()]


def test_drawn_glyphs_are_listed_too(cache):
    path = cache / "glyphs/28px-1.npz"
    path.parent.mkdir(parents=True)
    path.write_bytes(bytes(5000))
    assert f"{path}  glyphs\n5 kB of 5 kB removed\n" in command("clean", "--all")
    assert not path.exists()
