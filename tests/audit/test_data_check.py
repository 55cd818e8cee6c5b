"""`metriclab check --data` on folders with one planted problem of each kind, and the search for copies by itself."""

from __future__ import annotations

import json
import os
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from metriclab.audit import duplicates as search
from metriclab.audit.check import DataReport, check_data
from metriclab.audit.duplicates import ImageSignatures, find_copies, find_look_alikes
from metriclab.audit.reading import read_items
from metriclab.cli import main
from metriclab.cli.data_text import data_text
from metriclab.core.batch import Images
from metriclab.datasets.synthetic import Synthetic
from metriclab.errors import DataError
from metriclab.images.datasets import ArrayDataset
from metriclab.recipe import read_recipe
from tests.support.tiny import TINY


def photo(number: int, height: int = 96, width: int = 128) -> Image.Image:
    """Smooth noise on several scales: no two numbers look alike."""
    draw = np.random.default_rng(number)
    layers = [
        Image.fromarray(draw.integers(0, 256, (cells, cells, 3), dtype=np.uint8)).resize((width, height), 3)
        for cells in (3, 6, 12, 24)
    ]
    parts = [2**-scale * np.asarray(layer, dtype=np.float64) for scale, layer in enumerate(layers)]
    return Image.fromarray((sum(parts) / 1.875).clip(0, 255).astype(np.uint8))


def fill(root: Path, layout: dict[str, list[int]]) -> Path:
    """Files `<number>.png` in folders, named `split/class`."""
    for folder, numbers in layout.items():
        (root / folder).mkdir(parents=True)
        for number in numbers:
            photo(number).save(root / folder / f"{number}.png")
    return root


@pytest.fixture
def sound(tmp_path: Path) -> Path:
    """Nothing wrong: two classes to train on, two others to measure on."""
    train = {"train/ash": [1, 2, 3], "train/birch": [4, 5, 6]}
    val = {"val/cedar": [7, 8], "val/dogwood": [9, 10]}
    return fill(tmp_path / "trees", {**train, **val, "test/elm": [11, 12, 13], "test/fir": [14, 15, 16]})


def recipe_of(root: Path, **keys: str) -> Path:
    path = root.parent / "recipe.toml"
    more = "".join(f"{key} = {json.dumps(value)}\n" for key, value in keys.items())
    text = TINY.replace("batch_size = 16", "batch_size = 6")
    path.write_text(text.replace('name = "synthetic"\nsize = 12\n', f'name = "folder"\nroot = "{root}"\n{more}'))
    return path


def found(root: Path, **keys: str) -> DataReport:
    return check_data(read_recipe(recipe_of(root, **keys)))


def command(*arguments: str | Path) -> Result:
    return CliRunner().invoke(main, [str(argument) for argument in arguments])


def told(report: DataReport) -> list[tuple[str, bool, str]]:
    return [(finding.kind, finding.wrong, finding.message) for finding in report.findings]


def test_sound_data_are_fine_and_summarised(sound):
    report = found(sound)
    assert report.fine
    assert told(report) == []
    assert report.notes == []
    train = report.splits["train"]
    assert (train.images, train.unlabelled, train.classes) == (6, 0, {"ash": 3, "birch": 3})
    assert (train.height, train.width, train.grey, train.flat) == ((96, 96, 96), (128, 128, 128), 0, 0)


@pytest.mark.parametrize("on_error", ["error", "skip"])
def test_every_unreadable_file_is_named_and_the_rest_still_checked(sound, on_error):
    for number in range(7):
        (sound / f"train/ash/bad{number}.png").write_text("no picture")
    (sound / "test/fir/void.png").touch()
    photo(11).save(sound / "test/elm/copy.png")
    report = found(sound, on_error=on_error)
    assert not report.fine
    assert told(report) == [
        ("unreadable", True, "8 files give no image"),
        ("copies", False, "2 images of test have a copy in test"),
    ]
    names = {Path(item["file"]).name for item in report.findings[0].items}
    assert names == {*(f"bad{number}.png" for number in range(7)), "void.png"}
    assert report.findings[0].items[-1]["reason"] in (
        "the file is empty",
        "this is no image, or not in a format that can be read",
    )
    assert [split.images for split in report.splits.values()] == [6, 4, 7]
    assert all(name in data_text(report) for name in names)


