"""Features that exist already as a data set: read by the rules of vectors, trained on and measured without an image."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.csv
import pyarrow.parquet as pq
import pytest
import safetensors.numpy
import torch
from click.testing import CliRunner
from PIL import Image

from metriclab.assembly.assemble import assemble
from metriclab.assembly.embedder import load
from metriclab.assembly.rehearsal import rehearse
from metriclab.assembly.splits import load_splits
from metriclab.audit.check import check_data
from metriclab.cli import main
from metriclab.core.network import Embedded
from metriclab.errors import DataError, RecipeError
from metriclab.evaluation.embed import EmbeddingSettings, embed, embed_batches, embedding_settings, evaluating
from metriclab.recipe import read_recipe
from metriclab.registry import build
from metriclab.report.page import write_report
from metriclab.testing import component_checks
from metriclab.training.features import with_features
from metriclab.training.fit import fit
from metriclab.vectors.export import writer_for
from tests.support.tiny import run, tiny

HEAD_ON_FEATURES = Path(__file__).parents[2] / "recipes" / "head-on-features.toml"
CLASSES, EACH, WIDTH = 12, 10, 16
NAMES = np.repeat([f"class-{label:02d}" for label in range(CLASSES)], EACH)
PATHS = [f"photos/{name}/{number % EACH}.jpg" for number, name in enumerate(NAMES)]


def embeddings() -> np.ndarray:
    generator = np.random.default_rng(0)
    centres = generator.normal(size=(CLASSES, WIDTH)).repeat(EACH, 0)
    return (centres + generator.normal(size=centres.shape)).astype(np.float32)


def head_on(root: Path, *overrides: str):
    settings = [f"data.root={root}", f"encoder.out_features={WIDTH}", "head.embedding_dim=4", "train.steps=4"]
    batches = ["sampler.classes_per_batch=4", "sampler.per_class=2"]
    return read_recipe(HEAD_ON_FEATURES, [*settings, *batches, *overrides])


@pytest.fixture
def written(tmp_path: Path) -> Path:
    """As `metriclab embed` writes it."""
    writer_for(tmp_path / "photos.safetensors")(embeddings(), PATHS)
    return tmp_path / "photos.safetensors"


@pytest.mark.parametrize(("ending", "disjoint"), [(".npy", True), (".safetensors", False), (".parquet", True)])
def test_what_embed_writes_is_a_data_set(tmp_path, ending, disjoint):
    writer_for(tmp_path / f"photos{ending}")(embeddings(), PATHS)
    data = build("dataset", "features", "train", root=str(tmp_path / f"photos{ending}"), disjoint=disjoint)
    splits = {split: data.with_split(split) for split in ("train", "val", "test")}
    assert sorted(name for split in splits.values() for name in split.names) == sorted(PATHS)
    assert data.classes == sorted(set(NAMES.tolist()))
    for split in splits.values():
        rows = [PATHS.index(name) for name in split.names]
        assert [split.classes[label] for label in split.labels] == NAMES[rows].tolist()
        images = split.images(np.arange(len(rows)))
        assert np.array_equal(images.pixels[:, :, 0, 0].numpy(), embeddings()[rows])
    with_images = build_folder_splits(tmp_path / "folder", disjoint)
    assert {name: sorted(split.names) for name, split in splits.items()} == with_images


def build_folder_splits(folder: Path, disjoint: bool) -> dict[str, list[str]]:
    """The same images, carved by the data set `folder`."""
    for path in PATHS:
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        Image.new("L", (8, 8), hash(path) % 256).save(folder / path)
    data = build("dataset", "folder", "train", root=str(folder / "photos"), size=8, disjoint=disjoint)
    return {
        split: sorted(str(Path(name).relative_to(folder)) for name in data.with_split(split).names)
        for split in ("train", "val", "test")
    }


def test_labels_and_splits_lie_in_the_file_or_beside_it(tmp_path):
    splits = np.where(
        np.arange(len(NAMES)) % EACH < 6, "train", np.where(np.arange(len(NAMES)) % EACH < 8, "val", "test")
    )
    np.savez(tmp_path / "all.npz", embeddings=embeddings(), labels=NAMES, splits=splits)
    np.save(tmp_path / "rows.npy", embeddings())
    np.save(tmp_path / "numbers.npy", np.arange(len(NAMES)) // EACH)
    (tmp_path / "splits.txt").write_text("".join(f"{split}\n" for split in splits))
    beside = {"labels": str(tmp_path / "numbers.npy"), "splits": str(tmp_path / "splits.txt")}
    for split in ("train", "val", "test"):
        one = build("dataset", "features", split, root=str(tmp_path / "all.npz"))
        two = build("dataset", "features", split, root=str(tmp_path / "rows.npy"), **beside)
        rows = np.flatnonzero(splits == split)
        assert one.names == [f"{tmp_path}/all.npz/{row}" for row in rows]
        assert two.names == [f"{tmp_path}/rows.npy/{row}" for row in rows]
        assert one.labels.tolist() == two.labels.tolist() == (rows // EACH).tolist()
        assert torch.equal(one.images(np.arange(3)).pixels, two.images(np.arange(3)).pixels)
    assert two.classes == [str(label) for label in range(CLASSES)]  # 10 behind 9


def test_a_table_says_all_that_it_says_of_images(tmp_path):
    np.save(tmp_path / "rows.npy", embeddings())
    lines = ["path,label,split,group,query,gallery"]
    for row, name in enumerate(NAMES):
        split = ("train", "val", "test")[row % 3]
        (tmp_path / f"{row}.jpg").touch()
        lines.append(f"{row}.jpg,{name},{split},camera-{row % 4},{int(row % 2 == 1)},1")
    (tmp_path / "all.csv").write_text("\n".join(lines))
    data = build("dataset", "features", "test", root=str(tmp_path / "rows.npy"), labels=str(tmp_path / "all.csv"))
    rows = np.arange(2, len(NAMES), 3)
    assert data.labels.tolist() == (rows // EACH).tolist()
    assert data.groups.tolist() == (rows % 4).tolist()
    assert data.is_query.tolist() == (rows % 2 == 1).tolist()
    assert data.names[0] == str(tmp_path / "2.jpg")


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("splits.parquet", ["split"]),
        ("splits.parquet", ["path", "splits"]),
        ("splits.parquet", ["path", "label", "split"]),
        ("splits.csv", ["path", "label", "split"]),
    ],
)
def test_splits_lie_in_a_parquet_file_or_a_table_of_their_own(tmp_path, name, columns):
    given = [("train", "val", "test")[row % 3] for row in range(len(NAMES))]
    held = {"split": given, "splits": given, "path": PATHS, "label": NAMES.tolist()}
    table, rows = pa.table({column: held[column] for column in columns}), np.arange(2, len(NAMES), 3)
    (pq.write_table if name.endswith(".parquet") else pa.csv.write_csv)(table, tmp_path / name)
    np.savez(tmp_path / "rows.npz", embeddings=embeddings(), labels=NAMES)
    beside = {"root": str(tmp_path / "rows.npz"), "splits": str(tmp_path / name)}
    assert build("dataset", "features", "test", **beside).names == [f"{tmp_path}/rows.npz/{row}" for row in rows]


def test_a_table_without_splits_gives_none(tmp_path):
    np.savez(tmp_path / "rows.npz", embeddings=embeddings(), labels=NAMES)
    (tmp_path / "all.csv").write_text("path,label\n" + "".join(f"{path},x\n" for path in PATHS))
    with pytest.raises(
        DataError, match=r"all.csv: the table has no image in val or test\n  help: name them in a column"
    ):
        build("dataset", "features", "test", root=str(tmp_path / "rows.npz"), splits=str(tmp_path / "all.csv"))


def test_unknown_labels_stay_in_train(tmp_path):
    numbers = np.arange(len(NAMES)) // EACH
    numbers[::7] = -3
    np.savez(tmp_path / "all.npz", embeddings=embeddings(), labels=numbers)
    data = build("dataset", "features", "train", root=str(tmp_path / "all.npz"))
    assert sum(data.labels == -1) == len(numbers[::7])
    assert (data.with_split("test").labels >= 0).all()


def test_groups_lie_beside_the_rows(tmp_path):
    cameras = np.arange(len(NAMES)) % 3
    np.savez(tmp_path / "all.npz", embeddings=embeddings(), labels=NAMES, groups=cameras)
    data = build("dataset", "features", "train", root=str(tmp_path / "all.npz"))
    rows = [int(Path(name).name) for name in data.names]
    assert data.groups.tolist() == cameras[rows].tolist()


def test_rows_of_one_item_never_find_each_other(tmp_path):
    splits = np.where(np.arange(len(NAMES)) % EACH < 4, "train", "test")
    z = embeddings().repeat(2, 0)  # each thing twice
    arrays = {"embeddings": z, "labels": NAMES.repeat(2), "splits": splits.repeat(2)}
    items = -7 * np.arange(len(NAMES)).repeat(2)  # any numbers
    np.savez(tmp_path / "twice.npz", **arrays, items=items)
    np.savez(tmp_path / "apart.npz", **arrays)
    test, apart = (
        build("dataset", "features", "test", root=str(tmp_path / f"{name}.npz")) for name in ("twice", "apart")
    )
    assert test.items.tolist() == items[splits.repeat(2) == "test"].tolist()
    assert test.fingerprint != apart.fingerprint
    settings = EmbeddingSettings(build("views", "plain", size=8), torch.device("cpu"), 64, "float32")
    embedded = embed(lambda images: Embedded(images.flatten(1), images.flatten(1)), test, settings).h
    scores = build("evaluator", "retrieval")(embedded, embedded)
    unit = torch.nn.functional.normalize(torch.from_numpy(z[splits.repeat(2) == "test"]).double())
    same = torch.from_numpy(test.items[:, None] == test.items)
    nearest = (unit @ unit.T).masked_fill(same, -2).argmax(1)
    right = test.labels[nearest.numpy()] == test.labels
    assert scores["r_at_1"].value == pytest.approx(right.mean(), abs=1e-12)
    assert right.mean() < 1


def test_categories_lie_beside_the_rows(tmp_path):
    pq.write_table(
        pa.table({"embedding": list(embeddings()), "label": NAMES, "category": [name[-1] for name in NAMES]}),
        tmp_path / "all.parquet",
    )
    data = build("dataset", "features", "train", root=str(tmp_path / "all.parquet"))
    assert [str(code) for code in data.categories] == [data.classes[label][-1] for label in data.labels]


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"labels": NAMES[1:]}, r"there are 119 labels for the 120 embeddings of .*all.npz\n.*one for each row"),
        ({"splits": np.repeat("train", 9)}, r"there are 9 splits for the 120 embeddings of .*all.npz\n.*one for each"),
        (
            {"splits": np.repeat("valid", 120)},
            r"all.npz: the split 'valid' of row 0 is none of train, val, test\n.*name",
        ),
        ({"embeddings": embeddings() * np.nan}, r"all.npz: 120 of 120 embeddings are not finite, the first is row 0\n"),
        (
            {"embeddings": embeddings().astype(int)},
            r"all.npz: embeddings are int64, not floating-point numbers\n.*store",
        ),
        ({"labels": np.repeat("cat", 120)}, r"all.npz: all images are of one class, 'cat'\n"),
        ({"labels": np.repeat("nan", 120)}, r"all.npz: the label 'nan' of row 0 is a missing value and no class\n"),
        (
            {"splits": np.repeat("train", 120), "test": 0.0},
            r"all.npz: the split 'test' has no image\n.*raise data.test",
        ),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, changed, message):
    arrays = {"embeddings": embeddings(), "labels": NAMES, **changed}
    parameters = {key: arrays.pop(key) for key in ("test",) if key in arrays}
    np.savez(tmp_path / "all.npz", **arrays)
    with pytest.raises(DataError, match=message):
        build("dataset", "features", "test", root=str(tmp_path / "all.npz"), **parameters)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(DataError, match=r"nowhere.npz is not there"):
        build("dataset", "features", "train", root=str(tmp_path / "nowhere.npz"))
    recipe = head_on(tmp_path / "nowhere.npz")
    assert [note.partition(": ")[0] for note in rehearse(recipe).notes] == [
        "the data are not here, and what depends on them is not checked"
    ]
    assert rehearse(recipe).problems == []


def test_it_keeps_what_every_data_set_keeps(written):
    for check in component_checks("dataset", "features", {"root": str(written)}):
        check.run()


def refusal(recipe) -> str:
    (problem,) = rehearse(recipe).problems
    assert isinstance(problem, RecipeError)
    with pytest.raises(RecipeError, match="features"):
        assemble(recipe, load_splits(recipe).train)
    return f"{problem.message}\n  help: {problem.help}"


def test_what_needs_images_is_refused_before_the_first_step(written):
    has = "data set 'features' has features in place of images\n  help: "
    assert refusal(head_on(written, "views.name=simclr")) == (
        f"views 'simclr' are made of images, and {has}leave out [views], or set views.name = \"plain\""
    )
    assert refusal(head_on(written, "encoder={name='pixels'}")) == (
        f"encoder 'pixels' takes images, and {has}set encoder.name = \"features\" and encoder.out_features = 16, and "
        "leave out its other keys"
    )
    assert refusal(head_on(written, "encoder={name='features', out_features=15}")) == (
        "encoder 'features' takes rows of 15 numbers, not of 16\n  help: set encoder.out_features = 16"
    )
    robustness = head_on(written, "evaluate=[{name='retrieval'}, {name='robustness'}]")
    assert refusal(robustness) == f"evaluator 'robustness' measures by images, and {has}leave it out"
    with pytest.raises(RecipeError, match=r"'transfer' embeds images, and data set 'features' has features in place"):
        build("evaluator", "transfer", data={"name": "features", "root": str(written)})


def test_images_are_no_rows(tmp_path):
    message = r"'features' takes rows of 16 numbers, not images of 8 x 8\n.*data.name = \"features\", or name"
    recipe = tiny(tmp_path, "encoder={name='features', out_features=16}", "views={name='plain', size=8}")
    with pytest.raises(RecipeError, match=message):
        assemble(recipe, load_splits(recipe).train)


def test_the_recipe_runs_and_is_held_against_the_features(written, tmp_path):
    recipe = head_on(written)
    run(recipe, tmp_path / "run")
    result = json.loads((tmp_path / "run" / "result.json").read_text())
    assert list(result["baselines"]) == ["frozen", "frozen_pca", "frozen_whitened"]
    data = build("dataset", "features", "test", root=str(written), disjoint=True)
    z = torch.nn.functional.normalize(data.images(np.arange(len(data.labels))).pixels[:, :, 0, 0].double())
    nearest = (z @ z.T).fill_diagonal_(-2).argmax(1)
    right = float((torch.from_numpy(data.labels)[nearest] == torch.from_numpy(data.labels)).double().mean())
    assert result["baselines"]["frozen"]["retrieval"]["r_at_1"] == pytest.approx(right, abs=1e-12)
    assert result["metrics"]["retrieval-h"] == pytest.approx(result["baselines"]["frozen"]["retrieval"], abs=1e-12)
    write_report([tmp_path / "run"], tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert "frozen encoder" in page
    assert "data:image/" not in page
    assert check_data(recipe).fine
    done = CliRunner().invoke(main, ["embed", str(tmp_path / "run"), str(written), "-o", str(tmp_path / "z.npy")])
    assert f"{len(NAMES)} rows x 4 dimensions written" in done.output, done.output
    with torch.no_grad():
        expected = load(tmp_path / "run").network(torch.from_numpy(embeddings())[:, :, None, None]).z
    assert np.load(tmp_path / "z.npy") == pytest.approx(expected.numpy(), abs=1e-6)
    assert (tmp_path / "z.paths.txt").read_text().splitlines() == PATHS
    done = CliRunner().invoke(main, ["embed", str(tmp_path / "run"), str(tmp_path), "-o", str(tmp_path / "z.npy")])
    assert "this run embeds features, which lie in one file" in done.output


def test_a_head_gives_what_it_gives_on_the_cached_features_of_images(tmp_path):
    """Bit for bit, where both begin with the same head: every loss, and the head in the end."""
    method = ("method.name=sxbm", "head={name='linear', embedding_dim=4}", "memory={name='features', size=64}")
    settings = (*method, "loss={name='supcon'}", "views={name='plain', size=8}", "data.per_class=12", "train.output=z")
    on_images = tiny(tmp_path, *settings, "encoder.trainable=none", "train.evaluation_batch_size=32")
    splits = load_splits(on_images)
    images = assemble(on_images, splits.train)
    parts, labels, of_split = [], [], []
    with evaluating(images.method) as encode:
        for split in ("train", "val", "test"):
            data = getattr(splits, split)
            embedded = embed_batches(encode, data, np.arange(len(data.labels)), embedding_settings(images))
            parts += [batch.h.numpy() for batch in embedded]
            labels += data.labels.tolist()
            of_split += [split] * len(data.labels)
    rows, arrays = np.concatenate(parts), {"labels": np.array(labels), "splits": np.array(of_split)}
    np.savez(tmp_path / "rows.npz", embeddings=rows, **arrays)
    data = f"data={{name='features', root='{tmp_path / 'rows.npz'}'}}"
    encoder = f"encoder={{name='features', out_features={rows.shape[1]}}}"
    on_features = tiny(tmp_path, *settings[:-2], data, encoder, "train.output=z", "train.evaluation_batch_size=32")
    features = assemble(on_features, load_splits(on_features).train)
    features.method.network.head.load_state_dict(images.method.network.head.state_dict())
    given, expected = ([step.loss for step in fit(with_features(training))] for training in (features, images))
    assert len(given) == 7
    assert torch.equal(torch.stack(given), torch.stack(expected))
    for one, other in zip(
        features.method.network.head.parameters(), images.method.network.head.parameters(), strict=True
    ):
        assert torch.equal(one, other)


def test_methods_that_embed_views_train_on_them_too(written, tmp_path):
    memory = "memory={name='ring', size=32}"
    run(head_on(written, "method.name=xbm", memory), tmp_path / "xbm")
    proxies = ("loss={name='proxy-anchor'}", "miner={name='none'}", "memory={name='proxies'}")
    run(head_on(written, *proxies), tmp_path / "proxies")
    for name in ("xbm", "proxies"):
        assert json.loads((tmp_path / name / "result.json").read_text())["metrics"]["retrieval"]["r_at_1"] > 0


def test_safetensors_of_others_need_no_paths(tmp_path):
    safetensors.numpy.save_file({"embeddings": embeddings()}, tmp_path / "rows.safetensors")
    (tmp_path / "labels.txt").write_text("".join(f"{name}\n" for name in NAMES))
    parameters = {"root": str(tmp_path / "rows.safetensors"), "labels": str(tmp_path / "labels.txt")}
    data = build("dataset", "features", "train", **parameters)
    assert len(data.labels) + len(data.with_split("val").labels) + len(data.with_split("test").labels) == len(NAMES)
