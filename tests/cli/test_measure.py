"""`metriclab measure`: embeddings from files, the numbers that evaluators give, and errors that name the file."""

from __future__ import annotations

import codecs
import json
import os
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet
import pytest
import safetensors.numpy
import safetensors.torch
import torch
from click.testing import CliRunner

from metriclab.cli import main
from metriclab.core.progress import exhaust
from metriclab.core.rows import rows
from metriclab.errors import DataError, StorageError
from metriclab.evaluation.evaluate import steps_of
from metriclab.evaluators.knn import KNN
from metriclab.evaluators.retrieval import Retrieval
from metriclab.vectors import rows as stored
from metriclab.vectors.export import writer_for
from metriclab.vectors.formats import read_arrays
from metriclab.vectors.rows import Source, read_rows, unit

N, CLASSES = 60, 5


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def drawn(n: int = N) -> tuple[np.ndarray, np.ndarray]:
    generator = np.random.default_rng(n)
    labels = np.arange(n) % CLASSES
    centres = np.random.default_rng(0).normal(size=(CLASSES, 6))
    return (centres[labels] + generator.normal(size=(n, 6))).astype(np.float32), labels


def measured(*arguments: str) -> dict:
    done = CliRunner().invoke(main, ["measure", *arguments, "--json"], catch_exceptions=False)
    assert done.exit_code == 0, done.output
    return json.loads(done.stdout)


def refused(*arguments: str) -> str:
    done = CliRunner().invoke(main, ["measure", *arguments], catch_exceptions=False)
    assert done.exit_code in (2, 3), done.output
    return done.stderr


def expected(z: np.ndarray, labels: np.ndarray, **parameters) -> dict[str, float]:
    both = rows(torch.from_numpy(z), torch.from_numpy(labels))
    return {name: score.value for name, score in Retrieval(**parameters)(both, both).items()}


def test_every_format_gives_what_the_evaluator_gives(folder):
    z, labels = drawn()
    np.save("z.npy", z)
    np.save("labels.npy", labels)
    np.save("columns.npy", np.asfortranarray(z))
    np.save("swapped.npy", z.astype(">f4"))
    np.save("wide.npy", z.astype(np.float64))
    np.savez("both.npz", embeddings=z, labels=labels)
    np.savez("other.npz", features=z, y=labels)
    safetensors.numpy.save_file({"embeddings": z, "labels": labels}, "both.safetensors")
    Path("labels.txt").write_text("".join(f"{label}\n" for label in labels))
    Path("names.txt").write_text("".join(f"class {label}\n" for label in labels))
    want = expected(z, labels, k=(1, 3))
    for arguments in (
        *([name, "--labels", "labels.npy"] for name in ("z.npy", "columns.npy", "swapped.npy", "wide.npy")),
        *(["z.npy", "--labels", name] for name in ("labels.txt", "names.txt", "both.safetensors", "other.npz")),
        ["both.npz"],
        ["other.npz", "--labels", "labels.npy"],
        ["both.safetensors"],
    ):
        found = measured(*arguments, "--set", "k=[1, 3]")
        assert found["metrics"]["retrieval"] == pytest.approx(want, abs=1e-9), arguments
        assert found["protocol"] == "leave-one-out"
        assert (found["queries"], found["gallery"], found["embedding_dim"], found["classes"]) == (N, N, 6, CLASSES)
        assert "Recall at 3" in found["definitions"]["retrieval"]["r_at_3"]


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
def test_what_embed_writes_is_measured_by_the_folders_of_its_images(suffix, folder):
    z, labels = drawn()
    writer_for(Path(f"z{suffix}"))(z, [f"photos/class {label}/{i}.jpg" for i, label in enumerate(labels)])
    assert measured(f"z{suffix}", "--by-folder")["metrics"]["retrieval"] == pytest.approx(expected(z, labels))


@pytest.mark.parametrize("suffix", [".npy", ".safetensors", ".parquet"])
@pytest.mark.parametrize(
    "name", [b"caf\xe9", "a\u2028b".encode(), "a\u0085b".encode(), b"a\nb", b"a\rb", b'"q"', b" c "]
)
def test_any_name_of_a_file_comes_back(suffix, name, folder):
    z, labels = drawn()
    paths = [f"photos/{os.fsdecode(name)}{label}/{i}.jpg" for i, label in enumerate(labels)]
    writer_for(Path(f"z{suffix}"))(z, paths)
    assert read_arrays(Path(f"z{suffix}")).paths == paths
    assert measured(f"z{suffix}", "--by-folder")["metrics"]["retrieval"] == pytest.approx(expected(z, labels))


