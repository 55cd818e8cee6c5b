"""Tables of images: who they belong to, who looks for whom, in every format, and all that is wrong, at once."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from metriclab.assembly.splits import Splits, require_columns, sides_of
from metriclab.audit.findings import shared_groups
from metriclab.datasets.folder import Folder
from metriclab.errors import DataError, RecipeError
from metriclab.evaluators.retrieval import Retrieval
from metriclab.images.datasets import ArrayDataset, FileDataset
from metriclab.images.listing import is_manifest
from metriclab.miners import SameCategory
from metriclab.report.embedded import embed_run, open_data
from metriclab.runs.folder import RunFolder
from metriclab.vectors.arrays import labels_of
from tests.support.pictures import fill
from tests.support.tiny import run, tiny

pytestmark = pytest.mark.usefixtures("cache")

HEADER = ["path", "label", "split", "query", "gallery", "group", "category"]
ROWS = [
    ["000.png", "ann", "train", "", "", "cam1", "people"],
    ["001.png", "ann", "train", "", "", "cam2", "people"],
    ["002.png", "rex", "train", "", "", "cam1", "dogs"],
    ["003.png", "bob", "test", "true", "false", "cam1", "people"],
    ["004.png", "bob", "test", "1", "1", "cam2", "people"],
    ["005.png", "bob", "test", "no", "yes", "cam2", "people"],
    ["006.png", "", "test", "", "TRUE", "", ""],
    ["007.png", "bob", "test", "0", "0", "cam3", "people"],
]


def written(root: Path, ending: str, rows: list[list[str]] = ROWS, header: list[str] = HEADER) -> Path:
    table = root / f"all{ending}"
    if ending == ".parquet":
        pq.write_table(pa.table(dict(zip(header, map(list, zip(*rows, strict=True)), strict=True))), table)
        return table
    if ending == ".jsonl":
        lines = [json.dumps(dict(zip(header, row, strict=True))) for row in rows]
    else:
        lines = [("\t" if ending == ".tsv" else ",").join(row) for row in [header, *rows]]
    table.write_text("\n".join(lines) + "\n")
    return table


@pytest.fixture
def root(tmp_path):
    fill(tmp_path / "photos", 8)
    return tmp_path / "photos"


def opened(table: Path, split: str = "train", **options: object) -> FileDataset:
    return Folder(split, root=str(table), val=0.0, **options)


def refusal(table: Path, **options: object) -> str:
    with pytest.raises(DataError) as caught:
        opened(table, **options)
    return f"{caught.value.message}\n  help: {caught.value.help}".replace(str(table), "TABLE")


@pytest.mark.parametrize("ending", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_a_table_says_who_is_who(root, ending):
    train = opened(written(root, ending))
    test = train.with_split("test")
    assert train.classes == ["ann", "bob", "rex"]
    assert (train.groups.tolist(), test.groups.tolist()) == ([0, 1, 0], [0, 1, 1, -1, 2])
    assert (train.categories.tolist(), test.categories.tolist()) == ([1, 1, 0], [1, 1, 1, -1, 1])
    assert train.is_query is None
    assert test.is_query.tolist() == [True, True, False, False, False]
    assert test.is_gallery.tolist() == [False, True, True, True, False]
    assert "1 image of test are for neither query nor gallery" in " ".join(test.notes)


def test_queries_and_gallery_of_a_split_know_each_image_on_both_sides(root):
    train = opened(written(root, ".csv"))
    queries, gallery = sides_of(train.with_split("test"), train)
    assert (queries.items.tolist(), gallery.items.tolist()) == ([0, 1], [1, 2, 3])
    assert [Path(name).name for name in gallery.names] == ["004.png", "005.png", "006.png"]
    assert gallery.groups.tolist() == [1, 1, -1]
    there = train.with_split("test").images(np.array([2])).pixels
    assert (gallery.images(np.array([1])).pixels == there).all()


def test_other_names_for_the_same(root):
    renamed = ["file", "product_id", "part", "is_query", "is_gallery", "camera", "kind"]
    table = written(root, ".csv", header=renamed)
    columns = {"path": "file", "label": "product_id", "split": "part", "group": "camera", "category": "kind"}
    plain = opened(written(root, ".tsv"), "test")
    assert opened(table, "test", columns=columns).fingerprint == plain.fingerprint
    assert refusal(table) == (
        "TABLE:1: the manifest has no column 'path'\n  help: name that of the paths so, or in data.columns; there is "
        "'file', 'product_id', 'part', 'is_query', 'is_gallery', 'camera', 'kind'"
    )
    assert refusal(table, columns={"path": "files"}).startswith(
        "TABLE:1: the manifest has no column 'files', which columns.path names\n  help: it has 'file', "
    )
    assert refusal(table, columns={"class": "kind"}).startswith("columns.class: there is no column 'class' to read")
    assert "a folder has no columns" in refusal(root, columns={"label": "kind"})


@pytest.mark.parametrize("column", ["group", "category", "query"])
def test_what_a_table_says_is_part_of_the_benchmark(root, column):
    before = opened(written(root, ".csv"), "test").fingerprint
    other = [list(row) for row in ROWS]
    other[5][HEADER.index(column)] = {"group": "cam9", "category": "birds", "query": "yes"}[column]
    assert opened(written(root, ".csv", other), "test").fingerprint != before


def test_everything_that_is_wrong_is_told_at_once(root):
    rows = [list(row) for row in ROWS]
    rows[1][2], rows[2][5], rows[3][3], rows[4][0], rows[5][6] = "dev", "nan", "maybe", "lost.png", "None"
    told = refusal(written(root, ".csv", rows)).splitlines()
    assert told[:6] == [
        "TABLE: 5 lines cannot be used:",
        "  TABLE:3: there is no split 'dev'",
        "  TABLE:4: the cell 'nan' of the column 'group' is a missing value and no group",
        "  TABLE:5: the cell 'maybe' of the column 'query' is neither true nor false",
        "  TABLE:6: there is no file 'lost.png'",
        "  TABLE:7: the cell 'None' of the column 'category' is a missing value and no category",
    ]
    assert "leave the cell empty where the group is unknown" in told[6]
    many = [["lost.png", "a", *[""] * 5] for _ in range(30)]
    for row in many:
        row[2] = "train"
    told = refusal(written(root, ".csv", many)).splitlines()
    assert (told[0], told[21]) == ("TABLE: 30 lines cannot be used:", "  and 10 more")


def test_a_parquet_table_names_rows_where_others_name_lines(root):
    rows = [list(row) for row in ROWS]
    rows[1][2], rows[2][5], rows[4][0], rows[6][0] = "dev", "nan", "lost.png", "./005.png"
    assert refusal(written(root, ".parquet", rows)).splitlines()[:5] == [
        "TABLE: 4 lines cannot be used:",
        "  TABLE: row 1: there is no split 'dev'",
        "  TABLE: row 2: the cell 'nan' of the column 'group' is a missing value and no group",
        "  TABLE: row 4: there is no file 'lost.png'",
        "  TABLE: row 6: '005.png' is already in row 5, with the label 'bob' and not ''",
    ]
    assert refusal(written(root, ".parquet", header=["file", *HEADER[1:]])).startswith(
        "TABLE: the manifest has no column 'path'\n  help: name that of the paths so, or in data.columns; there is"
    )


def test_cells_of_parquet_are_what_they_would_be_as_text(root):
    columns = {
        "path": pa.array(["000.png", "001.png", "002.png", "003.png"]).dictionary_encode(),
        "label": pa.array([7, 7, 8, None]),
        "split": ["test", "test", "test", "train"],
        "query": [True, False, None, None],
        "gallery": [0.0, 1.0, 1.0, None],
    }
    pq.write_table(pa.table(columns), root / "all.parquet")
    test = opened(root / "all.parquet", "test")
    assert [test.classes[label] for label in test.labels] == ["7", "7", "8"]
    assert (test.is_query.tolist(), test.is_gallery.tolist()) == ([True, False, False], [False, True, True])
    pq.write_table(pa.table({**columns, "label": [["a"]] * 4}), root / "all.parquet")
    assert refusal(root / "all.parquet") == (
        "TABLE: the column 'label' is list<element: string>, and no text, numbers or true and false\n"
        "  help: store its values as text, or name another column in data.columns"
    )
    (root / "all.parquet").write_bytes(b"PAR1 but not for long")
    assert refusal(root / "all.parquet").startswith("TABLE: this is no parquet file (")


def test_parquet_without_its_extra(root, monkeypatch):
    table = written(root, ".parquet")
    monkeypatch.setitem(sys.modules, "pyarrow.parquet", None)
    with pytest.raises(RecipeError, match=r"reading .parquet needs pyarrow\n  help: pip install .*\[parquet\]"):
        opened(table)


def test_parquet_with_embeddings_is_a_file_of_vectors_and_no_table(root, tmp_path):
    table = written(root, ".parquet")
    assert labels_of(table).tolist() == [row[1] for row in ROWS]
    vectors = tmp_path / "z.parquet"
    pq.write_table(pa.table({"embedding": [[0.0, 1.0]] * 2, "path": ["a", "b"], "label": ["x", "y"]}), vectors)
    assert (is_manifest(table), is_manifest(vectors)) == (True, False)
    assert labels_of(vectors).tolist() == ["x", "y"]


def test_a_split_has_both_sides_or_none(root):
    only_queries = [[*row[:4], "", *row[5:]] for row in ROWS]
    assert refusal(written(root, ".csv", only_queries)) == (
        "TABLE: the split 'test' has images for query and none for gallery\n  help: mark some in a column 'gallery', "
        "or leave both columns away to look for each among all others"
    )


@pytest.mark.parametrize("text", ['{"path": "000.png"', '["000.png"]', '{"path": {"a": 1}}'])
def test_lines_that_are_no_objects(root, text):
    (root / "all.jsonl").write_text(f'{{"path": "001.png"}}\n{text}\n')
    assert refusal(root / "all.jsonl").startswith("TABLE:2: this line is no JSON object of plain values\n  help: write")


def test_a_run_measures_test_queries_against_the_test_gallery_without_their_own_camera(root, tmp_path):
    fill(root, 40)
    rows = [
        [f"{n:03}.png", f"p{n % 4}", "train" if n < 16 else "test", str(n % 3 == 0), str(n % 3 > 0), f"cam{n % 5}", ""]
        for n in range(40)
    ]
    table = written(root, ".csv", rows)
    settings = ["data.name=folder", f"data.root={json.dumps(str(table))}", "train.steps=2", "data.val=0"]
    recipe = tiny(tmp_path, *settings, "evaluate.0.exclude=same-group", "data.size=12")
    run(recipe, tmp_path / "run")
    result = json.loads((tmp_path / "run/result.json").read_text())
    assert result["protocol"] == "test queries against the test gallery"
    assert "and those of its label and group" in result["definitions"]["retrieval"]["map"]
    assert len(result["metrics"]["retrieval"]) > 5
    scores = RunFolder(tmp_path / "run").scores()
    assert scores["groups"].shape == scores["labels"].shape
    assert "categories" not in scores
    data = open_data(tmp_path / "run")
    for metric, left_out in (("retrieval.map_at_r", True), (None, False)):
        shown = embed_run(tmp_path / "run", data, metric)
        own = np.stack([data.queries.labels, data.queries.groups], 1)[:, None]
        found = np.stack([data.gallery.labels, data.gallery.groups], 1)[shown.near]
        same = ((own == found).all(2) & (shown.near >= 0)).any()
        assert (shown.without_group, bool(same)) == (left_out, not left_out)


def test_without_groups_no_run_begins(root, tmp_path):
    rows = [[f"{n:03}.png", "ab"[n % 2]] for n in range(8)]
    table = written(root, ".csv", rows, ["path", "label"])
    settings = [
        "data.name=folder",
        f"data.root={json.dumps(str(table))}",
        "data.test=0.5",
        "data.val=0",
        "data.size=12",
    ]
    recipe = tiny(tmp_path, *settings, "sampler.batch_size=4", "evaluate.0.exclude=same-group")
    with pytest.raises(DataError, match="'retrieval' goes by groups, and the test split has none"):
        run(recipe, tmp_path / "run")
    assert not (tmp_path / "run").exists()


def carved(root: Path, disjoint: str) -> list[FileDataset]:
    """Classes a to h; camera n takes classes 2n and 2n + 1, two of three images of each; the rest has no camera."""
    fill(root, 48)
    rows = [[f"{n:03}.png", "abcdefgh"[n % 8], f"cam{n % 8 // 2}" if n % 3 else ""] for n in range(48)]
    table = written(root, ".csv", rows, ["path", "label", "group"])
    train = Folder("train", root=str(table), val=0.0, test=0.4, disjoint=disjoint)
    return [train, train.with_split("test")]


def test_groups_are_carved_out_whole(root):
    train, test = carved(root, "group")
    assert set(test.groups) == set(range(4)) - set(train.groups)
    assert set(train.labels) & set(test.labels)  # images without a group stay in train
    assert -1 in train.groups


def test_classes_and_groups_that_hang_together_are_carved_out_whole(root):
    train, test = carved(root, "class-and-group")
    known = train.groups >= 0
    assert not set(train.labels[known]) & set(test.labels)
    assert not set(train.groups) & set(test.groups)
    assert len(set(test.labels)) == 2 * len(set(test.groups))


def test_there_has_to_be_something_to_carve(root):
    fill(root, 8)
    table = written(root, ".csv", [[f"{n:03}.png", "ab"[n % 2], "cam1"] for n in range(8)], ["path", "label", "group"])
    assert refusal(table, disjoint="class-and-group") == (
        "TABLE: 1 sets of classes and groups that hang together are too few to make 2 splits of at least 1\n"
        "  help: give it 2 or more, or make the splits yourself"
    )
    plain = written(root, ".tsv", [[f"{n:03}.png", "ab"[n % 2]] for n in range(8)], ["path", "label"])
    assert refusal(plain, disjoint="group").startswith("TABLE: there are no groups to carve out")
    assert refusal(plain, disjoint="class-and-group").startswith("TABLE: there are no sets of classes and groups that")


def test_what_leaks_through_a_group_is_found(root):
    fill(root, 12)
    rows = [
        [f"{n:03}.png", "abc"[n % 3], "test" if n >= 6 else "train", f"day{n % 6 if n % 3 else 9}"] for n in range(12)
    ]
    train = opened(written(root, ".csv", rows, ["path", "label", "split", "group"]))
    leak, lone = shared_groups({"train": train, "test": train.with_split("test")})
    assert (leak.wrong, leak.message) == (True, "6 images of test have images of their own class and group in train")
    assert len(leak.items) == 6
    told = "1 class of test is of a single group, outside of which there is no match"
    assert (lone.wrong, lone.message, lone.items) == (False, told, [{"class": "a"}])


def test_what_is_in_a_given_split_stays_there_and_carved_splits_have_no_marks(root):
    fill(root, 40)
    rows = [
        [f"{n:03}.png", "ab"[n % 2], "test" if n >= 30 else "train", "1" if n == 0 else "", "1" if n else ""]
        for n in range(40)
    ]
    rows[31][3] = "1"
    table = written(root, ".csv", rows, ["path", "label", "split", "query", "gallery"])
    train = Folder("train", root=str(table), val=0.3)
    val, test = train.with_split("val"), train.with_split("test")
    assert (len(test.labels), len(train.labels) + len(val.labels)) == (10, 30)
    assert (val.is_query, test.is_query.sum()) == (None, 1)


def test_flags_as_programs_write_them(root):
    rows = [[f"{n:03}.png", "ab"[n % 2], "test", "1.0" if n else "0.0", "1"] for n in range(4)]
    table = written(
        root, ".csv", [*rows, ["004.png", "a", "train", "", ""]], ["path", "label", "split", "is_query", "is_gallery"]
    )
    assert opened(table, "test").is_query.tolist() == [False, True, True, True]


def test_half_a_letter_is_no_text(root):
    (root / "all.jsonl").write_text('{"path": "000.png", "label": "\\ud800"}\n')
    assert refusal(root / "all.jsonl").startswith("TABLE:1: this line is no JSON object of plain values")


def test_what_goes_by_groups_is_asked_of_the_sides_that_are_measured():
    evaluators = {"retrieval": Retrieval(exclude="same-group")}
    names = ["train", "val", "test"]

    def split(labels):
        return ArrayDataset(
            np.zeros((len(labels), 1, 8, 8), np.uint8),
            np.array(labels),
            ["a", "b"],
            [str(n) for n in range(len(labels))],
        )

    splits = Splits(*(split([0, 1]) for _ in names))
    splits.test.groups = splits.val.groups = np.array([0, 1])
    with pytest.raises(DataError, match="evaluator 'retrieval' goes by groups, and the train split has none"):
        require_columns(object(), evaluators, splits)
    part = SimpleNamespace(miner=SameCategory())
    method = SimpleNamespace(loss=SimpleNamespace(parts=[part]))
    with pytest.raises(DataError, match="miner SameCategory goes by categories, and the train split has none"):
        require_columns(method, {}, splits)