def test_what_was_left_out_is_told_and_each_split_has_its_share(sound):
    (sound / "train/ash/note.heic").touch()
    (sound / "train/ash/gone.png").symlink_to("nowhere")
    strange = sound / os.fsdecode(b"train/ash/caf\xe9.npy")
    strange.touch()
    report = found(sound)
    assert report.fine
    assert told(report) == [
        (
            "listing",
            False,
            f"{sound}: left out 2 files (1 .npy, 1 .heic): train/ash/caf\\udce9.npy, train/ash/note.heic",
        ),
        ("listing", False, f"{sound}: left out 1 link to nothing that can be read: train/ash/gone.png"),
    ]
    text = data_text(report)
    assert "data are fine, 2 to look at" in text
    assert re.search(r"images .* 6 \(38%\) .* 4 \(25%\) .* 6 \(38%\)", text)


def test_names_that_are_no_text_reach_the_terminal_and_json(sound):
    name = os.fsdecode(b"caf\xe9\n.png")
    photo(11).save(sound / "train/ash" / name)
    (sound / "train/ash" / f"bad{name}").write_text("no picture")
    path = recipe_of(sound)
    plain = command("check", path, "--data")
    assert (plain.exit_code, plain.exception.__class__) == (1, SystemExit)
    assert "caf\\udce9\\n.png" in plain.stdout
    done = command("check", path, "--data", "--json")
    items = [item for finding in json.loads(done.stdout)["findings"] for item in finding["items"]]
    assert str(sound / "train/ash" / f"bad{name}") in [item.get("file") for item in items]


def test_a_split_of_which_no_file_can_be_read(sound):
    for path in (sound / "test").rglob("*.png"):
        path.write_bytes(b"")
    report = found(sound)
    assert list(report.splits) == ["train", "val"]
    assert told(report)[0] == ("unreadable", True, "6 files give no image")
    assert told(report)[1][:2] == ("refused", True)
    assert "the split 'test' has no image" in told(report)[1][2]


def test_when_no_file_can_be_read_all_are_named(sound):
    for path in sound.rglob("*.png"):
        path.write_bytes(b"")
    report = found(sound)
    assert report.splits == {}
    assert len(report.findings[0].items) == 16
    assert report.notes == ["no image was looked at"]


def test_a_data_set_that_needs_all_of_its_files(sound):
    def strict(split: str, /) -> None:
        raise DataError("2 files give no image", files={"a.png": "the file is empty", "b.png": "the file is empty"})

    recipe = read_recipe(recipe_of(sound))
    chosen = recipe.components["dataset"]
    needy = replace(chosen, params={}, definition=replace(chosen.definition, factory=strict))
    report = check_data(replace(recipe, components={**recipe.components, "dataset": needy}))
    assert told(report) == [
        ("unreadable", True, "2 files give no image"),
        *(
            ("refused", True, f"{name} cannot be loaded: it needs all of its files")
            for name in ("train", "val", "test")
        ),
    ]


def test_data_that_cannot_be_used_for_another_reason_say_so(sound):
    with pytest.raises(DataError, match="does not exist"):
        found(sound / "elsewhere")


def test_copies_across_splits_are_wrong_and_within_a_split_a_warning(sound):
    photo(1).save(sound / "test/elm/copy.bmp")
    photo(4).save(sound / "train/birch/again.bmp")
    report = found(sound)
    assert told(report) == [
        ("copies", True, "1 image of test has a copy in train, 1 of them under another class"),
        ("copies", False, "2 images of train have a copy in train"),
    ]
    across, within = (finding.items for finding in report.findings)
    assert across == [
        {"image": str(sound / "test/elm/copy.bmp"), "other": str(sound / "train/ash/1.png"), "difference": 0.0}
    ]
    assert [{Path(pair["image"]).name, Path(pair["other"]).name} for pair in within] == [{"4.png", "again.bmp"}]


def test_look_alikes_across_splits_are_wrong_within_one_class_and_else_a_warning(tmp_path):
    both = {"train/ash": [1, 2, 3], "train/birch": [4, 5, 6], "test/ash": [7, 8], "test/birch": [9, 10]}
    root = fill(tmp_path / "trees", both)
    photo(4).save(root / "test/ash/other.jpg", quality=60)
    report = found(root, val=0)
    assert told(report) == [
        ("look-alikes", False, "1 image of test has a look-alike in train, 1 of them under another class")
    ]
    photo(1).resize((64, 48)).save(root / "test/ash/small.jpg", quality=80)
    report = found(root, val=0)
    assert told(report) == [
        ("look-alikes", True, "2 images of test have a look-alike in train, 1 of them under another class")
    ]
    assert 0 < report.findings[0].items[0]["difference"] <= search.MOST_DIFFERENCE


