"""Retrieval against its definitions, on ties, lone queries, unknown labels, and what other libraries get wrong."""

from __future__ import annotations

import math
from concurrent.futures import ThreadPoolExecutor
from unittest.mock import patch

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from metriclab.core.protocols import Score
from metriclab.core.rows import Rows, rows
from metriclab.errors import DivergedError
from metriclab.evaluators.knn import KNN
from metriclab.evaluators.retrieval import Retrieval
from metriclab.ranking import keys as _ranking
from metriclab.ranking import matches as _matches
from metriclab.ranking import screening as _screening
from metriclab.ranking import shortlist as _shortlist
from metriclab.ranking import sorting as _sorting
from metriclab.ranking.workers import ieee_products
from tests.support import ranking_reference as reference

DEPTHS = (1, 2, 3, 5, 20)
retrieval = Retrieval(k=DEPTHS, mrr_k=DEPTHS)
METRICS = sorted(retrieval.definitions)


of_the_best = Retrieval(k=DEPTHS, mrr_k=DEPTHS, whole_ranking=False)


def all_ways(queries: Rows, gallery: Rows) -> list[dict[str, Score]]:
    """By sorting, in blocks or not, and by looking near the matches alone; whole rankings, and the best rows."""
    sorting = []
    for a_label in (0, 10**9):
        with patch.object(_matches, "FEW", 0), patch.object(_sorting, "_QUERIES_A_LABEL", a_label):
            sorting += [evaluator(queries, gallery) for evaluator in (retrieval, of_the_best)]
    with patch.object(_matches, "FEW", 10**6), patch.object(_screening, "LONGEST", 1e9):
        return [*sorting, *(evaluator(queries, gallery) for evaluator in (retrieval, of_the_best))]


def check(queries: Rows, gallery: Rows) -> None:
    expected = reference.retrieval(queries, gallery, DEPTHS)
    for scores in all_ways(queries, gallery):
        assert set(scores) in (
            {*expected, "queries_without_matches"},
            {*expected, "queries_without_matches"} - {"map", "mrr"},
        )
        for name in scores.keys() & expected.keys():
            per_query = reference.vector(expected[name])
            torch.testing.assert_close(scores[name].per_query, per_query, equal_nan=True, rtol=0, atol=1e-9, msg=name)
            assert scores[name].value == pytest.approx(float(per_query.nanmean()), abs=1e-9, nan_ok=True)


def classes(n: int, count: int, width: int = 16, noise: float = 1.0) -> Rows:
    labels = torch.arange(n) % count
    return rows(torch.randn(count, width)[labels] + noise * torch.randn(n, width), labels)


