"""Robustness and transfer on an encoder that is known: what they hand on, what they average, what they refuse."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import pytest
import torch

from metriclab.core.rows import Rows, rows
from metriclab.errors import RecipeError
from metriclab.evaluators.retrieval import Retrieval
from metriclab.evaluators.robustness import Robustness
from metriclab.evaluators.transfer import Transfer


@dataclass
class Pixels:
    """An encoder whose embedding is the image itself."""

    images: torch.Tensor
    queries: Rows
    gallery: Rows
    asked: list[torch.Tensor] = field(default_factory=list)

    def embed_changed(self, change, chosen):
        self.asked.append(chosen)
        keys = self.queries[chosen]
        return rows(change(self.images[chosen], keys.items).flatten(1), keys.labels, keys.items)

    def embed_other(self, test, train):
        queries = rows(torch.eye(len(test.labels)), torch.from_numpy(test.labels))
        return queries, queries


def subject(n: int = 48, classes: int = 4, closed: bool = False) -> Pixels:
    labels = torch.arange(n) % classes
    images = (torch.rand(classes, 3, 8, 8)[labels] + 2 * torch.rand(n, 3, 8, 8)) / 3
    queries = rows(images.flatten(1), labels, torch.arange(n))
    gallery = rows(torch.rand(n, 192), labels) if closed else queries
    return Pixels(images, queries, gallery)


def test_all_cases_are_measured_and_averaged():
    scores = Robustness()(subject())
    curves = {name: score.value for name, score in scores.items() if name[-1] in "12345"}
    assert len(curves) == 40
    assert scores["corrupted"].value == pytest.approx(sum(curves.values()) / 40)
    clean = scores["clean"].value
    assert scores["relative_drop"].value == pytest.approx((clean - scores["corrupted"].value) / clean)
    assert curves["noise_5"] < curves["noise_1"] <= clean


def test_no_query_meets_its_own_clean_image():
    under = subject()
    clean = Robustness(corruptions=("contrast",), severities=(1,))(under)
    asked = under.asked[0]
    assert len(asked) == 24
    assert int(clean["clean"].per_query.isnan().sum()) == 24
    gallery = under.queries[~torch.isin(under.queries.items, under.queries.items[asked])]
    expected = Retrieval()(under.queries[asked], gallery)["map_at_r"].value
    assert clean["clean"].value == pytest.approx(expected)


def test_a_gallery_of_its_own_stays_as_it_is():
    under = subject(closed=True)
    scores = Robustness(metric="p_at_1", corruptions=("blur",), severities=(2,))(under)
    assert len(under.asked[0]) == 48
    expected = Retrieval()(under.queries, under.gallery)["p_at_1"]
    assert scores["clean"].value == pytest.approx(expected.value)


@pytest.mark.parametrize("evaluator", ["knn", "linear-probe", "clustering", "health"])
def test_any_evaluator_of_rows_can_be_asked(evaluator):
    metric = {"clustering": "nmi", "health": "alignment"}.get(evaluator, "accuracy")
    scores = Robustness(evaluator=evaluator, metric=metric, corruptions=("noise",), severities=(1, 5))(subject())
    assert math.isfinite(scores["corrupted"].value)
    by_query = scores["corrupted"].per_query.shape
    assert by_query == ((0,) if evaluator == "clustering" else (48,))


def test_parameters_reach_the_evaluator():
    robustness = Robustness(metric="p_at_3", parameters={"k": [3]}, corruptions=("noise",), severities=(1,))
    assert 0 <= robustness(subject())["clean"].value <= 1


@pytest.mark.parametrize("labels", [[-1, -1], [0, 1, 2], []])
def test_without_classes_of_two_there_is_no_number(labels):
    queries = rows(torch.rand(len(labels), 12), torch.tensor(labels, dtype=torch.int64))
    under = Pixels(torch.rand(len(labels), 3, 2, 2), queries, queries)
    scores = Robustness()(under)
    assert all(math.isnan(score.value) for score in scores.values())
    assert not under.asked


@pytest.mark.parametrize(
    ("settings", "message", "help"),
    [
        ({"metric": "map_at_q"}, "evaluator 'retrieval' has no metric 'map_at_q'", "did you mean 'map_at_r'?"),
        ({"evaluator": "retrieva"}, "there is no evaluator 'retrieva'", "did you mean 'retrieval'?"),
        ({"parameters": {"kk": [1]}}, "evaluator 'retrieval' has no parameter 'kk'", "did you mean 'k'?"),
        ({"evaluator": "robustness"}, "cannot apply evaluator 'robustness'", "name an evaluator of rows"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_a_run(settings, message, help):
    with pytest.raises(RecipeError, match=message) as caught:
        Robustness(**settings)
    assert help in (caught.value.help or "")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ({}, "evaluator 'transfer' is given no name of a data set"),
        ({"name": "fashion-mnits"}, "there is no dataset 'fashion-mnits'"),
        ({"name": "synthetic", "clases": 3}, "has no parameter 'clases'"),
    ],
)
def test_another_data_set_that_is_not_there_is_refused_before_a_run(data, message):
    with pytest.raises(RecipeError, match=message):
        Transfer(data=data)


def test_transfer_hands_on_the_other_data():
    transfer = Transfer(data={"name": "synthetic", "classes": 3, "per_class": 4, "disjoint": True}, evaluator="knn")
    scores = transfer(subject())
    assert set(scores) == {"accuracy", "queries_without_matches"}
    assert all(score.per_query.numel() == 0 for score in scores.values())
    assert scores["accuracy"].definition.startswith("On the test split of synthetic, held against each other")
    assert set(transfer.fingerprint) == {"test", "train"}
