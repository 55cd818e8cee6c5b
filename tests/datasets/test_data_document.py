"""The layouts on the page about data are what the code makes of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metriclab.errors import DataError
from metriclab.images.listing import list_images
from metriclab.images.tree import Place, folder_places
from metriclab.registry import build
from tests.support.pictures import picture

PAGE = (Path(__file__).parents[2] / "docs" / "data.md").read_text("utf-8")
LAYOUTS = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_layout(layout, tmp_path):
    lines = [re.split(r" {2,}", line) for line in layout.splitlines()]
    for name, _, _ in lines:
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        picture(1).save(tmp_path / name)
    files = list_images(tmp_path / "photos").files
    found = {f"photos/{file.key}": (file.label, file.split) for file in files}
    expected = {name: (label.replace("no class", ""), split.replace("carved", "train")) for name, label, split in lines}
    assert found == expected
    names = list(expected)
    assert folder_places([str(tmp_path / name) for name in names]) == [Place(*expected[name]) for name in names]


def test_all_layouts_are_tried():
    assert len(LAYOUTS) == 3


SPECIES = {"Aves/2761": 4, "Aves/2762": 3, "Plantae/31": 4, "Insecta/1455": 5}


@pytest.fixture
def inaturalist(tmp_path, monkeypatch, cache):
    monkeypatch.chdir(tmp_path)
    lists = {"train": [], "test": []}
    for number, (species, count) in enumerate(SPECIES.items()):
        for image in range(count):
            path = Path("inaturalist/train_val2018", species, f"{number}{image}.jpg")
            path.parent.mkdir(parents=True, exist_ok=True)
            picture(10 * number + image).save(path)
            lists["test" if number > 1 else "train"].append(str(path.relative_to("inaturalist")))
    for split, paths in lists.items():
        Path(f"inaturalist/Inaturalist_{split}_set1.txt").write_text("\n".join(paths) + "\n")
    return Path("inaturalist")


def test_the_table_of_inaturalist(inaturalist):
    (block,) = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    exec(block, {})
    train = build("dataset", "folder", "train", root="inaturalist/species.csv", val=0.0)
    test = train.with_split("test")
    assert [train.classes[label] for label in train.labels] == ["2761"] * 4 + ["2762"] * 3
    assert [test.classes[label] for label in test.labels] == ["31"] * 4 + ["1455"] * 5
    assert (train.categories.tolist(), test.categories.tolist()) == ([0] * 7, [2] * 4 + [1] * 5)
    (inaturalist / "train_val2018/Aves/2761/00.jpg").unlink()
    with pytest.raises(DataError) as caught:
        build("dataset", "folder", "train", root="inaturalist/species.csv", val=0.0)
    assert caught.value.message == "inaturalist/species.csv:2: there is no file 'train_val2018/Aves/2761/00.jpg'"