def test_paths_of_older_files_are_read(folder):
    np.save("z.npy", drawn(8)[0])
    paths = ["a/\u2028.png", "a/\u0085.png", 'a/"x".png', '"a"/1.png', "a/ .png", "a/é.png", "b/7.png", '"b.png']
    Path("z.paths.txt").write_text("".join(f"{path}\n" for path in paths))
    assert read_arrays(Path("z.npy")).paths == paths


def test_the_class_folder_is_the_first_below_the_one_that_has_all_images(folder):
    z, _ = drawn(8)
    paths = [f"all/{colour}/{year}/{i}.png" for colour in ("red", "blue") for year in (2020, 2021) for i in (0, 1)]
    writer_for(Path("z.npy"))(z, paths)
    want = expected(z, np.repeat([0, 1], 4))
    assert measured("z.npy", "--by-folder")["metrics"]["retrieval"] == pytest.approx(want)
    writer_for(Path("z.npy"))(z, [path.replace("all", "all/train" if "2020" in path else "all/test") for path in paths])
    assert measured("z.npy", "--by-folder")["metrics"]["retrieval"] == pytest.approx(want)
    writer_for(Path("z.npy"))(z, [path.replace("/", "_") for path in paths])
    assert "z.npy: all of its images lie in one folder, and the class is the first folder" in refused(
        "z.npy", "--by-folder"
    )
    writer_for(Path("z.npy"))(z, [path.replace("all/", "all/./one/") for path in paths])
    assert "all rows of z.npy are of one class: whatever is nearest is right" in refused("z.npy", "--by-folder")
    Path("z.paths.txt").write_text("a/1.png\nb/1.png\n")
    assert "there are 2 paths for the 8 embeddings of z.npy" in refused("z.npy", "--by-folder")


