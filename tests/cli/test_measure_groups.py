"""`metriclab measure` with groups: from arrays, from files of their own, from a table."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.core.rows import rows
from metriclab.evaluators.retrieval import Retrieval
from tests.support.pictures import fill

N = 40
LABELS, GROUPS = np.arange(N) % 5, np.arange(N) % 3
Z = np.random.default_rng(0).normal(size=(N, 6)).astype(np.float32) + np.eye(6, dtype=np.float32)[LABELS]


def measured(*arguments: str) -> dict:
    done = CliRunner().invoke(main, ["measure", *arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["measure", *arguments], catch_exceptions=False)
    assert done.exit_code in (2, 3), done.output
    return done.stderr


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    np.save("z.npy", Z)
    np.save("labels.npy", LABELS)
    np.save("cameras.npy", GROUPS)
    np.savez("all.npz", embeddings=Z, labels=LABELS, groups=np.array([f"cam {group}" for group in GROUPS]))
    return tmp_path


def expected() -> dict[str, float]:
    both = rows(torch.from_numpy(Z), torch.from_numpy(LABELS), groups=torch.from_numpy(GROUPS))
    return {name: score.value for name, score in Retrieval(exclude="same-group")(both).items()}


def test_groups_come_from_arrays_files_and_tables(folder):
    fill(folder, N)
    lines = [f"{n:03}.png,{label},cam {group}" for n, (label, group) in enumerate(zip(LABELS, GROUPS, strict=True))]
    (folder / "table.csv").write_text("\n".join(["path,label,group", *lines]) + "\n")
    ways = [
        ("all.npz",),
        ("z.npy", "--labels", "labels.npy", "--groups", "cameras.npy"),
        ("z.npy", "--labels", "table.csv"),
    ]
    for way in ways:
        assert measured(*way, "--exclude", "same-group")["metrics"]["retrieval"] == pytest.approx(expected())
    plain = measured("all.npz")["metrics"]["retrieval"]
    assert plain["map"] != pytest.approx(expected()["map"])
    assert plain == measured("z.npy", "--labels", "labels.npy")["metrics"]["retrieval"]


def test_groups_mean_the_same_on_both_sides(folder):
    np.savez("first.npz", embeddings=Z[:15], labels=LABELS[:15], groups=GROUPS[:15])
    np.savez("second.npz", embeddings=Z[15:], labels=LABELS[15:], groups=GROUPS[15:])
    np.save("others.npy", GROUPS[15:] + 100)
    ways = ("first.npz", "--gallery", "second.npz", "--exclude", "same-group")
    torn = measured(*ways, "--gallery-groups", "others.npy")["metrics"]["retrieval"]
    assert torn == measured(*ways[:3])["metrics"]["retrieval"]
    sides = [
        rows(torch.from_numpy(Z[part]), LABELS[part], groups=torch.from_numpy(GROUPS[part]))
        for part in (slice(15), slice(15, N))
    ]
    own = measured(*ways)["metrics"]["retrieval"]
    assert own["map"] == pytest.approx(Retrieval(exclude="same-group")(*sides)["map"].value)
    assert own["map"] != torn["map"]


def test_what_is_lacking_is_told(folder):
    np.save("few.npy", GROUPS[:9])
    plain = ("z.npy", "--labels", "labels.npy")
    assert "there are no groups for the queries, so exclude" in refused(*plain, "--exclude", "same-group")
    assert "there are 9 groups for the 40 embeddings of z.npy" in refused(*plain, "--groups", "few.npy")
    assert "--gallery-groups needs a --gallery" in refused(*plain, "--gallery-groups", "cameras.npy")
    assert "--exclude is of retrieval" in refused(*plain, "--evaluator", "knn", "--exclude", "same-group")


def test_a_table_in_another_order_than_the_embeddings_is_refused(folder):
    fill(folder, N)
    names = [f"{n:03}.png" for n in range(N)]
    (folder / "z.paths.txt").write_text("\n".join(str(folder / name) for name in names) + "\n")
    lines = [f"{name},{label}" for name, label in zip(names, LABELS, strict=True)]
    (folder / "right.CSV").write_text("\n".join(["path,label", *lines]) + "\n")
    (folder / "turned.csv").write_text("\n".join(["path,label", *lines[::-1]]) + "\n")
    assert measured("z.npy", "--labels", "right.CSV")["queries"] == N
    told = refused("z.npy", "--labels", "turned.csv")
    assert "turned.csv: its image 1 is '039.png', and that of row 0 of z.npy is '000.png'" in told