def test_classes_on_one_side_only_or_all_on_both_are_fine_but_not_some(sound, tmp_path):
    assert found(sound).fine
    fill(sound, {"test/ash": [21, 22]})
    report = found(sound)
    assert told(report) == [("classes", True, "1 of 3 classes of test is in train as well, the others are not")]
    assert report.findings[0].items == [{"class": "ash"}]


def test_val_must_not_show_classes_that_test_keeps_for_itself(sound):
    fill(sound, {"val/elm": [21, 22]})
    report = found(sound)
    assert told(report) == [("classes", True, "1 class kept from train is in val and in test")]
    assert report.findings[0].items == [{"class": "elm"}]


def test_classes_of_one_image_are_a_warning_where_it_has_nothing_to_find(sound):
    fill(sound, {"train/gum": [21], "test/holly": [22]})
    assert told(found(sound)) == [
        ("singletons", False, "1 class of train has a single image, which has no other to find"),
        ("singletons", False, "1 class of test has a single image, which has no other to find"),
    ]


def test_images_without_contrast_are_counted_and_compared_exactly_alone(sound):
    for number, level in enumerate((100, 101, 101)):
        Image.new("RGB", (50, 50), (level,) * 3).save(sound / f"train/ash/blank{number}.png")
    report = found(sound)
    assert (report.splits["train"].flat, report.splits["train"].grey) == (3, 3)
    assert told(report) == [("copies", False, "2 images of train have a copy in train")]
    assert report.notes == ["3 images with next to no contrast: only exact copies of these are found"]


def test_the_command_prints_findings_and_exits_with_1_only_where_something_is_wrong(sound):
    result = command("check", recipe_of(sound), "--data")
    assert result.exit_code == 0
    assert result.output.startswith("recipe is fine: ")
    assert result.output.endswith("data are fine\n")
    for number in range(12):
        photo(11 + number % 3).save(sound / f"val/cedar/[{number}].png")
    result = command("check", recipe_of(sound), "--data")
    assert result.exit_code == 1
    assert "wrong    3 images of test have a copy in val, 3 of them under another class" in result.output
    assert "[0].png" in result.output
    assert "and 4 more" in result.output
    assert result.output.endswith("data are not fine: 1 wrong, 1 to look at\n")


def test_the_command_prints_json(sound):
    result = CliRunner().invoke(main, ["check", str(recipe_of(sound)), "--data", "--json"])
    values = json.loads(result.stdout)
    assert values["fine"] is True
    assert values["splits"]["test"]["classes"] == {"elm": 3, "fir": 3}
    assert command("check", recipe_of(sound), "--json").exit_code == 2


def test_a_wrong_recipe_is_told_before_its_data_are_read(sound):
    result = command("check", recipe_of(sound), "--data", "--set", "loss.temprature=1")
    assert result.exit_code == 2
    assert "did you mean 'temperature'?" in result.output


def test_what_would_stop_a_run_is_told_beside_what_is_wrong_with_its_data(sound):
    photo(11).save(sound / "val/cedar/copy.png")
    options = ["--set", "sampler.batch_size=99", "--set", "train.select=retrieval.map_at_q"]
    for more in ([], ["--json"]):
        result = CliRunner().invoke(main, ["check", str(recipe_of(sound)), "--data", *options, *more])
        assert result.exit_code == 2
        assert "2 things would stop the run before its first step" in result.stderr
        assert "sampler.batch_size = 99 is larger than the data set" in result.stderr
        assert "recipe is fine" not in result.stdout
        assert more or "a copy in val" in result.stdout or "a copy in test" in result.stdout
    assert json.loads(result.stdout)["fine"] is False


class Failing(ArrayDataset):
    """Refuses some of its images when they are asked for, as a data set of a plugin may."""

    def images(self, items: np.ndarray, /) -> Images:
        for item in items.tolist():
            if item % 5 == 3:
                raise DataError(f"the archive has no image {item}")
        return super().images(items)


def test_images_that_a_data_set_refuses_to_hand_out_are_named():
    made, problems = Synthetic("train", size=8), dict[str, str]()
    data = Failing(made.pixels, made.labels, made.classes, made.names)
    items = read_items({"train": data}, problems)
    refused = [item for item in range(len(data.labels)) if item % 5 == 3]
    assert problems == {data.names[item]: f"the archive has no image {item}" for item in refused}
    assert items.names == [name for name in data.names if name not in problems]
    assert len(items.signatures.digests) == len(items.labels) == len(items.names)


