"""Runs that start from loaded weights: what these are worth by themselves, and runs that end below it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from click.testing import CliRunner

from metriclab.assembly.assemble import assemble
from metriclab.assembly.splits import load_splits
from metriclab.cli import main
from metriclab.comparison.finished import find_runs
from metriclab.core.rows import rows as make_rows
from metriclab.evaluation.baselines import Projected, baselines
from metriclab.evaluation.embed import EmbeddedSplits, Embeddings, embed_splits, embedding_settings
from metriclab.evaluation.shortfall import shortfall
from metriclab.report.contents import OneRun
from metriclab.runs.folder import RunFolder
from tests.support.tiny import TINY, run, tiny

NAMES = ["raw_pixels", "pca", "frozen", "frozen_pca", "frozen_whitened"]


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    """A run that saved weights to start from."""
    folder = tmp_path_factory.mktemp("start")
    run(tiny(folder, "train.steps=3"), folder / "run")
    return folder / "run"


def columns(recipe):
    """The rows that each baseline of a run makes of the test split, and its training split by the frozen one."""
    splits = load_splits(recipe)
    training = assemble(recipe, splits.train)
    settings = embedding_settings(training)
    built = {name: build() for name, build in baselines(recipe, training, 32, 8)}
    test = {name: embed_splits(encode, splits.test, splits.test, settings) for name, encode in built.items()}
    train = embed_splits(built["frozen"], splits.train, splits.train, settings)
    return built, test, train.queries.h.z.double().numpy()


def cosines(rows):
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return unit @ unit.T


def test_the_columns_are_pca_and_whitened_pca_of_the_loaded_encoder(start, tmp_path):
    """Against numpy's singular values of the training features, in float64."""
    built, test, train = columns(tiny(tmp_path, f"encoder.weights={start}"))
    assert list(built) == NAMES
    h = test["frozen"].queries.h.z.double().numpy()
    mean = train.mean(0)
    _, singular, axes = np.linalg.svd(train - mean, full_matrices=False)
    deviations = singular[:8] / np.sqrt(len(train))
    projected = (h - mean) @ axes[:8].T
    for name, rows in (("frozen_pca", projected), ("frozen_whitened", projected / deviations)):
        found = test[name].queries.z.z.double().numpy()
        assert found.shape == (len(h), 8)
        np.testing.assert_allclose(cosines(found), cosines(rows), atol=2e-5)
        derived = built[name].splits(test["frozen"])
        assert derived.gallery is derived.queries
        assert torch.equal(derived.queries.h.items, test[name].queries.h.items)
        torch.testing.assert_close(derived.queries.h.z, test[name].queries.h.z, atol=1e-5, rtol=0)


def test_a_direction_without_variance_is_not_stretched(start, tmp_path):
    """More numbers asked for than the training images span: rounding must not become a feature."""
    recipe = tiny(tmp_path, f"encoder.weights={start}", "data.classes=4", "data.per_class=4")
    splits = load_splits(recipe)
    training = assemble(recipe, splits.train)
    built = {name: build() for name, build in baselines(recipe, training, 32, 10_000)}
    whitened = embed_splits(built["frozen_whitened"], splits.train, splits.train, embedding_settings(training))
    varied = (whitened.queries.z.z.square().mean(0) > 1e-10).sum()
    assert varied <= len(splits.train.labels) - 1


@pytest.mark.parametrize("output", ["h", "z"])
def test_a_run_from_loaded_weights_has_the_frozen_encoder_beside_it(output, start, tmp_path):
    run(tiny(tmp_path, f"encoder.weights={start}", "train.steps=1", f"train.output={output}"), tmp_path / "run")
    result = RunFolder(tmp_path / "run").result()
    assert result["missing"] == {}
    assert list(result["baselines"]) == NAMES
    as_it_was = RunFolder(start).result()["metrics"]["retrieval"]  # measured by h, which no head touches
    assert result["baselines"]["frozen"]["retrieval"]["map_at_r"] == pytest.approx(as_it_was["map_at_r"], abs=1e-6)


def test_without_loaded_weights_the_column_is_the_untrained_network(tmp_path):
    run(tiny(tmp_path, "train.steps=1"), tmp_path / "run")
    assert list(RunFolder(tmp_path / "run").result()["baselines"]) == ["raw_pixels", "pca", "untrained"]


def test_a_run_that_ends_below_the_frozen_encoder_says_so(start, tmp_path, monkeypatch):
    """Here it must: a head of one number leaves a sign."""
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "tiny.toml").write_text(TINY)
    sets = [f"encoder.weights={start}", "head.embedding_dim=1", "train.output=z", "train.steps=1"]
    arguments = [part for value in sets for part in ("--set", value)]
    done = CliRunner().invoke(main, ["run", str(tmp_path / "tiny.toml"), *arguments, "--out", str(tmp_path / "run")])
    assert done.exit_code == 0, done.output
    result = RunFolder(tmp_path / "run").result()
    assert "below_frozen" in result["warnings"]
    text = shortfall(result, "retrieval.map_at_r")
    value, frozen = (part["retrieval"]["map_at_r"] for part in (result["metrics"], result["baselines"]["frozen"]))
    assert text is not None
    assert text.startswith(
        f"this run ends below the encoder that it started from: retrieval.map_at_r is {value:.4f}, "
        f"that of the frozen encoder {frozen:.4f}"
    )
    assert f"warning: {text}\n" in done.stdout
    (finished,), _ = find_runs([tmp_path / "run"])
    notices = OneRun(finished, metric=None, images=False).opening().notices
    assert "The run gave warnings: below the frozen encoder." in notices
    assert f"{text[:1].upper()}{text[1:]}." in notices


@pytest.mark.parametrize(
    ("frozen", "text"),
    [
        ({}, None),
        ({"frozen": 0.5, "frozen_pca": 0.4}, None),
        ({"frozen": None, "frozen_pca": None}, None),
        (
            {"frozen": 0.51, "frozen_pca": 0.4, "frozen_whitened": 0.62},
            "this run ends below the encoder that it started from: knn.accuracy is 0.5000, that of the frozen encoder "
            "0.5100, its whitened PCA 0.6200",
        ),
    ],
)
def test_what_is_below(frozen, text):
    result = {
        "metrics": {"knn": {"accuracy": 0.5}},
        "baselines": {name: {"knn": {"accuracy": value}} for name, value in frozen.items()},
    }
    assert shortfall(result, "knn.accuracy") == text
    assert shortfall(result, "retrieval.map_at_r") is None


def test_a_projection_keeps_what_is_known_of_its_rows():
    z = torch.randn(6, 4)
    known = make_rows(z, [0, 0, 1, 1, 2, 2], groups=torch.arange(6), categories=torch.zeros(6, dtype=torch.int64))
    embedded = Embeddings(known, known)
    made = Projected(lambda images: None, lambda h: h[:, :2]).splits(EmbeddedSplits(embedded, embedded))
    assert torch.equal(made.queries.z.groups, known.groups)
    assert torch.equal(made.queries.z.categories, known.categories)
