"""Alignment, uniformity, effective rank and hubness against loops over their definitions."""

from __future__ import annotations

import math

import pytest
import torch
from scipy.stats import skew

from metriclab.core.rows import Rows, rows
from metriclab.errors import DivergedError
from metriclab.evaluators import health
from metriclab.evaluators.health import Health, alignment, effective_rank, occurrences, skewness, uniformity
from metriclab.ranking import keys as _ranking
from metriclab.ranking import neighbours as _neighbours
from tests.evaluators.test_evaluation_memory import LargestTensor
from tests.support.ranking_reference import candidates, vector


def squared_distance(both: Rows, i: int, j: int) -> float:
    return math.fsum((a - b) ** 2 for a, b in zip(both.z[i].tolist(), both.z[j].tolist(), strict=True))


def others(both: Rows, i: int) -> list[int]:
    return [j for j in range(len(both)) if both.items[j] != both.items[i]]


def alignment_of(both: Rows) -> torch.Tensor:
    found = []
    for i in range(len(both)):
        alike = [j for j in others(both, i) if both.labels[j] == both.labels[i] >= 0]
        found.append(math.fsum(squared_distance(both, i, j) for j in alike) / len(alike) if alike else math.nan)
    return vector(found)


def uniformity_of(both: Rows, t: float) -> float:
    terms = [math.exp(-t * squared_distance(both, i, j)) for i in range(len(both)) for j in others(both, i)]
    return math.log(math.fsum(terms) / len(terms))


def occurrences_of(queries: Rows, gallery: Rows, k: int) -> torch.Tensor:
    found = [0.0] * len(gallery)
    for query in range(len(queries)):
        ranked = sorted(((s, row) for s, _, row in candidates(queries, gallery, query)), reverse=True)
        if not ranked:
            continue
        last = ranked[: min(k, len(ranked))][-1][0]
        sure, tied = [row for s, row in ranked if s > last], [row for s, row in ranked if s == last]
        for row in sure:
            found[row] += 1
        for row in tied:
            found[row] += min(1.0, (k - len(sure)) / len(tied))
    return vector(found)


def drawn(n: int, *, repeats: bool = False, ties: bool = False) -> Rows:
    z = torch.randint(-1, 2, (n, 3)).float() if ties else torch.randn(n, 3)
    items = torch.arange(n) // 2 if repeats else torch.arange(n)
    return rows(z, torch.arange(n) // 2 % 4 - 1, items)


@pytest.mark.parametrize("repeats", [False, True])
@pytest.mark.parametrize("ties", [False, True])
@pytest.mark.parametrize("cells", [2**21, 8])
def test_the_figures_are_those_of_their_definitions(repeats, ties, cells, monkeypatch):
    monkeypatch.setattr(_ranking, "PART_CELLS", cells)
    monkeypatch.setattr(health, "PART_CELLS", cells)
    both = drawn(24, repeats=repeats, ties=ties)
    torch.testing.assert_close(alignment(both), alignment_of(both), equal_nan=True, rtol=0, atol=1e-6)
    assert uniformity(both, 2.0) == pytest.approx(uniformity_of(both, 2.0), abs=1e-6)
    gallery = drawn(9, ties=ties)
    for k, near in ((1, 0), (4, 0), (100, 0), (1, 1e9), (4, 1e9), (100, 1e9)):
        monkeypatch.setattr(_neighbours, "LONGEST", near)
        torch.testing.assert_close(occurrences(both, both, k), occurrences_of(both, both, k))
        torch.testing.assert_close(occurrences(both, gallery, k), occurrences_of(both, gallery, k))


def test_the_effective_rank_is_the_entropy_of_singular_values():
    z = torch.randn(30, 6, dtype=torch.float64) * torch.tensor([5, 3, 1, 0.1, 1e-3, 0])
    values = torch.linalg.svdvals(z)
    shares = [float(v / values.sum()) for v in values if v > 1e-12]
    assert effective_rank(z) == pytest.approx(math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-6)
    assert effective_rank(torch.eye(5)) == pytest.approx(5)
    assert effective_rank(torch.ones(50, 64) / 8) == pytest.approx(1, abs=1e-6)
    assert effective_rank(torch.zeros(4, 3)) == 0


def test_the_skewness_is_that_of_scipy():
    values = torch.rand(40, dtype=torch.float64) ** 3
    assert skewness(values) == pytest.approx(skew(values.numpy()))


def test_a_hub_is_seen():
    around = torch.randn(40, 30)
    hub = rows(torch.cat([around / 5 + 1, torch.ones(1, 30)]), torch.arange(41))
    even = rows(torch.eye(20), torch.arange(20))
    assert Health(k=2)(hub, hub)["hubness"].value > 3
    assert Health(k=2)(even, even)["hubness"].value == 0


def test_a_constant_model_is_aligned_and_collapsed():
    both = rows(torch.ones(20, 4), torch.arange(20) % 3)
    scores = {name: score.value for name, score in Health()(both, both).items()}
    expected = {"alignment": 0, "uniformity": 0, "effective_rank": 1, "hubness": 0}
    assert scores == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("n", [0, 1])
def test_without_a_pair_there_is_nothing_to_measure(n):
    both = rows(torch.ones(n, 3), torch.zeros(n).long())
    scores = Health()(both, both)
    assert math.isnan(scores["alignment"].value)
    assert math.isnan(scores["uniformity"].value)
    assert scores["effective_rank"].value == pytest.approx(n)


def test_an_empty_gallery_leaves_what_looks_at_queries_alone():
    queries = drawn(10)
    scores = Health()(queries, rows(torch.empty(0, queries.embedding_dim), torch.empty(0).long()))
    assert math.isnan(scores["hubness"].value)
    assert scores["alignment"].value == Health()(queries, queries)["alignment"].value


def test_the_order_of_rows_changes_nothing():
    both = drawn(30)
    order = torch.randperm(30)
    shuffled = both[order]
    one, other = Health(k=3)(both, both), Health(k=3)(shuffled, shuffled)
    for name, score in one.items():
        assert score.value == pytest.approx(other[name].value, abs=1e-6)


def test_large_labels_are_kept_apart():
    z = torch.randn(4, 3)
    small, large = (rows(z, torch.tensor(labels)) for labels in ([0, 0, 1, 1], [2**62, 2**62, 2**62 + 1, 2**62 + 1]))
    assert Health()(small, small)["alignment"].value == Health()(large, large)["alignment"].value


def test_broken_features_are_named():
    fine, broken = rows(torch.eye(2), torch.tensor([0, 0])), rows(torch.full((2, 2), torch.inf), torch.tensor([0, 0]))
    with pytest.raises(DivergedError, match="2 of 2 embeddings of the gallery are not finite"):
        Health()(fine, broken)


def test_no_tensor_outgrows_the_tile(monkeypatch):
    n, cells = 300, 2**12
    monkeypatch.setattr(_ranking, "TILE_CELLS", cells)
    monkeypatch.setattr(_ranking, "LEAST_HEIGHT", 1)
    monkeypatch.setattr(_ranking, "PART_CELLS", cells // 4)
    monkeypatch.setattr(health, "PART_CELLS", cells // 4)
    both = rows(torch.randn(n, 4), torch.arange(n) % 7)
    with LargestTensor() as largest:
        Health()(both, both)
    assert largest.bytes <= 8 * cells


def test_every_score_says_how_it_is_defined():
    both = drawn(10)
    for score in Health()(both, both).values():
        assert score.definition.endswith("(health/1).")
