"""Folders and files whose names are no text go through a run, its report and the caches."""

from __future__ import annotations

import os

import pytest
from click.testing import CliRunner

from metriclab.cli import main
from tests.support.pictures import classes
from tests.support.tiny import run, tiny

ODD = os.fsdecode(b"caf\xe9")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place = tmp_path_factory.mktemp("odd")
    classes(place / "pets", **{ODD: 8, "a\nb": 8, "c\u2028d": 8})
    run(tiny(place, "data.name=folder", f"data.root='{place}/pets'", "train.steps=2"), place / "run")
    return place


def output(*arguments: object) -> str:
    done = CliRunner().invoke(main, [*map(str, arguments)], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return done.output


def test_a_report_shows_them(place):
    output("report", place / "run", "-o", place / "report.html")
    assert "caf\\udce9" in (place / "report.html").read_text("utf-8")


def test_embeddings_go_by_them(place):
    output("embed", place / "run", place / "pets", "-o", place / f"{ODD}.npy")
    assert "24 rows against each other" in output("measure", place / f"{ODD}.npy", "--by-folder")


def test_caches_of_them_are_listed(place, cache):
    classes(place / ODD, one=2, two=2)
    output("data", "cache", place / ODD)
    assert f"4 images of {place}/caf\\udce9" in output("data", "clean")