# Few directions and few labels: ties within and between classes, lone queries, unknown labels, items seen twice.
points = st.lists(
    st.tuples(st.sampled_from([(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (2.0, 1.0), (0.0, 0.0)]), st.integers(-1, 3)),
    min_size=1,
    max_size=9,
)


def from_points(drawn: list[tuple[tuple[float, float], int]], items: list[int] | None = None) -> Rows:
    vectors, labels = zip(*drawn, strict=True)
    return rows(torch.tensor(vectors), torch.tensor(labels), None if items is None else torch.tensor(items))


@settings(deadline=None, max_examples=60)
@given(points, st.data())
def test_leave_one_out_is_the_average_over_all_orders_of_ties(drawn, data):
    items = data.draw(st.lists(st.integers(0, 12), min_size=len(drawn), max_size=len(drawn)))
    both = from_points(drawn, items)
    check(both, both)


@pytest.mark.filterwarnings("ignore:the gallery is a copy")
@settings(deadline=None, max_examples=60)
@given(points, points)
def test_a_gallery_is_the_average_over_all_orders_of_ties(queries, gallery):
    check(from_points(queries), from_points(gallery))


@pytest.mark.parametrize("count", [2, 7, 20])
def test_without_ties(count):
    both = classes(40, count)
    check(both, both)
    check(classes(10, count), both)


@pytest.mark.parametrize("name", METRICS)
def test_a_constant_model_scores_chance(name):
    labels = torch.tensor([0] * 4 + [1] * 3 + [2] * 2 + [3])
    both = rows(torch.ones(10, 3), labels)
    chance = reference.vector(reference.retrieval(both, both, DEPTHS)[name])
    torch.testing.assert_close(retrieval(both, both)[name].per_query, chance, equal_nan=True)


def test_chance_of_a_constant_model_in_closed_form():
    n, relevant = 600, 11
    both = rows(torch.randn(8).expand(n, 8), torch.arange(n) % (n // (relevant + 1)))
    scores = Retrieval(k=(1, 10, 100))(both, both)
    others = n - 1
    for k in (1, 10, 100):
        assert scores[f"p_at_{k}"].value == pytest.approx(relevant / others)
        assert scores[f"r_at_{k}"].value == pytest.approx(1 - math.comb(others - relevant, k) / math.comb(others, k))
    assert scores["r_precision"].value == pytest.approx(relevant / others)
    ways = [math.comb(others - rank, relevant - 1) for rank in range(1, others + 1)]
    expected = sum(way / rank for rank, way in enumerate(ways, 1)) / math.comb(others, relevant)
    assert scores["mrr"].value == pytest.approx(expected)
    assert scores["mrr"].value < 0.1


def test_a_tie_across_k_is_counted_over_the_whole_gallery():
    # One row before the tie, then 99 tied rows of which one is the match.
    gallery = rows(torch.tensor([[1.0, 0.0]] + [[1.0, 1.0]] * 99), torch.tensor([1] * 99 + [0]))
    scores = Retrieval(k=(1, 10), mrr_k=(1, 10))(rows(torch.tensor([[1.0, 0.0]]), torch.tensor([0])), gallery)
    assert scores["r_at_1"].value == scores["mrr_at_1"].value == 0
    assert scores["mrr_at_10"].value == pytest.approx(sum(1 / rank for rank in range(2, 11)) / 99)
    assert scores["r_at_10"].value == pytest.approx(9 / 99)
    assert scores["mrr"].value == pytest.approx(sum(1 / rank for rank in range(2, 101)) / 99)


def test_average_precision_agrees_with_scikit_learn_where_nothing_ties():
    both = classes(120, 6)
    result = retrieval(both, both)["map"].per_query
    for query in range(120):
        others = torch.arange(120) != query
        hits = (both.labels == both.labels[query])[others]
        expected = average_precision_score(hits, (both.z.double() @ both.z[query].double())[others])
        assert result[query].item() == pytest.approx(expected)


def test_agrees_with_pytorch_metric_learning_where_nothing_ties():
    from pytorch_metric_learning.distances import CosineSimilarity
    from pytorch_metric_learning.utils.accuracy_calculator import AccuracyCalculator
    from pytorch_metric_learning.utils.inference import CustomKNN

    names = {
        "precision_at_1": "r_at_1",
        "r_precision": "r_precision",
        "mean_average_precision_at_r": "map_at_r",
    }
    calculator = AccuracyCalculator(include=tuple(names), k=None, knn_func=CustomKNN(CosineSimilarity()))
    both = classes(200, 20)
    theirs = calculator.get_accuracy(both.z, both.labels, ref_includes_query=True)
    ours = retrieval(both, both)
    for their_name, our_name in names.items():
        assert ours[our_name].value == pytest.approx(theirs[their_name], abs=1e-6)


def test_large_labels_are_told_apart():
    # As float32 both labels are 16,777,216.
    both = rows(torch.tensor([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0], [0.1, 0.9]]), 2**24 + torch.tensor([0, 1, 0, 1]))
    assert retrieval(both, both)["r_at_1"].value == 0


def test_precision_is_divided_by_k_however_few_matches_there_are():
    gallery = rows(torch.tensor([[1.0, i / 10] for i in range(12)]), torch.tensor([0] * 3 + [1] * 9))
    scores = Retrieval(k=(10, 100))(rows(torch.tensor([[1.0, 0.0]]), torch.tensor([0])), gallery)
    assert scores["p_at_10"].value == pytest.approx(0.3)
    assert scores["p_at_100"].value == pytest.approx(0.03)
    assert scores["r_at_100"].value == 1


def test_an_image_is_never_its_own_match():
    both = rows(torch.eye(3), torch.tensor([0, 1, 2]))
    scores = retrieval(both, both)
    assert scores["queries_without_matches"].value == 3
    assert math.isnan(scores["r_at_1"].value)
    assert scores["r_at_1"].per_query.isnan().all()


def test_rows_of_the_query_s_own_item_are_left_out_whatever_object_they_come_in():
    items = torch.tensor([5, 5, 6])
    vectors = torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]])
    both = rows(vectors, torch.tensor([0, 0, 0]), items)
    assert retrieval(both, both)["p_at_2"].per_query.tolist() == [0.5, 0.5, 1.0]
    copied = rows(vectors.clone(), torch.tensor([0, 0, 0]), items)
    assert retrieval(both, copied)["p_at_2"].per_query.tolist() == [0.5, 0.5, 1.0]
    other = rows(vectors, torch.tensor([0, 0, 0]), items + 10)
    assert retrieval(both, other)["p_at_3"].per_query.tolist() == [1.0, 1.0, 1.0]


