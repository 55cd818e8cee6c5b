"""The tables on the page about other sources build what the page says, of files laid out as it says."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import numpy as np
import pytest

from metriclab.registry import build
from tests.datasets.test_shards import png, shard

PAGE = (Path(__file__).parents[2] / "docs" / "sources.md").read_text("utf-8")
BLOCKS = {
    block["data"]["name"]: block for block in map(tomllib.loads, re.findall(r"```toml\n(.*?)```", PAGE, re.DOTALL))
}
(LAYOUT,) = re.findall(r"```text\n(.*?)```", PAGE, re.DOTALL)


@pytest.fixture(autouse=True)
def _here(tmp_path, cache, monkeypatch):
    monkeypatch.chdir(tmp_path)


def made(name, split="train", **more):
    params = {key: value for key, value in BLOCKS[name]["data"].items() if key != "name"}
    return build("dataset", name, split, **params, **more)


def test_images_of_many_channels():
    for number in range(20):
        place = Path("satellite", "ab"[number % 2], f"{number}.npy")
        place.parent.mkdir(parents=True, exist_ok=True)
        np.save(place, np.full((9, 8, 12), number, np.uint16))
    images = made("folder").images(np.arange(2))
    assert images.pixels.shape == (2, 12, 9, 8)
    assert images.white == 65535


def test_shards():
    for line in LAYOUT.splitlines():
        place, *members = line.split()
        contents = {"jpg": png, "cls": lambda number: number // 2, "json": lambda number: f'{{"camera": "c{number}"}}'}
        named = [(name, int(name.partition(".")[0]), name.rpartition(".")[2]) for name in members]
        shard(Path(place), [(name, contents[ending](number)) for name, number, ending in named])
    data = made("shards", val=0)
    assert data.labels.tolist() == [0, 0, 1, 1]
    assert data.groups.tolist() == [0, 1, 2, 3]
    params = {key: value for key, value in BLOCKS["shards"]["sampler"].items() if key != "name"}
    batches = build("sampler", "shuffled", data.labels, **params).epoch(0)
    assert sorted(sorted(batch.tolist()) for batch in batches) == [[0, 1], [2, 3]]
