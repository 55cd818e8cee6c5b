"""Costs, the PCA baseline, and evaluators that want the encoder, in runs."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from sklearn.decomposition import PCA
from torch import nn

from metriclab.assembly.assemble import assemble, build_evaluators
from metriclab.assembly.splits import benchmark, load_splits
from metriclab.cli import main
from metriclab.core.network import Embedded
from metriclab.errors import RecipeError
from metriclab.evaluation.baselines import pca_of_pixels, raw_pixels
from metriclab.evaluation.efficiency import Peaks, Stopwatch, flops_per_image
from metriclab.evaluation.embed import embedding_settings
from metriclab.recipe import read_recipe
from metriclab.recipe.problems import RecipeProblems
from metriclab.recipe.schema import schema
from metriclab.registry import build
from metriclab.runs.folder import RunFolder
from tests.support.tiny import TINY, run, tiny

PROBES = """
[[evaluate]]
name = "linear-probe"

[[evaluate]]
name = "linear-probe"
as = "few-labels"
labels = 0.01

[[evaluate]]
name = "robustness"
corruptions = ["noise", "blur"]
severities = [1, 5]

[[evaluate]]
name = "transfer"
data = { name = "synthetic", size = 12, classes = 3, per_class = 4, seed = 5, disjoint = true }
"""


def with_probes(folder: Path, *overrides: str, more: str = PROBES):
    path = folder / "probes.toml"
    path.write_text(TINY + more)
    return read_recipe(path, overrides)


@pytest.fixture(scope="module")
def shown(tmp_path_factory) -> tuple[RunFolder, str]:
    """A run, and what its command showed."""
    folder = tmp_path_factory.mktemp("finished")
    with_probes(folder)
    arguments = ["run", str(folder / "probes.toml"), "--set", "train.steps=2", "--out", str(folder / "run")]
    done = CliRunner().invoke(main, arguments)
    assert done.exit_code == 0, done.output
    return RunFolder(folder / "run"), done.output


@pytest.fixture(scope="module")
def finished(shown) -> RunFolder:
    return shown[0]


def test_operations_are_those_of_the_layers(tmp_path):
    training = assemble(recipe := tiny(tmp_path, "train.steps=0", "method.name=simclr"), load_splits(recipe).train)
    network = nn.Sequential(nn.Conv2d(3, 5, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(5 * 64, 7))

    def encode(images: torch.Tensor) -> Embedded:
        features = network(images)
        return Embedded(features, features)

    expected = 2 * (8 * 8 * 5 * 3 * 9) + 2 * (5 * 64 * 7)
    assert flops_per_image(encode, training) == expected
    assert flops_per_image(raw_pixels, training) == 0


def test_a_stopwatch_and_peaks_measure_something():
    device = torch.device("cpu")
    with Stopwatch(device) as watch:
        pass
    assert watch.seconds > 0
    assert Peaks(device).gpu is None
    assert Peaks(device).process > 1


@pytest.mark.parametrize("embedding_dim", [5, 10_000])
def test_pca_is_that_of_scikit_learn(tmp_path, embedding_dim):
    recipe = tiny(tmp_path, "train.steps=0")
    splits = load_splits(recipe)
    training = assemble(recipe, splits.train)

    def raw(split):
        view = training.views.test(split.images(np.arange(len(split.labels))))
        return view, raw_pixels(view).h.double().numpy()

    (_, train), (view, test) = raw(splits.train), raw(splits.test)
    projected = pca_of_pixels(splits.train, embedding_settings(training), embedding_dim)(view).h
    model = PCA(min(embedding_dim, *train.shape)).fit(train)
    expected = torch.from_numpy(model.transform(test)).float()
    # Up to the sign of each axis, and what no training image has is of no interest.
    shown = projected.flip(1)[:, : expected.shape[1]].abs()
    torch.testing.assert_close(shown[:, :5], expected.abs()[:, :5], rtol=1e-3, atol=1e-3)
    assert projected.shape[1] == min(embedding_dim, train.shape[1])


def test_the_costs_stand_beside_the_quality(finished):
    cost = finished.result()["cost"]
    assert cost["flops_per_image"] > 10_000
    assert cost["embedded_per_second"] > 0


def test_evaluators_of_one_name_are_told_apart(finished):
    result = finished.result()
    assert set(result["metrics"]) == {
        *("retrieval", "linear-probe", "few-labels", "robustness", "transfer"),
        *("retrieval-z", "linear-probe-z", "few-labels-z"),
    }
    assert "0.01 of each class" in result["definitions"]["few-labels"]["accuracy"]
    assert result["fingerprint"]["evaluate"]["few-labels"]["name"] == "linear-probe"


def test_evaluators_that_want_the_encoder_are_left_out_on_val(finished):
    lines = [json.loads(line) for line in finished.metrics_file.read_text().splitlines()]
    measured = {key.split(".")[1] for line in lines for key in line if key.startswith("val.")}
    assert measured == {"loss", "retrieval", "linear-probe", "few-labels"}


def test_robustness_and_transfer_are_measured_for_every_baseline(finished):
    result = finished.result()
    for part in (result["metrics"], *result["baselines"].values()):
        assert {"clean", "corrupted", "relative_drop", "noise_1", "blur_5"} <= set(part["robustness"])
        assert 0 <= part["transfer"]["map_at_r"] <= 1


def test_corrupted_embeddings_are_those_of_the_test_split(finished):
    kept, scores = finished.scores(), finished.result()["metrics"]["robustness"]
    for name in ("clean", "corrupted"):
        by_query = kept[f"robustness.{name}"]
        assert by_query.shape == (128,)
        assert float(by_query.nanmean()) == pytest.approx(scores[name], abs=1e-6)


def test_classes_have_their_own_scores(finished):
    scores, metrics = finished.scores(), finished.result()["metrics"]
    assert scores["classes"].tolist() == list(range(8))
    for name in ("precision", "recall", "f1"):
        by_class = scores[f"linear-probe.{name}.per_class"]
        assert by_class.shape == (8,)
        assert float(by_class.nanmean()) == pytest.approx(metrics["linear-probe"][name], abs=1e-6)
    assert "linear-probe.f1" not in scores


def test_other_data_are_part_of_the_fingerprint(tmp_path):
    digests = set()
    for seed in (5, 6):
        more = PROBES.replace("seed = 5", f"seed = {seed}")
        recipe = with_probes(tmp_path, more=more)
        found = benchmark(recipe, load_splits(recipe), build_evaluators(recipe))
        digests.add(found["evaluate"]["transfer"]["fingerprint"]["test"])
    assert len(digests) == 2


def test_a_recipe_with_labels_reads_back_equal(tmp_path):
    recipe = with_probes(tmp_path)
    again = tmp_path / "again.toml"
    again.write_text(recipe.to_toml())
    assert read_recipe(again).as_dict() == recipe.as_dict()
    assert recipe.as_dict()["evaluate"][2]["as"] == "few-labels"


def test_editors_know_labels():
    tables = schema()["properties"]
    assert all("as" in one["properties"] for one in tables["evaluate"]["items"]["oneOf"])
    assert not any("as" in one["properties"] for one in tables["track"]["items"]["oneOf"])


@pytest.mark.parametrize(
    ("label", "said"),
    [
        ('"few labels"', 'as = "few labels" is no name for results'),
        ('"probe-z"', 'as = "probe-z" is no name for results'),
        ("3", "as = 3 is no name for results"),
        ('"retrieval"', "evaluator 'retrieval' is there twice, first on line"),
    ],
)
def test_a_label_that_results_cannot_have_is_refused(tmp_path, label, said):
    with pytest.raises(RecipeProblems, match=said):
        with_probes(tmp_path, more=f'\n[[evaluate]]\nname = "knn"\nas = {label}\n')


def test_the_best_checkpoint_cannot_be_chosen_by_what_val_does_not_have(tmp_path):
    with pytest.raises(RecipeProblems, match="names an evaluator that the recipe does not have"):
        with_probes(tmp_path, "train.select=robustness.corrupted")


def test_a_metric_that_is_not_there_ends_a_run_before_it_begins(tmp_path):
    with pytest.raises(RecipeError, match="evaluator 'retrieval' has no metric 'map_at_q'"):
        run(with_probes(tmp_path, "evaluate.3.metric=map_at_q"), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_the_command_shows_what_has_no_second_output(shown):
    assert "relative_drop" in shown[1]
    assert "few-labels" in shown[1]


def test_every_evaluator_can_be_built_from_its_defaults():
    for name in ("linear-probe", "mlp-probe", "clustering", "health", "robustness"):
        assert callable(build("evaluator", name))
