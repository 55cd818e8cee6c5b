"""Mutual information against its definition, k-means on what it can and cannot find."""

from __future__ import annotations

import math
from collections import Counter

import numpy as np
import pytest
import torch

from metriclab.core.rows import Rows, rows
from metriclab.errors import DivergedError
from metriclab.evaluators import clustering
from metriclab.evaluators.clustering import Clustering, k_means


def nmi(classes: list[int], clusters: list[int]) -> float:
    """2 I(classes; clusters) / (H(classes) + H(clusters)), from counts."""
    n = len(classes)

    def entropy(values: list) -> float:
        return -sum(c / n * math.log(c / n) for c in Counter(values).values())

    one, other, both = (entropy(v) for v in (classes, clusters, list(zip(classes, clusters, strict=True))))
    return 2 * (one + other - both) / (one + other)


def clustered(n: int, classes: int, noise: float) -> Rows:
    labels = torch.arange(n) % classes
    return rows(torch.randn(classes, 5)[labels] + noise * torch.randn(n, 5), labels)


def test_the_normalised_information_is_that_of_its_definition():
    both = clustered(60, 4, 0.8)
    clusters = k_means(both.z.double().numpy(), 4)
    scores = Clustering()(both, both)
    assert scores["nmi"].value == pytest.approx(nmi(both.labels.tolist(), clusters.tolist()))
    assert 0 < scores["ami"].value < scores["nmi"].value < 1


def test_clusters_that_are_the_classes_score_one_and_chance_scores_zero():
    found = Clustering()(clustered(60, 4, 0.01), clustered(1, 1, 0))
    assert found["nmi"].value == pytest.approx(1)
    assert found["ami"].value == pytest.approx(1)
    drawn = Clustering()(both := rows(torch.randn(400, 5), torch.arange(400) % 20), both)
    assert abs(drawn["ami"].value) < 0.05 < drawn["nmi"].value


def test_the_order_of_rows_changes_nothing():
    both = clustered(80, 5, 0.8)
    shuffled = both[torch.randperm(80)]
    one, other = Clustering()(both, both), Clustering()(shuffled, shuffled)
    assert one["nmi"].value == pytest.approx(other["nmi"].value, abs=1e-6)


def test_a_constant_model_scores_zero():
    both = rows(torch.ones(20, 3), torch.arange(20) % 4)
    scores = Clustering()(both, both)
    assert scores["nmi"].value == pytest.approx(0)
    assert scores["ami"].value == pytest.approx(0)


@pytest.mark.parametrize("labels", [[], [-1, -1], [3, 3, 3], [0, 1, 2], [0, 0, -1]])
def test_where_there_is_no_class_to_find_there_is_no_number(labels):
    both = rows(torch.randn(len(labels), 3), torch.tensor(labels, dtype=torch.int64))
    assert all(math.isnan(score.value) for score in Clustering()(both, both).values())


def test_unknown_labels_are_left_out_and_large_ones_kept_apart():
    both = clustered(40, 3, 0.5)
    labels = torch.tensor([2**62, 2**62 + 1, 2**24])[both.labels]
    more = rows(torch.cat([both.z, torch.randn(5, 5)]), torch.cat([labels, torch.full((5,), -1)]))
    assert Clustering()(more, more)["nmi"].value == pytest.approx(Clustering()(both, both)["nmi"].value)


def test_large_sets_go_in_batches(monkeypatch):
    monkeypatch.setattr(clustering, "LARGE", 50)
    monkeypatch.setattr(clustering, "MANY", 3)
    both = clustered(120, 4, 0.05)
    first, second = (Clustering()(both, both)["nmi"].value for _ in range(2))
    assert first == second > 0.5


def test_broken_features_are_named():
    both = rows(torch.full((2, 2), torch.nan), torch.tensor([0, 0]))
    with pytest.raises(DivergedError, match="2 of 2 embeddings of the queries are not finite"):
        Clustering()(both, both)


def test_no_query_has_a_score_and_every_score_a_definition():
    both = clustered(20, 2, 0.1)
    for score in Clustering()(both, both).values():
        assert score.per_query.numel() == 0
        assert score.definition.endswith("(clustering/1).")
    assert isinstance(k_means(np.eye(4), 2), np.ndarray)