def test_rows_of_unknown_label_are_distractors_and_never_queries():
    gallery = rows(torch.tensor([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]), torch.tensor([-1, -2, 0]))
    queries = rows(torch.tensor([[1.0, 0.0], [1.0, 0.0]]), torch.tensor([0, -1]))
    scores = retrieval(queries, gallery)
    assert scores["mrr"].per_query[0] == pytest.approx(1 / 3)
    assert scores["mrr"].per_query[1].isnan()
    assert scores["queries_without_matches"].value == 0
    assert scores["queries_without_matches"].per_query[1].isnan()


def test_lone_queries_are_counted_and_left_out():
    gallery = rows(torch.eye(2), torch.tensor([0, 1]))
    scores = retrieval(rows(torch.eye(2), torch.tensor([0, 7])), gallery)
    assert scores["queries_without_matches"].value == 1
    assert scores["queries_without_matches"].per_query.tolist() == [0, 1]
    assert scores["r_at_1"].value == 1


def test_the_order_of_rows_does_not_matter():
    both = classes(500, 50, width=500)
    both = rows(torch.cat([both.z, both.z[:100]]), torch.cat([both.labels, both.labels[50:150] + 1]))
    order = torch.randperm(len(both))
    shuffled = both[order]
    first, second = retrieval(both, both), retrieval(shuffled, shuffled)
    for name in METRICS:
        assert second[name].value == pytest.approx(first[name].value, abs=1e-9)
        torch.testing.assert_close(second[name].per_query, first[name].per_query[order], rtol=0, atol=1e-9)


@pytest.mark.parametrize(("noise", "width"), [(0.1, 3), (1.0, 16), (1e-6, 16), (1.0, 700)])
@pytest.mark.parametrize("sampled", [1, 16])
def test_every_way_finds_the_same(monkeypatch, noise, width, sampled):
    monkeypatch.setattr(_shortlist, "SAMPLED", sampled)
    # Similarities that differ in the last bits, and copies of rows: within a class, and of two classes.
    both = classes(300, 40, width, noise)
    copies = Rows(
        torch.cat([both.z, both.z[:60].roll(1, 0)]),
        *(
            torch.cat([values, values[:60] if name == "labels" else values[:60] + 10**9])
            for name, values in ((name, getattr(both, name)) for name in ("labels", "items", "ids", "views"))
        ),
    )
    for queries, gallery in ((copies, copies), (both, copies), (copies, both)):
        whole, *others = all_ways(queries, gallery)
        for other in others:
            for name in other:
                values = whole[name].per_query, other[name].per_query
                torch.testing.assert_close(*values, equal_nan=True, rtol=0, atol=1e-12, msg=name)


def test_where_matches_are_far_everything_is_sorted():
    both = rows(torch.randn(400, 8), torch.arange(400) % 40)
    with patch.object(_ranking.RankingKeys, "tiles", return_value=[]) as sorted_:
        retrieval(both, both)
    assert len(sorted_.call_args.args[0]) > 300
    near = classes(400, 40, 64, 0.02)
    with patch.object(_ranking.RankingKeys, "tiles", return_value=[]) as sorted_:
        retrieval(near, near)
    assert not sorted_.called


