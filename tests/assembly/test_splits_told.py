"""What a run says of its splits before it begins."""

from __future__ import annotations

import logging

from metriclab.assembly.assemble import build_evaluators
from metriclab.assembly.splits import benchmark, load_splits
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


def test_the_data_of_a_transfer_are_told_by_name_and_content_and_not_by_place(tmp_path, cache):
    tables = []
    for place in ("here", "there"):
        root = classes(tmp_path / place / "pets", cats=4, dogs=4, birds=4)
        path = tmp_path / f"{place}.toml"
        data = f'{{ name = "folder", root = "{root}", size = 16, val = 0.0 }}'
        path.write_text(f'{TINY}\n[[evaluate]]\nname = "transfer"\nevaluator = "knn"\ndata = {data}\n')
        recipe = read_recipe(path)
        tables.append(benchmark(recipe, load_splits(recipe), build_evaluators(recipe)))
    assert tables[0] == tables[1]
    told = tables[0]["evaluate"]["transfer"]
    assert (told["data"], told["evaluator"], set(told["fingerprint"])) == ({"name": "folder"}, "knn", {"test", "train"})
    assert str(tmp_path) not in str(tables[0])
