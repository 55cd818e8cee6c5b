"""The weighted vote against its definition, its ties, and whom it leaves out."""

from __future__ import annotations

import math
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.core.rows import Rows, rows
from metriclab.errors import DivergedError
from metriclab.evaluators.knn import KNN
from metriclab.ranking import keys as _ranking
from metriclab.ranking import neighbours as _neighbours
from metriclab.ranking import shortlist as _shortlist
from tests.support import ranking_reference as reference


def check(queries: Rows, gallery: Rows, k: int, temperature: float) -> None:
    expected = reference.vector(reference.knn(queries, gallery, k, temperature))
    for near, sampled in ((0, 16), (1e9, 16), (1e9, 1)):  # by sorting, and by looking at a few rows alone
        with patch.object(_neighbours, "LONGEST", near), patch.object(_shortlist, "SAMPLED", sampled):
            accuracy = KNN(k=k, temperature=temperature)(queries, gallery)["accuracy"]
        torch.testing.assert_close(accuracy.per_query, expected, equal_nan=True, rtol=0, atol=1e-9)
        assert accuracy.value == pytest.approx(float(expected.nanmean()), abs=1e-9, nan_ok=True)


points = st.lists(
    st.tuples(st.sampled_from([(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (-1.0, 1.0), (0.0, 0.0)]), st.integers(-1, 3)),
    min_size=1,
    max_size=12,
)


def from_points(drawn: list[tuple[tuple[float, float], int]]) -> Rows:
    vectors, labels = zip(*drawn, strict=True)
    return rows(torch.tensor(vectors), torch.tensor(labels))


@pytest.mark.filterwarnings("ignore:the gallery is a copy")
@settings(deadline=None, max_examples=80)
@given(points, points, st.integers(1, 14), st.sampled_from([0.07, 1.0]))
def test_the_vote_is_that_of_its_definition(queries, gallery, k, temperature):
    check(from_points(queries), from_points(gallery), k, temperature)
    both = from_points(queries)
    check(both, both, k, temperature)


@pytest.mark.parametrize("k", [1, 5, 200])
@pytest.mark.parametrize("temperature", [0.07, 0.5])
def test_without_ties(k, temperature):
    labels = torch.arange(60) % 5
    both = rows(torch.randn(5, 8)[labels] + torch.randn(60, 8), labels)
    check(both, both, k, temperature)
    check(rows(torch.randn(20, 8), torch.arange(20) % 5), both, k, temperature)


@pytest.mark.parametrize("cells", [1, 2**12])
def test_screening_a_large_gallery_finds_what_sorting_does(monkeypatch, cells):
    monkeypatch.setattr(_ranking, "TILE_CELLS", 8 * cells)
    monkeypatch.setattr(_ranking, "PART_CELLS", cells)
    labels = torch.arange(900) % 30 - 1
    # Some rows in many copies, whose queries have too many ties to look at.
    z = torch.where(torch.arange(900)[:, None] % 4 > 0, torch.randn(900, 6), torch.ones(1, 6))
    both = rows(z, labels, torch.arange(900) // 2)
    for queries in (both, both[:40]):
        screened = KNN(k=7)(queries, both)["accuracy"]
        with patch.object(_neighbours, "LONGEST", 0):
            sorted_ = KNN(k=7)(queries, both)["accuracy"]
        torch.testing.assert_close(screened.per_query, sorted_.per_query, equal_nan=True, rtol=0, atol=1e-12)


def test_a_constant_model_scores_chance():
    gallery = rows(torch.ones(40, 3), torch.arange(40) % 4)
    queries = rows(torch.ones(8, 3), torch.arange(8) % 4)
    assert KNN(k=7)(queries, gallery)["accuracy"].value == pytest.approx(1 / 4)


def test_a_low_temperature_does_not_overflow():
    gallery = rows(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.1]]), torch.tensor([0, 1, 1]))
    accuracy = KNN(temperature=1e-5)(rows(torch.tensor([[1.0, 0.0]]), torch.tensor([0])), gallery)
    assert accuracy["accuracy"].value == 1


def test_many_weak_votes_beat_one_strong_vote_at_a_high_temperature():
    gallery = rows(torch.tensor([[1.0, 0.0], [1.0, 0.1], [1.0, 0.1]]), torch.tensor([0, 1, 1]))
    query = rows(torch.tensor([[1.0, 0.0]]), torch.tensor([1]))
    assert KNN(temperature=1.0)(query, gallery)["accuracy"].value == 1
    assert KNN(k=1)(query, gallery)["accuracy"].value == 0


def test_unknown_labels_neither_vote_nor_ask():
    gallery = rows(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([-1, 0]))
    scores = KNN(k=1)(rows(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, -1])), gallery)
    assert scores["accuracy"].per_query[0] == 1
    assert scores["accuracy"].per_query[1].isnan()


def test_lone_queries_are_counted_and_left_out():
    both = rows(torch.eye(3), torch.tensor([0, 0, 1]))
    scores = KNN(k=1)(both, both)
    assert scores["queries_without_matches"].per_query.tolist() == [0, 0, 1]
    assert scores["queries_without_matches"].value == 1
    assert scores["accuracy"].per_query.isnan().tolist() == [False, False, True]


@pytest.mark.parametrize("cells", [1, 500])
def test_neither_tiles_nor_the_order_of_rows_matter(monkeypatch, cells):
    labels = torch.arange(80) % 7
    both = rows((torch.randn(7, 4)[labels] + torch.randn(80, 4)).round(), labels)
    whole = KNN(k=9)(both, both)["accuracy"]
    monkeypatch.setattr(_ranking, "TILE_CELLS", 3 * cells)
    monkeypatch.setattr(_ranking, "PART_CELLS", cells)
    order = torch.randperm(80)
    shuffled = both[order]
    tiled = KNN(k=9)(shuffled, shuffled)["accuracy"]
    torch.testing.assert_close(tiled.per_query, whole.per_query[order])


def test_broken_embeddings_are_refused():
    both = rows(torch.full((3, 2), torch.nan), torch.tensor([0, 0, 1]))
    with pytest.raises(DivergedError, match="3 of 3 embeddings of the queries are not finite"):
        KNN()(both, both)


@pytest.mark.parametrize(("queries", "gallery"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_measure_is_nan(queries, gallery):
    sides = (rows(torch.randn(n, 4), torch.zeros(n).long()) for n in (queries, gallery))
    scores = KNN()(*sides)
    assert math.isnan(scores["accuracy"].value)
    assert scores["queries_without_matches"].value == queries


def test_every_score_says_how_it_is_defined():
    both = rows(torch.eye(4), torch.tensor([0, 0, 1, 1]))
    scores = KNN(k=3, temperature=0.2)(both, both)
    assert "the 3 nearest gallery rows" in scores["accuracy"].definition
    assert "exp(cosine / 0.2)" in scores["accuracy"].definition
    for score in scores.values():
        assert score.definition.endswith("(knn/1).")
        assert (score.per_query.dtype, score.per_query.device.type) == (torch.float64, "cpu")
