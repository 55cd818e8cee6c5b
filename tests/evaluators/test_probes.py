"""Both probes: the regression and the metrics against scikit-learn's, what is fitted and what is measured."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.covariance import ShrunkCovariance
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import precision_recall_fscore_support

from metriclab.core.rows import Rows, rows
from metriclab.errors import DivergedError
from metriclab.evaluators.probes import linear as linear_probe
from metriclab.evaluators.probes.classification import classification
from metriclab.evaluators.probes.discriminant import discriminant, moments
from metriclab.evaluators.probes.examples import divide, task
from metriclab.evaluators.probes.linear import LinearProbe, logistic_regression, predict
from metriclab.evaluators.probes.mlp import MLPProbe
from tests.evaluators.test_evaluation_memory import LargestTensor

PROBES = [LinearProbe(), MLPProbe(rounds=8, hidden=16, learning_rate=0.01)]


def clustered(n: int, classes: int, width: int = 6, noise: float = 0.5, seed: int = 0) -> Rows:
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(classes, width, generator=torch.Generator().manual_seed(9))
    labels = torch.arange(n) % classes
    return rows(centres[labels] + noise * torch.randn(n, width, generator=generator), labels)


@pytest.mark.parametrize("penalty", [1.0, 1e-2])
@pytest.mark.parametrize("cells", [2**21, 64])
def test_the_regression_is_that_of_scikit_learn(penalty, cells, monkeypatch):
    monkeypatch.setattr(linear_probe, "TILE_CELLS", cells)
    x, y = torch.randn(60, 4, dtype=torch.float64), torch.arange(60) % 3
    weights = logistic_regression(x, y, penalty, torch.zeros(5, 3, dtype=torch.float64), 500, 1e-8)
    model = LogisticRegression(C=1 / (penalty * 60), tol=1e-9, max_iter=2000).fit(x.numpy(), y.numpy())
    logits = x @ weights[:-1] + weights[-1]
    expected = torch.from_numpy(model.predict_proba(x.numpy()))
    torch.testing.assert_close(logits.softmax(1), expected, rtol=0, atol=1e-5)
    assert predict(weights, x).tolist() == model.predict(x.numpy()).tolist()


@pytest.mark.parametrize("closed", [False, True])
def test_macro_and_class_metrics_are_those_of_scikit_learn(closed):
    queries = clustered(70, 5, noise=1.5)
    gallery = clustered(50, 5, noise=1.5, seed=1) if closed else queries
    drawn = torch.from_numpy(np.random.default_rng(0).integers(0, 5, 200))

    def guess(examples, classes):
        return lambda x: drawn[: len(x)]

    scores = classification(queries, gallery, guess, 1.0, "guessed (guess/1).")
    made = task(queries, gallery, 1.0)
    true, guessed = made.y.numpy(), drawn[: len(made.y)].numpy()
    expected = precision_recall_fscore_support(true, guessed, labels=np.unique(true), zero_division=0)
    for name, values in zip(("precision", "recall", "f1"), expected[:3], strict=True):
        assert list(scores[name].per_class.values()) == pytest.approx(list(values))
        assert scores[name].value == pytest.approx(values.mean())
    assert scores["accuracy"].value == pytest.approx((true == guessed).mean())
    assert scores["accuracy"].per_query.shape == (70,)
    assert len(made.y) == (70 if closed else 35)


@pytest.mark.parametrize("probe", PROBES, ids=["linear", "mlp"])
class TestEveryProbe:
    def test_separable_classes_are_told_apart(self, probe):
        both = clustered(120, 4, noise=0.05)
        scores = probe(both, both)
        assert scores["accuracy"].value == scores["f1"].value == 1
        assert int(scores["accuracy"].per_query.isnan().sum()) == 60

    def test_a_constant_model_scores_chance(self, probe):
        labels = torch.arange(80) % 4
        both = rows(torch.ones(80, 3), labels)
        assert probe(both, both)["accuracy"].value == pytest.approx(1 / 4)

    def test_the_order_of_rows_changes_nothing(self, probe):
        both = clustered(90, 4, noise=1.0)
        order = torch.randperm(90)
        shuffled = both[order]
        one, other = probe(both, both), probe(shuffled, shuffled)
        for name, score in one.items():
            assert score.value == pytest.approx(other[name].value, abs=1e-6)
            assert score.per_class == pytest.approx(other[name].per_class, abs=1e-6)
        before = one["accuracy"].per_query[order]
        torch.testing.assert_close(before, other["accuracy"].per_query, equal_nan=True)

    def test_lone_and_unknown_queries_are_left_out_and_counted(self, probe):
        z = torch.randn(11, 3)
        both = rows(z, torch.tensor([0] * 4 + [1] * 4 + [7, -1, -1]))
        scores = probe(both, both)
        assert scores["queries_without_matches"].value == 1
        assert scores["accuracy"].per_query[8:].isnan().all()
        assert scores["queries_without_matches"].per_query[-2:].isnan().all()
        closed = probe(rows(z.clone(), torch.tensor([0] * 4 + [1] * 4 + [7, -1, -1])), both[:8])
        assert closed["queries_without_matches"].value == 1
        assert int(closed["accuracy"].per_query.isnan().sum()) == 3

    def test_labels_are_exact_integers(self, probe):
        small = clustered(40, 3, noise=0.1)
        labels = torch.tensor([2**62, 2**62 + 1, 2**24])[small.labels]
        large = Rows(small.z, labels, small.items, small.ids, small.views)
        scores = probe(large, large)
        assert scores["accuracy"].value == 1
        assert list(scores["f1"].per_class) == [2**24, 2**62, 2**62 + 1]

    def test_broken_features_are_named(self, probe):
        both = rows(torch.tensor([[1.0, 0.0], [torch.nan, 0.0]]), torch.tensor([0, 0]))
        with pytest.raises(DivergedError, match="1 of 2 embeddings of the queries are not finite"):
            probe(both, both)

    @pytest.mark.parametrize("labels", [[], [-1, -1], [0, 1, 2]])
    def test_nothing_to_fit_gives_no_number(self, probe, labels):
        both = rows(torch.randn(len(labels), 3), torch.tensor(labels, dtype=torch.int64))
        scores = probe(both, both)
        assert all(math.isnan(scores[name].value) for name in ("accuracy", "precision", "recall", "f1"))
        assert scores["queries_without_matches"].value == sum(label >= 0 for label in labels)

    def test_one_class_is_always_right(self, probe):
        both = rows(torch.randn(6, 3), torch.zeros(6).long())
        assert probe(both, both)["accuracy"].value == 1

    def test_the_generator_of_the_run_is_left_alone(self, probe):
        before = torch.get_rng_state()
        probe(clustered(40, 2), clustered(40, 2, seed=3))
        assert torch.equal(before, torch.get_rng_state())

    def test_every_score_says_how_it_is_defined(self, probe):
        both = clustered(20, 2)
        for score in probe(both, both).values():
            assert score.definition.endswith("-probe/1).")
            assert "two halves by a hash of the item" in score.definition


def test_both_halves_have_every_class_and_no_item_twice():
    both = clustered(50, 7)
    twice = Rows(*(torch.cat([part, part]) for part in (both.z, both.labels, both.items, both.ids, both.views)))
    first, second = divide(twice, twice)
    assert torch.equal(first, ~second)
    assert not torch.isin(twice.items[first], twice.items[second]).any()
    for label in range(7):
        a, b = (int((half & (twice.labels == label)).sum()) for half in (first, second))
        assert 0 <= a - b <= 2


@pytest.mark.parametrize(("share", "expected"), [(1.0, 100), (0.1, 10), (0.01, 1)])
def test_few_labels_are_a_share_of_each_class_and_at_least_one(share, expected):
    gallery = clustered(300, 3)
    made = task(clustered(30, 3), gallery, share)
    assert torch.bincount(made.fit.y).tolist() == [expected] * 3
    held = {100: 20, 10: 2, 1: 0}[expected]
    assert torch.bincount(made.fit.y[made.fit.inner], minlength=3).tolist() == [held] * 3


def test_embeddings_are_standardised_by_the_fitted_rows_alone():
    made = task(clustered(30, 3), clustered(90, 3, seed=1), 1.0)
    torch.testing.assert_close(made.fit.x.mean(0), torch.zeros(6), atol=1e-5, rtol=0)
    torch.testing.assert_close(made.fit.x.std(0, correction=0), torch.ones(6))
    assert float(made.x.mean(0).abs().max()) > 1e-3


@pytest.mark.parametrize("share", [1.0, 0.01])
def test_fewer_labels_do_worse(share):
    queries, gallery = clustered(200, 4, noise=1.2, seed=2), clustered(400, 4, noise=1.2, seed=3)
    full, few = (LinearProbe(labels=labels)(queries, gallery)["accuracy"].value for labels in (1.0, 0.01))
    assert few < full


def test_no_tensor_has_rows_times_classes(monkeypatch):
    n, classes, cells = 600, 200, 2**12
    monkeypatch.setattr(linear_probe, "TILE_CELLS", cells)
    both = rows(torch.randn(n, 4), torch.arange(n) % classes)
    with LargestTensor() as largest:
        LinearProbe(iterations=3)(both, both)
    assert largest.bytes <= 16 * cells
    assert largest.bytes < n // 2 * classes


def test_the_network_has_two_hidden_layers_of_128_and_drops_a_fifth():
    layers = list(MLPProbe()._network(7, 3))
    assert [(layer.in_features, layer.out_features) for layer in layers[::3]] == [(7, 128), (128, 128), (128, 3)]
    assert [layer.p for layer in layers[2::3]] == [0.2, 0.2]


def test_the_network_tells_what_no_line_can():
    x = torch.rand(600, 2) * 2 - 1
    labels = (x[:, 0] * x[:, 1] > 0).long()
    both = rows(torch.cat([x, 0.3 * torch.ones(600, 1)], 1), labels)
    linear, network = (probe(both, both)["accuracy"].value for probe in (LinearProbe(), MLPProbe()))
    assert linear < 0.7
    assert network > 0.9


@pytest.mark.parametrize("shrinkage", [0.0, 0.3, 1.0])
def test_the_analysis_is_the_most_probable_of_normal_classes(shrinkage):
    examples = clustered(90, 3, noise=1.0)
    x, y = examples.z.double(), examples.labels
    around = x - torch.stack([x[y == label].mean(0) for label in range(3)])[y]
    covariance = ShrunkCovariance(shrinkage=shrinkage, assume_centered=True).fit(around.numpy()).covariance_
    means = np.stack([x[y == label].numpy().mean(0) for label in range(3)])
    expected = np.stack([multivariate_normal(mean, covariance).logpdf(x.numpy()) for mean in means], 1) + np.log(1 / 3)
    weights = discriminant(moments(x, y, 3), shrinkage)
    logits = (x @ weights[:-1] + weights[-1]).numpy()
    # Both up to what a row adds to all of its classes.
    np.testing.assert_allclose(logits - logits[:, :1], expected - expected[:, :1], atol=1e-8)


def test_classes_without_any_spread_go_to_the_nearest_mean():
    x, y = torch.eye(3, dtype=torch.float64), torch.arange(3)
    near = x + 0.2 * torch.rand(3, 3, dtype=torch.float64)
    assert predict(discriminant(moments(x, y, 3), 0.1), near).tolist() == [0, 1, 2]


class TestBeyondMostCells:
    """Many rows of many classes, made of few by lowering the bound."""

    @pytest.fixture(autouse=True)
    def _low(self, monkeypatch):
        monkeypatch.setattr(linear_probe, "MOST_CELLS", 100)

        def no_iterations(*given):
            raise AssertionError("this would take hours")

        monkeypatch.setattr(linear_probe, "logistic_regression", no_iterations)

    def test_it_takes_no_iterations_and_tells_classes_apart(self):
        both = clustered(400, 20, noise=0.1)
        assert LinearProbe()(both, both)["accuracy"].value == 1

    def test_it_is_about_as_good_as_the_regression(self, monkeypatch):
        queries, gallery = clustered(300, 6, noise=1.0, seed=2), clustered(300, 6, noise=1.0, seed=3)
        closed_form = LinearProbe()(queries, gallery)["accuracy"].value
        monkeypatch.undo()
        assert closed_form == pytest.approx(LinearProbe()(queries, gallery)["accuracy"].value, abs=0.05)

    @pytest.mark.filterwarnings("ignore:the gallery is a copy")
    def test_a_row_a_class_and_constant_rows_are_no_trouble(self):
        alone = rows(torch.eye(20), torch.arange(20))
        assert LinearProbe()(alone, rows(torch.eye(20), torch.arange(20)))["accuracy"].value == 1
        both = rows(torch.ones(80, 3), torch.arange(80) % 4)
        assert LinearProbe()(both, both)["accuracy"].value == pytest.approx(1 / 4)

    def test_the_order_of_rows_changes_nothing(self):
        both = clustered(90, 4, noise=1.0)
        shuffled = both[torch.randperm(90)]
        one, other = (LinearProbe()(side, side)["accuracy"].value for side in (both, shuffled))
        assert one == other

    def test_its_definition_says_so(self):
        both = clustered(90, 4)
        assert "by linear discriminant analysis in place of it" in LinearProbe()(both, both)["accuracy"].definition