@pytest.mark.parametrize(("tile", "part"), [(1, 1), (300, 100), (2000, 700)])
def test_tiles_do_not_matter(monkeypatch, tile, part):
    both = classes(97, 9)
    whole = retrieval(both, both), retrieval(both[:31], both)
    for module in (_ranking, _shortlist):
        monkeypatch.setattr(module, "TILE_CELLS", tile)
        monkeypatch.setattr(module, "PART_CELLS", part)
    monkeypatch.setattr(_shortlist, "_SIDE", 7)
    monkeypatch.setattr(_ranking, "_COLUMNS", 13)
    tiled = retrieval(both, both), retrieval(both[:31], both)
    for one, other in zip(whole, tiled, strict=True):
        for name in one:
            torch.testing.assert_close(one[name].per_query, other[name].per_query, equal_nan=True, rtol=0, atol=1e-12)


def test_the_number_of_threads_does_not_matter(two_threads, monkeypatch):
    for module in (_ranking, _shortlist):
        monkeypatch.setattr(module, "TILE_CELLS", 2000)
        monkeypatch.setattr(module, "PART_CELLS", 900)
    both = classes(400, 3)
    assert _ranking.workers_for(both) == 2
    both.z.requires_grad_()
    torch.set_num_threads(1)
    alone = retrieval(both, both)
    torch.set_num_threads(2)
    shared = retrieval(both, both)
    for name, score in shared.items():
        torch.testing.assert_close(score.per_query, alone[name].per_query, equal_nan=True, rtol=0, atol=0)
        assert not score.per_query.requires_grad


