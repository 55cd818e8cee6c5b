"""The layouts on the page about data are what the code makes of them."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from metriclab.images.listing import list_images
from metriclab.images.tree import Place, folder_places
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
