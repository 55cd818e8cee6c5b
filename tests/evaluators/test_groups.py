"""Re-identification's rule: images of the query's identity by the query's camera are no candidates."""

from __future__ import annotations

from fractions import Fraction
from unittest.mock import patch

import pytest
import torch

from metriclab.core.rows import Rows, concatenate, rows
from metriclab.errors import DataError
from metriclab.evaluators.retrieval import Retrieval
from metriclab.ranking import matches as _matches
from metriclab.ranking import screening as _screening

DEPTHS = (1, 5, 10)
by_camera = Retrieval(k=DEPTHS, exclude="same-group")


def people(n: int, identities: int, cameras: int, first_item: int) -> Rows:
    """Photographs as of a street with cameras: identity -1 is somebody whom no query is (a distractor)."""
    labels = torch.randint(-1, identities, (n,))
    centres = torch.randn(identities + 1, 24)
    z = centres[labels + 1] + 1.2 * torch.randn(n, 24)
    return rows(z, labels, torch.arange(n) + first_item, groups=torch.randint(0, cameras, (n,)))


def reference(queries: Rows, gallery: Rows) -> dict[str, list[Fraction | None]]:
    """CMC and average precision as the protocol has them, query by query, in fractions."""
    found: dict[str, list[Fraction | None]] = {name: [] for name in ("map", *(f"r_at_{k}" for k in DEPTHS))}
    for q in range(len(queries)):
        ranked = []
        for g in range(len(gallery)):
            same_person = queries.labels[q] == gallery.labels[g] and queries.labels[q] >= 0
            same_camera = queries.groups[q] == gallery.groups[g] and queries.groups[q] >= 0
            if (same_person and same_camera) or queries.items[q] == gallery.items[g]:
                continue
            similarity = float(queries.z[q].double() @ gallery.z[g].double())
            ranked.append((-round(similarity * 2**20), bool(same_person)))
        assert len({key for key, _ in ranked}) == len(ranked), "a tie, which the protocol does not settle"
        hits = [hit for _, hit in sorted(ranked)]
        right = sum(hits)
        precisions = [Fraction(sum(hits[: rank + 1]), rank + 1) for rank in range(len(hits)) if hits[rank]]
        found["map"].append(Fraction(sum(precisions), right) if right else None)
        for k in DEPTHS:
            found[f"r_at_{k}"].append(Fraction(int(any(hits[:k]))) if right else None)
    return found


@pytest.mark.parametrize("leave_one_out", [False, True])
@pytest.mark.parametrize("few", [0, 10**6], ids=["sorting", "screening"])
def test_market_shaped_data_give_the_published_protocols_numbers(few, leave_one_out):
    queries = people(24, 6, 4, 0)
    centres = people(90, 6, 4, 24)
    gallery = queries if leave_one_out else concatenate([centres, queries[:7]])  # some queries lie in the gallery too
    with patch.object(_matches, "FEW", few), patch.object(_screening, "LONGEST", 1e9):
        scores = by_camera(queries, gallery)
    for name, values in reference(queries, gallery).items():
        own = scores[name].per_query.tolist()
        for value, expected in zip(own, values, strict=True):
            assert (value != value) if expected is None else value == pytest.approx(float(expected), rel=1e-15)
        counted = [value for value in values if value is not None]
        assert scores[name].value == pytest.approx(float(sum(counted) / len(counted)), rel=1e-15)


def test_it_matters_and_is_said():
    both = people(80, 5, 2, 0)
    assert by_camera(both)["map"].value != Retrieval(k=DEPTHS)(both)["map"].value
    assert "and those of its label and group, are left out" in by_camera(both)["map"].definition
    assert "group" not in Retrieval()(both)["map"].definition


def test_a_row_of_unknown_group_or_label_is_of_nobodys_group():
    z, items = torch.eye(4).repeat(2, 1), torch.arange(8)
    both = rows(z, [0, 1, -1, -1, 0, 1, -1, -1], items, groups=torch.tensor([-1, 3, 3, -1, -1, 3, 3, -1]))
    found = by_camera(both)["r_at_1"].per_query
    assert found[[0, 4]].tolist() == [1.0, 1.0]
    assert found.isnan().nonzero().squeeze(1).tolist() == [1, 2, 3, 5, 6, 7]
    assert by_camera(both)["queries_without_matches"].value == 2


def test_without_groups_there_is_nothing_to_leave_out():
    with_groups = people(10, 3, 2, 0)
    without = rows(with_groups.z, with_groups.labels)
    with pytest.raises(DataError, match="there are no groups for the queries, so exclude"):
        by_camera(without)
    with pytest.raises(DataError, match="there are no groups for the gallery"):
        by_camera(with_groups, without)


def test_an_item_is_of_one_group():
    both = rows(torch.eye(3), [0, 0, 1], torch.tensor([4, 4, 5]), groups=torch.tensor([0, 1, 0]))
    with pytest.raises(DataError, match="rows of item 4 are of different labels or groups"):
        by_camera(both)


def test_columns_go_with_their_rows():
    some = rows(torch.eye(4), [0, 0, 1, 1], groups=torch.tensor([5, 6, 7, 8]), categories=torch.tensor([0, 0, 1, 1]))
    plain = rows(torch.eye(4), [0, 0, 1, 1])
    assert some[1:3].groups.tolist() == some.keys[torch.tensor([1, 2])].groups.tolist() == [6, 7]
    assert [part.groups for part in (plain.detach(), plain[:2], concatenate([plain, plain]))] == [None] * 3
    joined = concatenate([some, plain])
    assert joined.groups.tolist() == [5, 6, 7, 8, -1, -1, -1, -1]
    assert joined.categories.tolist() == [0, 0, 1, 1, -1, -1, -1, -1]
