"""No folder of this machine is in what a run hands on."""

from __future__ import annotations

import json

import pytest

from metriclab.errors import DataError
from metriclab.evaluation import result
from metriclab.runs.files import without_folders
from metriclab.runs.folder import RunFolder
from tests.support.tiny import run, tiny


@pytest.mark.parametrize(
    ("text", "left"),
    [
        ("/home/me/data/x.png: no such file", "x.png: no such file"),
        ("[Errno 2] No such file: '/home/me/my images/x.png'", "[Errno 2] No such file: 'x.png'"),
        ("~/data/x.png and (/tmp/a/b.npy, /tmp/c.npy)", "x.png and (b.npy, c.npy)"),
        (
            "https://host/a/b and transfer/1, a / b, r/w, data/x.png",
            "https://host/a/b and transfer/1, a / b, r/w, data/x.png",
        ),
        ("root=/home/me/data/", "root="),
    ],
)
def test_absolute_paths_are_left_their_last_part(text, left):
    assert without_folders(text) == left
    assert without_folders({"a": [text, 1, None], "b": (text,)}) == {"a": [left, 1, None], "b": [left]}


def test_neither_result_nor_manifest_names_a_folder(tmp_path, monkeypatch):
    def gone(*_: object) -> None:
        raise DataError(f"{tmp_path / 'data' / 'image.png'}: no such file")

    monkeypatch.setattr(result, "Peaks", gone)
    run(tiny(tmp_path, "train.steps=1"), tmp_path / "run")
    folder = RunFolder(tmp_path / "run")
    assert folder.result()["missing"] == {"cost.peak_memory_mb": "image.png: no such file"}
    for file in (folder.result_file, folder.manifest_file):
        assert str(tmp_path.parent) not in json.dumps(json.loads(file.read_text()))