def test_what_a_worker_raises_is_raised(two_threads, monkeypatch):
    monkeypatch.setattr(_ranking, "TILE_CELLS", 2000)
    monkeypatch.setattr(_sorting, "sort_rows", lambda _: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        retrieval(classes(400, 3), classes(400, 3))


def test_half_precision_contexts_and_gradients_leave_it_alone():
    both = classes(60, 6)
    plain = retrieval(both, both)
    raw = both.z.clone().requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        live = rows(raw, both.labels, both.items)
        scores = retrieval(live, live)
    for name in METRICS:
        assert scores[name].value == pytest.approx(plain[name].value, abs=1e-6)
        assert not scores[name].per_query.requires_grad


@pytest.mark.parametrize("few", [0, 256])
@pytest.mark.parametrize("whole", [False, True])
def test_a_depth_beyond_any_gallery_takes_all_of_it(few, whole):
    both = classes(20, 4)
    with patch.object(_matches, "FEW", few):
        scores = Retrieval(k=(19, 2**70), whole_ranking=whole)(both, both)
    assert scores[f"r_at_{2**70}"].value == 1.0
    assert scores[f"p_at_{2**70}"].value * 2**70 == pytest.approx(scores["p_at_19"].value * 19)


def test_broken_embeddings_are_refused_with_their_number():
    both = classes(10, 2)
    both.z[[2, 5], 0] = torch.tensor([torch.nan, torch.inf])
    with pytest.raises(DivergedError, match=r"2 of 10 embeddings of the queries are not finite") as error:
        retrieval(both, both)
    assert error.value.help is not None
    with pytest.raises(DivergedError, match="of the gallery"):
        retrieval(classes(10, 2), both)


@pytest.mark.parametrize(("queries", "gallery"), [(0, 3), (3, 0), (0, 0)])
def test_nothing_to_measure_is_nan(queries, gallery):
    scores = retrieval(rows(torch.randn(queries, 4), torch.zeros(queries).long()), classes(gallery, 1, 4))
    assert scores["queries_without_matches"].value == queries
    for name in METRICS:
        assert math.isnan(scores[name].value)
        assert scores[name].per_query.shape == (queries,)


def test_every_score_says_how_it_is_defined():
    scores = Retrieval(k=(7,))(classes(6, 2), classes(6, 2))
    assert {name for name in scores if "at_7" in name} == {"r_at_7", "p_at_7"}
    for name, score in scores.items():
        assert score.definition.endswith("(retrieval/1).")
        assert isinstance(score.value, float)
        assert (score.per_query.dtype, score.per_query.device.type) == (torch.float64, "cpu")
        assert ("at 7" in score.definition) == ("at_7" in name)


def test_the_error_of_a_sum_that_swallows_its_small_terms_is_within_the_margin():
    # One large product first, and then many that are each below half a unit of the sum.
    z = torch.full((384,), 1.72e-4)
    z[0] = math.sqrt(1 - 383 * 1.72e-4**2)
    others = torch.randn(200, 384)
    others[:, 0] = -others[:, 0].abs()
    labels = torch.cat([torch.tensor([0, 0, 1]), torch.arange(200) + 2])
    both = rows(torch.cat([z.expand(3, -1), others]), labels)
    for scores in all_ways(both, both):
        assert scores["r_at_1"].value == 0.5


def test_a_lower_precision_of_products_moves_nothing():
    both = classes(400, 40, 64, 0.5)
    expected = retrieval(both, both)
    before = torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        found = retrieval(both, both)
    finally:
        torch.set_float32_matmul_precision(before)
    for name in expected:
        torch.testing.assert_close(found[name].per_query, expected[name].per_query, equal_nan=True, rtol=0, atol=0)


def test_two_evaluations_at_once_share_what_they_set():
    both, alone = classes(1200, 120, 64, 0.3), torch.backends.mkldnn.matmul
    expected = retrieval(both, both)
    threads, before = torch.get_num_threads(), torch.get_float32_matmul_precision()
    try:
        torch.set_float32_matmul_precision("medium")
        torch.set_num_threads(2)
        with ThreadPoolExecutor(2) as pool:
            found = list(pool.map(lambda _: retrieval(both, both), range(6)))
        precision = alone.fp32_precision
        with ThreadPoolExecutor(1) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
    finally:
        torch.set_num_threads(threads)
        torch.set_float32_matmul_precision(before)
    assert precision == "bf16"
    for scores in found:
        for name in expected:
            torch.testing.assert_close(scores[name].per_query, expected[name].per_query, rtol=0, atol=0)


def test_a_precision_that_was_inherited_still_is():
    products = torch.backends.mkldnn.matmul
    before = torch.backends.fp32_precision
    try:
        torch.backends.fp32_precision = "tf32"
        with ieee_products:
            assert products.fp32_precision == "ieee"
        torch.backends.fp32_precision = "ieee"
        assert products.fp32_precision == "ieee"
    finally:
        torch.backends.fp32_precision = before


def test_the_default_of_tensors_may_be_double():
    both = classes(400, 40)
    expected = retrieval(both, both)
    torch.set_default_dtype(torch.float64)
    try:
        found = retrieval(both, both)
    finally:
        torch.set_default_dtype(torch.float32)
    for name in expected:
        torch.testing.assert_close(found[name].per_query, expected[name].per_query, rtol=0, atol=0)


@pytest.mark.parametrize("ties", [False, True])
def test_rows_of_one_item_and_collapsed_classes_ask_for_no_more_memory(monkeypatch, ties):
    # What a sweep keeps is at most what the sample foretells, with some luck: never all rows of an item.
    n, kept = 4000, []
    items = torch.arange(n) if ties else torch.arange(n) // 1000
    labels = torch.arange(n) // 20 if ties else torch.arange(n) % 2
    z = torch.randn(n, 16)[labels] if ties else torch.randn(n, 16)[items] + 0.1 * torch.randn(n, 16)
    monkeypatch.setattr(_shortlist, "PART_CELLS", 2**14)
    near, keys = _shortlist.Similarities.shortlist, _shortlist.Similarities.keys

    def watched_near(*given):
        found = near(*given)
        kept.append(len(found.columns))
        return found

    def watched_keys(self, queries, columns):
        kept.append(columns.numel())
        return keys(self, queries, columns)

    monkeypatch.setattr(_shortlist.Similarities, "shortlist", watched_near)
    monkeypatch.setattr(_shortlist.Similarities, "keys", watched_keys)
    both = rows(z, labels, items)
    of_the_best(both, both)
    KNN(k=5)(both, both)
    assert max(kept) <= 8 * n * 5


def test_without_depths_a_query_may_have_no_match():
    both = rows(torch.randn(400, 4), torch.arange(400) % 3, torch.arange(400).where(torch.arange(400) % 3 > 0, 0))
    with patch.object(_matches, "FEW", 0):
        scores = Retrieval(k=(), whole_ranking=False)(both, both)
    assert scores["queries_without_matches"].value == 134
    assert math.isfinite(scores["map_at_r"].value)