def signatures_of(images: list[Image.Image]) -> ImageSignatures:
    return ImageSignatures.of(Images.padded([np.asarray(image).transpose(2, 0, 1) for image in images]))


def test_signatures_depend_on_the_image_alone():
    """Neither on its place in the batch nor on the padding."""
    images = [photo(number, 40 + 7 * number, 90 - 9 * number) for number in (3, 0, 2, 0, 5)]
    for number, image in enumerate(images):
        alone, batch = signatures_of([image]), signatures_of(images)
        for one, many in zip(alone, batch, strict=True):
            np.testing.assert_allclose(one[0].astype(np.float64), many[number].astype(np.float64), atol=1e-4)


def test_equal_bytes_of_another_shape_are_no_copies():
    pixels = np.asarray(photo(1))
    signatures = signatures_of([Image.fromarray(pixels), Image.fromarray(pixels.reshape(128, 96, 3))])
    assert find_copies(signatures, np.zeros(2, dtype=np.int64), 1)[0].items.max() == -1


def test_exact_partners_equal_those_of_comparing_each_with_each():
    numbers = np.random.default_rng(0).integers(0, 12, 30)
    split = np.random.default_rng(1).integers(0, 3, 30)
    partners, first = find_copies(signatures_of([photo(number, 8, 8) for number in numbers]), split, 3)
    for item in range(30):
        same = [other for other in range(30) if other != item and numbers[other] == numbers[item]]
        assert first[item] == all(other > item for other in same)
        for number in range(3):
            expected = min((other for other in same if split[other] == number), default=-1)
            assert partners.items[item, number] == expected


def test_near_partners_equal_those_of_comparing_each_with_each():
    """With thumbnails compared in float64, by loops; every look-alike here is within reach of the hashes."""
    images = [photo(number) for number in range(12)]
    changed = [image.resize((100, 75)).point(lambda value: 0.9 * value + 10) for image in images[:8]]
    signatures = signatures_of([*images, *changed, *[image.resize((110, 80)) for image in images[:4]]])
    split = np.arange(24) % 3
    partners, crowded = find_look_alikes(signatures, split, 3, np.ones(24, dtype=bool))
    normal = signatures.brightness.astype(np.float64)
    normal -= normal.mean(axis=1, keepdims=True)
    normal /= np.abs(normal).mean(axis=1, keepdims=True)
    assert not crowded.any()
    assert (partners.items >= 0).sum() >= 16
    for item in range(24):
        for number in range(3):
            apart = {
                other: np.abs(normal[item] - normal[other]).mean()
                for other in range(24)
                if other != item and split[other] == number and np.abs(normal[item] - normal[other]).max() <= 1
            }
            closest = min(apart, key=apart.__getitem__, default=-1)
            expected = closest if apart.get(closest, 1.0) <= 0.1 else -1
            assert partners.items[item, number] == expected
            if expected >= 0:
                assert partners.differences[item, number] == pytest.approx(apart[closest], abs=1e-5)


def test_colours_and_small_places_tell_images_apart():
    image = np.asarray(photo(1)).astype(np.float64)
    marked = image.copy()
    marked[40:52, 60:76] = 255 - marked[40:52, 60:76].mean()
    tinted = (image + np.array([30.0, -12.0, -8.0])).clip(0, 255)
    signatures = signatures_of([Image.fromarray(pixels.astype(np.uint8)) for pixels in (image, marked, tinted)])
    assert find_look_alikes(signatures, np.zeros(3, dtype=np.int64), 1, np.ones(3, dtype=bool))[0].items.max() == -1


def test_a_crowd_is_told_and_still_finds_partners(monkeypatch):
    monkeypatch.setattr(search, "REACH", 4)
    crowd = np.repeat(np.asarray(photo(1))[None], 40, axis=0)
    crowd[:, 0, 0, 0] = np.arange(40)
    signatures = signatures_of([*map(Image.fromarray, crowd), photo(2)])
    partners, crowded = find_look_alikes(signatures, np.zeros(41, dtype=np.int64), 1, np.ones(41, dtype=bool))
    assert (partners.items[:40, 0] >= 0).all()
    assert partners.items[40, 0] == -1
    assert crowded[:40].all()
    assert not crowded[40]