@pytest.mark.parametrize("names", [("embedding", "label", "item"), ("embeddings", "labels", "items")])
@pytest.mark.parametrize("kind", ["list", "fixed", "large"])
def test_columns_are_called_by_one_row_or_by_all(names, kind, folder):
    z, labels = drawn()
    types = {"list": pa.list_(pa.float32()), "fixed": pa.list_(pa.float32(), 6), "large": pa.large_list(pa.float64())}
    table = dict(zip(names, (pa.array(z.tolist(), types[kind]), labels, np.arange(N) // 2), strict=True))
    Path("seed=1").mkdir()
    pyarrow.parquet.write_table(pa.table({**table, "note": ["x"] * N}), "seed=1/z.parquet")
    both = rows(torch.from_numpy(z), torch.from_numpy(labels), torch.arange(N) // 2)
    want = {name: score.value for name, score in Retrieval()(both, both).items()}
    assert measured("seed=1/z.parquet")["metrics"]["retrieval"] == pytest.approx(want)


def test_columns_of_text_and_without_values(folder, caplog):
    z, labels = drawn()
    names = [None if label == 3 else f"c{label}" for label in labels]
    want = expected(z, np.where(labels == 3, -1, labels))
    for column in (
        pa.array(names),
        pa.array(names).dictionary_encode(),
        pa.array(names, pa.large_string()),
        pa.array([None if label == 3 else label for label in labels.tolist()], pa.int32()),
    ):
        pyarrow.parquet.write_table(pa.table({"embedding": z.tolist(), "label": column}), "z.parquet")
        assert measured("z.parquet")["metrics"]["retrieval"] == pytest.approx(want)
        assert caplog.messages.pop() == "z.parquet: the column 'label' has 12 cells without a value: they are unknown"
        caplog.clear()


@pytest.mark.parametrize(
    ("columns", "text"),
    [
        ({"embedding": [[1.0], [2.0]], "embeddings": [[1.0], [2.0]]}, "there are the columns embedding and embeddings"),
        (
            {"vector": [[1.0], [2.0]]},
            "z.parquet has none of the columns embeddings, labels, items, splits, groups, categories; it holds vector",
        ),
        ({"embedding": [[1.0], [2.0, 3.0]]}, "the column 'embedding' has rows of 1 and 2 numbers"),
        ({"embedding": [[1.0], None]}, "the column 'embedding' has rows of 1 and no numbers"),
        ({"embedding": ["a", "b"]}, "the column 'embedding' is string, expected lists of numbers"),
        ({"embedding": [[1], [2]]}, "embeddings are int64, not floating-point numbers"),
        ({"embedding": [["a"], ["b"]]}, "embeddings are object, not floating-point numbers"),
        ({"embedding": [[1.0, None], [1.0, 2.0]]}, "1 of 2 embeddings are not finite"),
        (
            {"embedding": [[1.0], [2.0]], "label": [0.5, 1.5]},
            "labels are float64 of shape (2,), expected whole numbers",
        ),
    ],
)
def test_what_is_wrong_with_columns_is_told(columns, text, folder):
    pyarrow.parquet.write_table(pa.table(columns), "z.parquet")
    assert text in refused("z.parquet")


def test_labels_in_text_of_any_unicode_with_blanks_around(folder, caplog):
    z, labels = drawn()
    np.save("z.npy", z)
    want = expected(z, labels)
    for content in (
        codecs.BOM_UTF8 + "".join(f"{label}\r\n" for label in labels).encode(),
        "".join(f"cläss\u2028{label}\n" for label in labels).encode("utf-16"),
        codecs.BOM_UTF8 + "".join(f"c{label}\n" for label in labels).encode().removesuffix(b"\n"),
    ):
        Path("labels.txt").write_bytes(content)
        found = measured("z.npy", "--labels", "labels.txt")
        assert (found["metrics"]["retrieval"], found["classes"]) == (pytest.approx(want), CLASSES)
    assert caplog.messages == []
    Path("labels.txt").write_text("".join(f"{' ' * (i % 2)}c{label}\n" for i, label in enumerate(labels)))
    assert measured("z.npy", "--labels", "labels.txt")["classes"] == CLASSES
    assert caplog.messages == ["labels.txt: left out the blanks around 30 of 60 labels"]


def test_labels_of_a_manifest(folder):
    z, labels = drawn()
    np.save("z.npy", z)
    for i in range(N):
        Path(f"{i}.png").touch()
    Path("all.csv").write_text("path,label\n" + "".join(f"{i}.png,c{label}\n" for i, label in enumerate(labels)))
    assert measured("z.npy", "--labels", "all.csv")["metrics"]["retrieval"] == pytest.approx(expected(z, labels))


def test_columns_of_parquet_beside_embeddings(folder):
    """Without embeddings they are no table of images by that alone."""
    z, labels = drawn()
    np.save("z.npy", z)
    names, paths = [f"c{label}" for label in labels], [f"{i}.png" for i in range(N)]
    want = expected(z, labels)
    for columns in ({"label": names}, {"path": paths, "labels": names}, {"path": paths, "label": names}):
        pyarrow.parquet.write_table(pa.table(columns), "labels.parquet")
        assert measured("z.npy", "--labels", "labels.parquet")["metrics"]["retrieval"] == pytest.approx(want)
    pyarrow.parquet.write_table(pa.table({"class": names}), "labels.parquet")
    assert "labels.parquet has none of the columns embeddings, labels, items" in refused(
        "z.npy", "--labels", "labels.parquet"
    )
    pyarrow.parquet.write_table(pa.table({"label": names, "split": ["test"] * N}), "labels.parquet")
    assert "labels.parquet has no array 'embeddings'; it holds labels (60,), splits (60,)" in refused("labels.parquet")


def test_items_are_not_the_labels_of_a_table(folder):
    np.save("z.npy", drawn()[0])
    Path("all.csv").write_text("path,label\n" + "".join(f"{i}.png,{i}\n" for i in range(N)))
    assert "all.csv has no format metriclab can read" in refused("z.npy", "--labels", "all.csv", "--items", "all.csv")


def test_missing_values_are_no_classes(folder):
    z, _ = drawn()
    np.save("z.npy", z)
    Path("labels.txt").write_text("1\n2\nnan\n" * 20)
    assert "labels.txt:3: 'nan' is a missing value and no class" in refused("z.npy", "--labels", "labels.txt")
    text = "x.npz: the label 'nan' of row 2 is a missing value and no class\n  help: leave it empty where the class is"
    assert text in refused(save(labels=np.array(["a", "b", "nan"] * 20)))


@pytest.mark.parametrize("kind", [".npy", ".npz"])
def test_python_objects_as_labels_are_told_with_how_to_save_them(kind, folder):
    z, labels = drawn()
    objects = np.array([f"c{label}" for label in labels], dtype=object)
    help = "help: labels are whole numbers or text: np.save(path, labels.astype(str)) saves names"
    if kind == ".npy":
        np.save("z.npy", z)
        np.save("labels.npy", objects)
        said = refused("z.npy", "--labels", "labels.npy")
        assert said == f"labels.npy cannot be read: it holds Python objects\n  {help}\n"
    else:
        np.savez("z.npz", embeddings=z, labels=objects)
        assert refused("z.npz") == f"z.npz: its array 'labels' cannot be read: it holds Python objects\n  {help}\n"


def test_objects_that_nobody_asks_for_are_told_and_left(folder, caplog):
    z, labels = drawn()
    save(meta=np.array({"by": "me"}, dtype=object))
    assert measured("x.npz")["metrics"]["retrieval"] == pytest.approx(expected(z, labels))
    assert caplog.messages == ["x.npz: not read, as they are no arrays of numbers or text: meta"]


@pytest.mark.parametrize("suffix", [".npy", ".npz", ".safetensors", ".parquet", ".txt", ".csv"])
def test_pipes_are_not_opened(suffix, folder):
    np.save("z.npy", drawn()[0])
    os.mkfifo(f"pipe{suffix}")
    text = f"pipe{suffix} cannot be read: It is a named pipe, not a regular file"
    if suffix in (".csv", ".parquet"):  # which may be tables
        text = f"pipe{suffix}: It is a named pipe, not a regular file"
    assert text in refused("z.npy", "--labels", f"pipe{suffix}")


def test_files_of_other_content_than_their_ending_says(folder):
    z, _ = drawn()
    with open("z.npy", "wb") as file:
        np.savez(file, embeddings=z)
    assert "z.npy cannot be read: it is an archive of arrays" in refused("z.npy")
    with open("z.npz", "wb") as file:
        np.save(file, z)
    assert "z.npz cannot be read: File is not a zip file" in refused("z.npz")


def test_queries_look_among_a_gallery_and_names_mean_the_same_on_both_sides(folder):
    (z, labels), (others, of_others) = drawn(), drawn(40)
    np.savez("queries.npz", embeddings=z, labels=np.array([f"c{label}" for label in labels]))
    np.savez("gallery.npz", embeddings=others)
    Path("names.txt").write_text("".join(f"c{label}\n" if label != 3 else "\n" for label in of_others))
    found = measured("queries.npz", "--gallery", "gallery.npz", "--gallery-labels", "names.txt")
    of_others = np.where(of_others == 3, -1, of_others)
    sides = [rows(torch.from_numpy(x), torch.from_numpy(y)) for x, y in ((z, labels), (others, of_others))]
    want = {name: score.value for name, score in Retrieval()(*sides).items()}
    assert found["metrics"]["retrieval"] == pytest.approx(want)
    assert want["queries_without_matches"] == N / CLASSES
    assert (found["protocol"], found["gallery"]) == ("queries against a gallery", 40)


def test_rows_of_one_item_do_not_match_each_other(folder):
    z, labels = drawn()
    z, labels, items = np.concatenate([z, z]), np.concatenate([labels, labels]), np.concatenate([np.arange(N)] * 2)
    np.savez("twice.npz", embeddings=z, labels=labels, items=items)
    np.save("z.npy", z)
    np.save("labels.npy", labels)
    np.save("items.npy", items)
    both = rows(torch.from_numpy(z), torch.from_numpy(labels), torch.from_numpy(items))
    want = Retrieval()(both, both)["map_at_r"].value
    assert measured("twice.npz")["metrics"]["retrieval"]["map_at_r"] == pytest.approx(want)
    beside = measured("z.npy", "--labels", "labels.npy", "--items", "items.npy")
    assert beside["metrics"]["retrieval"]["map_at_r"] == pytest.approx(want)


def test_a_gallery_that_holds_the_queries_goes_by_items(folder):
    z, labels = drawn()
    np.savez("gallery.npz", embeddings=z, labels=labels, items=np.arange(N))
    np.savez("queries.npz", embeddings=z[:20], labels=labels[:20], items=np.arange(20))
    np.savez("bare.npz", embeddings=z[:20], labels=labels[:20])
    both = rows(torch.from_numpy(z), torch.from_numpy(labels), torch.arange(N))
    want = Retrieval()(both[:20], both)["r_at_1"].value
    found = measured("queries.npz", "--gallery", "gallery.npz")
    assert found["metrics"]["retrieval"]["r_at_1"] == pytest.approx(want) != 1.0
    assert found["queries_in_the_gallery"] == 20
    bare = measured("bare.npz", "--gallery", "gallery.npz")
    assert (bare["metrics"]["retrieval"]["r_at_1"], bare["queries_in_the_gallery"]) == (1.0, 0)
    np.save("items.npy", np.arange(20))
    given = measured("bare.npz", "--items", "items.npy", "--gallery", "gallery.npz", "--gallery-items", "gallery.npz")
    assert given["metrics"]["retrieval"]["r_at_1"] == pytest.approx(want)
    for name, text in (("queries", "20 queries have rows of their own item"), ("bare", "no items on both sides")):
        done = CliRunner().invoke(main, ["measure", f"{name}.npz", "--gallery", "gallery.npz"], env={"COLUMNS": "200"})
        assert text in done.stdout
    np.savez("copied.npz", embeddings=z[:20], labels=labels[:20])
    assert "copied.npz has the rows of bare.npz: every row would find itself" in refused(
        "bare.npz", "--gallery", "copied.npz"
    )


def test_several_evaluators_each_with_parameters_of_its_own(folder):
    z, labels = drawn()
    np.savez("both.npz", embeddings=z, labels=labels)
    names = ("retrieval", "knn", "linear-probe", "health")
    chosen = [word for name in names for word in ("--evaluator", name)]
    found = measured("both.npz", *chosen, "--set", "knn.k=3", "--set", "retrieval.whole_ranking=false")
    assert tuple(found["metrics"]) == names
    assert "the 3 nearest" in found["definitions"]["knn"]["accuracy"]
    assert "mrr" not in found["metrics"]["retrieval"]
    np.save("z.npy", z)
    assert measured("z.npy", "--evaluator", "health")["metrics"]["health"]["alignment"] is None


def test_the_table_has_the_numbers_and_tells_their_rules_once(folder):
    z, labels = drawn()
    np.savez("both.npz", embeddings=z, labels=labels)
    done = CliRunner().invoke(main, ["measure", "both.npz", "--set", "k=1"], env={"COLUMNS": "200"})
    assert done.exit_code == 2  # a list is meant
    done = CliRunner().invoke(main, ["measure", "both.npz", "--set", "k=[1]"], env={"COLUMNS": "200"})
    assert "60 rows against each other, 6 dimensions, 5 classes" in done.stdout
    assert f"{expected(z, labels)['map_at_r']:.4f}" in done.stdout
    assert done.stdout.count("all of them averaged over the queries") == done.stdout.count("(retrieval/1)") == 1
    quiet = CliRunner().invoke(main, ["measure", "both.npz", "-q"], env={"COLUMNS": "200"})
    assert "map_at_r" in quiet.stdout
    assert "averaged" not in quiet.stdout


@pytest.mark.parametrize("evaluator", [Retrieval(), KNN(k=3)])
def test_steps_tell_the_share_done_and_end_with_what_a_call_gives(evaluator, monkeypatch):
    monkeypatch.setattr("metriclab.ranking.keys.TILE_CELLS", 8 * N)
    monkeypatch.setattr("metriclab.ranking.keys.PART_CELLS", 4 * N)
    z, labels = drawn()
    both = rows(torch.from_numpy(z), torch.from_numpy(labels))
    seen = []

    def followed():
        scores = yield from steps_of(evaluator, both, both)
        return scores

    steps = followed()
    try:
        while True:
            seen.append(next(steps))
    except StopIteration as end:
        scores = end.value
    assert len(seen) > 5
    assert seen == sorted(seen)
    assert seen[-1] == 1.0
    assert {name: score.value for name, score in scores.items()} == {
        name: score.value for name, score in evaluator(both, both).items()
    }


def test_an_evaluator_without_steps_is_called():
    z, labels = drawn()
    both = rows(torch.from_numpy(z), torch.from_numpy(labels))
    assert exhaust(steps_of(lambda queries, gallery, /: {"rows": (len(queries), len(gallery))}, both, both)) == {
        "rows": (N, N)
    }


def test_unit_rows_are_mapped_and_not_copied(folder):
    z, labels = drawn()
    z /= np.linalg.norm(z, axis=1, keepdims=True)
    z[7] = 0
    safetensors.numpy.save_file({"embeddings": z, "labels": labels}, "z.safetensors")
    np.save("z.npy", z)
    np.save("labels.npy", labels)
    for source in (Source(Path("z.npy"), Path("labels.npy")), Source(Path("z.safetensors"))):
        queries, gallery = read_rows(source)
        assert gallery is queries
        assert resident_maps(source.embeddings, queries.z)
        torch.testing.assert_close(queries.z, torch.from_numpy(z), rtol=0, atol=0)


def resident_maps(path: Path, z: torch.Tensor) -> bool:
    """Whether the tensor's memory is the mapped file, by the kernel's own list."""
    for line in Path("/proc/self/maps").read_text().splitlines():
        parts = line.split(maxsplit=5)
        start, end = (int(place, 16) for place in parts[0].split("-"))
        if start <= z.data_ptr() < end:
            return len(parts) == 6 and parts[5] == str(path.absolute())
    raise AssertionError("no map holds it")


def test_large_rows_of_other_norms_are_normalised_on_the_disk(folder, monkeypatch):
    monkeypatch.setattr(stored, "_IN_MEMORY", 10)
    monkeypatch.setattr(stored, "_PART", 32)
    z = torch.randn(50, 6, dtype=torch.float64) * 3
    made = unit(z, Path("z"))
    assert made.dtype == torch.float32
    torch.testing.assert_close(made, torch.nn.functional.normalize(z).float(), rtol=0, atol=1e-7)
    assert not resident_maps(Path("z"), made)  # it has no name
    monkeypatch.setattr("tempfile.TemporaryFile", full_disk)
    with pytest.raises(StorageError, match="no room for the normalised embeddings"):
        unit(z, Path("z"))


@pytest.mark.parametrize(("scale", "dtype"), [(1e-30, "f4"), (1e30, "f4"), (1e-200, "f8"), (1e200, "f8")])
def test_rows_of_any_length_are_neither_zero_nor_infinite(scale, dtype, folder, caplog):
    z, labels = drawn()
    np.savez("scaled.npz", embeddings=(z * np.float64(scale)).astype(dtype), labels=labels)
    assert measured("scaled.npz")["metrics"]["retrieval"] == pytest.approx(expected(z, labels))
    assert caplog.messages == []


def full_disk(prefix: str):
    return open("/dev/full", "wb", buffering=0)


def test_half_precision_is_raised(folder):
    z, labels = drawn()
    for dtype in (torch.float16, torch.bfloat16):
        half = torch.from_numpy(z).to(dtype)
        safetensors.torch.save_file({"embeddings": half, "labels": torch.from_numpy(labels)}, "half.safetensors")
        want = expected(half.float().numpy(), labels)
        assert measured("half.safetensors")["metrics"]["retrieval"] == pytest.approx(want)


def save(**arrays) -> str:
    z, labels = drawn()
    np.savez("x.npz", **{"embeddings": z, "labels": labels, **arrays})
    return "x.npz"


@pytest.mark.parametrize(
    ("arrays", "text"),
    [
        ({"embeddings": np.zeros(4, np.float32)}, "embeddings have shape (4,), expected (rows, dimensions)"),
        ({"embeddings": np.zeros((0, 4), np.float32)}, "embeddings have shape (0, 4)"),
        ({"embeddings": np.zeros((4, 2), np.int8)}, "embeddings are int8, not floating-point numbers"),
        ({"embeddings": np.full((N, 2), np.nan)}, "60 of 60 embeddings are not finite, the first is row 0"),
        ({"labels": np.zeros(4, np.int64)}, "there are 4 labels for the 60 embeddings of x.npz"),
        ({"items": np.zeros(4, np.int64)}, "there are 4 items for the 60 embeddings of x.npz"),
        ({"items": np.zeros(N, np.float32)}, "expected whole numbers"),
        ({"items": np.array(["a"] * N)}, "items are not whole numbers"),
        ({"labels": np.zeros(N, np.float32)}, "labels are float32 of shape (60,), expected whole numbers or names"),
        ({"labels": np.zeros((N, 2), np.int64)}, "labels are int64 of shape (60, 2)"),
        ({"labels": np.full(N, 2**64 - 1, np.uint64)}, "labels are uint64"),
        ({"labels": np.full(N, -1)}, "no row of x.npz has a label"),
        ({"labels": np.arange(N)}, "no two rows of x.npz have the same label"),
        ({"labels": np.zeros(N, np.int64), "items": np.zeros(N, np.int64)}, "no two rows of x.npz have the same label"),
    ],
)
def test_what_is_wrong_with_arrays_is_told(arrays, text, folder):
    assert text in refused(save(**arrays))


def test_what_is_wrong_with_files_is_told(folder):
    z, labels = drawn()
    np.save("z.npy", z)
    np.save("objects.npy", np.array([{}, []], dtype=object), allow_pickle=True)
    np.savez("two.npz", a=z, b=z)
    np.savez("gallery.npz", embeddings=z[:, :4], labels=labels)
    np.savez("others.npz", embeddings=z, labels=labels + 100)
    np.savez("named.npz", embeddings=z, labels=np.array([f"c{label}" for label in labels]))
    np.savez("bare.npz", embeddings=z)
    for name in ("cut.npy", "cut.npz", "cut.safetensors", "cut.parquet"):
        Path(name).write_bytes(b"no such thing")
    for name in ("missing.npy", "z.csv"):
        assert name in refused(name)
    for name in ("objects.npy", "cut.npy", "cut.npz", "cut.safetensors", "cut.parquet"):
        assert f"{name} cannot be read" in refused(name)
    assert "has no array 'embeddings'; it holds a (60, 6), b (60, 6)" in refused("two.npz")
    fine = save()
    assert "x.npz has 6 dimensions, gallery.npz 4" in refused(fine, "--gallery", "gallery.npz")
    assert "no label of x.npz is among those of others.npz" in refused(fine, "--gallery", "others.npz")
    assert "are numbers on one side and names on the other" in refused(fine, "--gallery", "named.npz")
    assert "no row of bare.npz has a label" in refused(fine, "--gallery", "bare.npz")
    assert "every row would find itself" in refused(fine, "--gallery", "./x.npz")
    assert "has no paths to take folders from" in refused("z.npy", "--by-folder")
    assert "evaluator 'retrieval' measures nothing without labels" in refused("z.npy")


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["--evaluator", "retrievel"], "did you mean 'retrieval'?"),
        (["--evaluator", "robustness"], "wants the encoder itself"),
        (["--set", "kk=[1]"], "has no parameter 'kk'"),
        (["--set", "knn.k=1"], "write --set retrieval.k=..."),
        (["--set", "k"], "is not key=value"),
        (["--evaluator", "retrieval", "--evaluator", "knn", "--set", "k=[1]"], "--set knn.k=..."),
        (["--by-folder", "--labels", "x.npz"], "exclude each other"),
        (["--gallery-labels", "x.npz"], "needs a --gallery"),
    ],
)
def test_what_is_wrong_with_options_is_told(arguments, text, folder):
    assert text in refused(save(), *arguments)


def test_a_bar_is_drawn_on_terminals(folder):
    from rich.console import Console

    from metriclab.cli.measure_command import _measured

    sides = read_rows(Source(Path(save())))
    with open("bar.txt", "w") as file:
        _measured({"retrieval": Retrieval()}, *sides, Console(file=file, force_terminal=True, width=100))
    assert "retrieval" in Path("bar.txt").read_text()
    with pytest.raises(DataError):
        read_rows(Source(Path("x.npz")), Source(Path("x.npz")))


def by_loops(z: np.ndarray, labels: np.ndarray) -> tuple[dict, dict]:
    """R@1 and MAP@R by class, and the shares of queries whose nearest row is of another class, row by row."""
    unit = z.astype(np.float64) / np.linalg.norm(z.astype(np.float64), axis=1, keepdims=True)
    found, confused = {}, {}
    for query, label in enumerate(labels):
        others = [row for row in range(len(z)) if row != query]
        near = sorted(others, key=lambda row: -float(unit[query] @ unit[row]))
        relevant = sum(labels[row] == label for row in others)
        if label < 0 or not relevant:
            continue
        hits = [labels[row] == label for row in near[:relevant]]
        average = sum(sum(hits[: at + 1]) / (at + 1) for at, hit in enumerate(hits) if hit) / relevant
        found.setdefault(int(label), []).append((float(hits[0]), average))
        if not hits[0] and labels[near[0]] >= 0:
            pair = tuple(sorted((int(label), int(labels[near[0]]))))
            confused[pair] = confused.get(pair, 0) + 1
    return {label: (len(rows), *np.mean(rows, 0)) for label, rows in found.items()}, confused


def test_classes_are_measured_one_by_one_worst_first(folder):
    z, labels = drawn()
    labels = np.where(np.arange(N) % 13 == 5, -1, labels)
    labels[7] = 9  # a class of one row
    np.savez("both.npz", embeddings=z, labels=labels)
    found = measured("both.npz", "--per-class")
    wanted, confused = by_loops(z, labels)
    classes = found["per_class"]["classes"]
    assert {one["class"]: (one["queries"], one["r_at_1"], one["map_at_r"]) for one in classes if one["queries"]} == {
        label: pytest.approx(values, abs=1e-6) for label, values in wanted.items()
    }
    assert classes[-1] == {"class": 9, "queries": 0, "r_at_1": None, "map_at_r": None}
    assert [one["map_at_r"] for one in classes[:-1]] == sorted(one["map_at_r"] for one in classes[:-1])
    pairs = found["per_class"]["confused"]
    assert {tuple(one["classes"]): one["wrong"] for one in pairs} == confused
    assert [one["wrong"] for one in pairs] == sorted((one["wrong"] for one in pairs), reverse=True)
    sizes = {label: values[0] for label, values in wanted.items()}
    assert all(one["queries"] == sum(sizes.get(label, 0) for label in one["classes"]) for one in pairs)
    total = sum(one["queries"] * one["map_at_r"] for one in classes[:-1]) / sum(sizes.values())
    assert total == pytest.approx(found["metrics"]["retrieval"]["map_at_r"])
    assert "per_class" not in measured("both.npz")


def test_rows_equally_near_share_a_confusion_and_classes_have_their_names(folder):
    eye = np.eye(3, dtype=np.float32)
    np.save("z.npy", eye[[0, 0, 0, 1, 1, 2]])
    Path("labels.txt").write_text("[red]\n[red]\nblue\nblue\nblue\n[red]\n")
    found = measured("z.npy", "--labels", "labels.txt", "--per-class", "--evaluator", "knn")["per_class"]
    # Row 2 is as near to 0 and 1, of red; 0 and 1 are as near to each other as to 2; 5 is as near to all.
    wrong = pytest.approx(1 + 2 / 2 + 3 / 5)
    assert found["confused"] == [{"classes": ["[red]", "blue"], "wrong": wrong, "queries": 6}]
    done = CliRunner().invoke(
        main, ["measure", "z.npy", "--labels", "labels.txt", "--per-class"], env={"COLUMNS": "99"}
    )
    assert "classes, the worst by MAP@R first" in done.stdout
    assert "[red] and blue" in done.stdout


def test_the_tables_have_20_classes_and_say_so(folder):
    generator = np.random.default_rng(0)
    np.savez("many.npz", embeddings=generator.normal(size=(60, 4)), labels=np.arange(60) % 30)
    done = CliRunner().invoke(main, ["measure", "many.npz", "--per-class"], env={"COLUMNS": "99"})
    assert "(20 of 30; --json has all)" in done.stdout
    worst = measured("many.npz", "--per-class")["per_class"]["classes"]
    table = done.stdout.partition("class ")[2]
    shown = [line.split()[0] for line in table.splitlines()[1:21]]
    assert shown == [str(one["class"]) for one in worst[:20]]


def test_per_class_of_queries_against_a_gallery(folder):
    (z, labels), (other, theirs) = drawn(), drawn(40)
    np.savez("queries.npz", embeddings=z, labels=labels)
    np.savez("gallery.npz", embeddings=other, labels=np.where(theirs == 4, 77, theirs))
    found = measured("queries.npz", "--gallery", "gallery.npz", "--per-class")
    classes = {one["class"]: one for one in found["per_class"]["classes"]}
    assert set(classes) == {0, 1, 2, 3, 4}
    assert (classes[4]["queries"], classes[4]["r_at_1"]) == (0, None)
    total = sum(one["queries"] * (one["r_at_1"] or 0) for one in classes.values()) / 48
    assert total == pytest.approx(found["metrics"]["retrieval"]["r_at_1"])
