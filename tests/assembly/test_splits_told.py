"""What a run says of its splits before it begins."""

from __future__ import annotations

import logging

from metriclab.assembly.splits import load_splits
from metriclab.recipe import read_recipe
from tests.support.pictures import classes
from tests.support.tiny import TINY


def test_the_log_has_the_real_numbers_of_each_split(tmp_path, cache, caplog):
    classes(tmp_path / "pets", cats=6, dogs=6, birds=5)
    path = tmp_path / "recipe.toml"
    path.write_text(TINY.replace('name = "synthetic"\nsize = 12\n', f'name = "folder"\nroot = "{tmp_path}/pets"\n'))
    with caplog.at_level(logging.INFO, "metriclab"):
        load_splits(read_recipe(path))
    assert (
        "train: 9 images (53%) of 3 classes, val: 4 images (24%) of 2 classes, test: 4 images (24%) of 2 classes"
        in caplog.messages
    )
