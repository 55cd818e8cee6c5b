"""Who is who goes by items: a copy, a permutation or a superset of the queries is the gallery that it is."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import metriclab.evaluators as evaluators
from metriclab.core.rows import Rows, concatenate, rows
from metriclab.evaluators import KNN, Clustering, Health, LinearProbe, MLPProbe, Retrieval
from metriclab.evaluators.probes.examples import divide
from metriclab.registry import entries
from metriclab.registry.kinds import BUILTIN
from tests.support import ranking_reference as reference

OF_ROWS = [
    Retrieval(k=(1, 3)),
    KNN(k=3),
    LinearProbe(),
    MLPProbe(rounds=2, hidden=8),
    Clustering(),
    Health(k=2),
]
every_evaluator = pytest.mark.parametrize("evaluator", OF_ROWS, ids=lambda evaluator: type(evaluator).__name__)


def drawn(n: int, first: int = 0, classes: int = 4, items: torch.Tensor | None = None) -> Rows:
    labels = torch.arange(n) % classes
    z = torch.randn(classes, 5, generator=torch.Generator().manual_seed(1))[labels] + torch.randn(n, 5)
    return rows(z, labels, torch.arange(first, first + n) if items is None else items)


def copy_of(given: Rows) -> Rows:
    return Rows(*(getattr(given, key).clone() for key in ("z", "labels", "items", "ids", "views")))


def assert_same(one, other) -> None:
    assert one.keys() == other.keys()
    for name, score in one.items():
        assert score.value == pytest.approx(other[name].value, abs=1e-6, nan_ok=True), name
        torch.testing.assert_close(score.per_query, other[name].per_query, equal_nan=True, rtol=0, atol=1e-6)


@every_evaluator
@pytest.mark.parametrize("repeated", [False, True])
def test_a_copy_and_a_permutation_are_the_queries_themselves(evaluator, repeated):
    both = drawn(60, items=torch.arange(60) // 4 if repeated else None)
    alone = evaluator(both)
    copied = copy_of(both)
    for gallery in (both, copied, copied[torch.randperm(60)]):
        assert_same(alone, evaluator(both, gallery))


@every_evaluator
def test_how_items_are_numbered_does_not_matter(evaluator):
    both, others = drawn(60), drawn(40, first=60)
    renumbered = [rows(side.z, side.labels, side.items * 7 - 10**12) for side in (both, others)]
    assert_same(evaluator(both), evaluator(renumbered[0]))
    assert_same(evaluator(both, others), evaluator(*renumbered))


few = st.lists(
    st.tuples(st.sampled_from([(1.0, 0.0), (0.0, 1.0), (1.0, 1.0), (2.0, 1.0)]), st.integers(-1, 2), st.integers(0, 6)),
    min_size=1,
    max_size=9,
)


@pytest.mark.filterwarnings("ignore:the gallery is a copy")
@settings(deadline=None, max_examples=60)
@given(few, few)
def test_queries_that_lie_in_the_gallery_never_find_themselves(queries, gallery):
    one, other = (
        rows(torch.tensor([p for p, _, _ in side]), torch.tensor([y for _, y, _ in side]), torch.tensor(items))
        for side in (queries, gallery)
        for items in [[item for _, _, item in side]]
    )
    for galleries in (other, concatenate([other, one])):
        found = Retrieval(k=(1, 2), mrr_k=(1, 2))(one, galleries)
        for name, values in reference.retrieval(one, galleries, (1, 2)).items():
            expected = reference.vector(values)
            torch.testing.assert_close(found[name].per_query, expected, equal_nan=True, rtol=0, atol=1e-9)
        accuracy = KNN(k=2)(one, galleries)["accuracy"].per_query
        torch.testing.assert_close(
            accuracy, reference.vector(reference.knn(one, galleries, 2, 0.07)), equal_nan=True, rtol=0, atol=1e-9
        )


def test_a_probe_never_measures_a_query_by_its_own_item():
    queries = drawn(40)
    gallery = concatenate([copy_of(queries), drawn(30, first=100)])
    kept, asked = divide(queries, gallery)
    assert not torch.isin(queries.items[asked], gallery.items[kept]).any()
    assert kept[40:].all()
    assert int(asked.sum()) == 20
    assert int(LinearProbe()(queries, gallery)["accuracy"].per_query.isfinite().sum()) == 20
    # A class of one shared item is measured where the gallery has others of it.
    kept, asked = divide(queries[:1], gallery)
    assert asked.tolist() == [True]
    assert not kept[0]


@every_evaluator
def test_raw_embeddings_are_called_as_rows_are(evaluator):
    z, labels, gallery, of_gallery = torch.randn(40, 5), torch.arange(40) % 4, torch.randn(30, 5), torch.arange(30) % 4
    queries, others = rows(z, labels), rows(gallery, of_gallery)
    assert_same(evaluator(z, labels), evaluator(queries))
    assert_same(evaluator(z, labels.tolist()), evaluator(queries, queries))
    assert_same(evaluator(z, labels, gallery, of_gallery.numpy()), evaluator(queries, others))
    assert_same(evaluator(z, labels, z, labels), evaluator(z, labels))


def test_a_copy_without_items_of_its_own_is_told():
    z, labels = torch.randn(8, 3), torch.arange(8) % 2
    with pytest.warns(UserWarning, match=r"each query finds itself: leave the gallery away.*rows\(z, labels, items\)"):
        assert Retrieval()(z, labels, z.clone(), labels)["r_at_1"].value == 1


def test_other_arguments_are_refused():
    batch = rows(torch.eye(2), [0, 1])
    for sides in ((torch.eye(2), None), (torch.eye(2), batch), (batch, batch, torch.eye(2))):
        with pytest.raises(TypeError, match=r"an evaluator takes embeddings and labels, \(z, labels\) or"):
            Retrieval()(*sides)
    with pytest.raises(TypeError, match="a gallery of raw embeddings needs labels of its own"):
        Retrieval()(torch.eye(2), [0, 1], torch.eye(2))


def test_printing_shows_the_settings():
    assert repr(Retrieval(k=(1,))) == "Retrieval(k=(1,), mrr_k=(), exclude='own-item', whole_ranking=True)"
    assert repr(Clustering()) == "Clustering()"


def test_the_package_has_what_is_registered():
    built_in = {entry.target.split(":")[1] for entry in entries("evaluator") if entry.package == BUILTIN}
    assert set(evaluators.__all__) == set(dir(evaluators)) == built_in
    assert all(getattr(evaluators, name).__name__ == name for name in evaluators.__all__)


@pytest.mark.parametrize(
    ("line", "absent"),
    [
        ("import metriclab.evaluators", ("torch", "sklearn")),
        ("from metriclab.evaluators import Retrieval", ("sklearn", "matplotlib", "pytorch_metric_learning")),
    ],
)
def test_what_an_import_leaves_out(line, absent):
    code = f"{line}\nimport sys\nprint([name for name in {absent!r} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
