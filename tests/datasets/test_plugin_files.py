"""A data set of image files that is a plugin of one file, from the names of the public surface alone."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

from metriclab.api import FileDataset, LabelledFile, build
from metriclab.registry import load_plugin_file
from tests.support.pictures import classes

PLUGIN = '''
from pathlib import Path
from typing import Literal

from metriclab.api import FileDataset, LabelledFile, register


@register("dataset", "pets-of-a-plugin")
def Pets(split: Literal["train", "val", "test"], /, *, root: str = "pets") -> FileDataset:
    """Photographs of pets, in folders pets/test/cat."""
    paths = sorted(Path(root).glob("*/*/*.png"))
    files = [LabelledFile(path, path.parts[-2], path.parts[-3]) for path in paths]
    return FileDataset(files, split, size=16)
'''


@pytest.mark.usefixtures("cache")
def test_a_plugin_of_one_file_has_the_cache(tmp_path, cache):
    classes(tmp_path / "pets/train", cat=3, dog=2)
    classes(tmp_path / "pets/test", cat=1, owl=2)
    (tmp_path / "plugin.py").write_text(PLUGIN)
    load_plugin_file(tmp_path / "plugin.py")
    data = build("dataset", "pets-of-a-plugin", "train", root=str(tmp_path / "pets"))
    test = data.with_split("test")
    assert data.classes == test.classes == ["cat", "dog", "owl"]
    assert data.labels.tolist() == [0, 0, 0, 1, 1]
    assert test.labels.tolist() == [0, 2, 2]
    assert len(data.with_split("val").labels) == 0
    assert data.images(np.arange(5)).pixels.shape == (5, 3, 12, 20)
    assert len(list((cache / "decoded/pixels").glob("*/*"))) == 5  # of 8 files, three of which are copies of others


def test_classes_may_have_an_order_of_their_own(tmp_path, cache):
    paths = sorted(classes(tmp_path, cat=1, dog=1).glob("*/*.png"))
    files = [LabelledFile(path, path.parent.name) for path in paths]
    data = FileDataset(files, "train", classes=["dog", "cat"])
    assert data.labels.tolist() == [1, 0]


def test_importing_the_package_of_data_sets_imports_neither_torch_nor_matplotlib():
    code = "import sys, metriclab.datasets as d; dir(d); print({'torch', 'matplotlib'}.isdisjoint(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "True\n"
