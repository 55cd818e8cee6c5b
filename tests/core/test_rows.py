"""Rows: unit embeddings and identities."""

from __future__ import annotations

import inspect
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.core.rows import concatenate, count_positives, normalize, pack_ids, rows, wide

few = settings(deadline=None, max_examples=30)
label_lists = st.lists(st.integers(-2, 3), min_size=1, max_size=12)


def test_normalize_divides_by_the_length():
    z = torch.randn(5, 3, dtype=torch.float64)
    for row, unit in zip(z.tolist(), normalize(z).tolist(), strict=True):
        length = math.sqrt(sum(x * x for x in row))
        assert unit == pytest.approx([x / length for x in row], abs=1e-15)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_normalize_computes_in_float32_or_better(dtype):
    unit = normalize(torch.randn(4, 8).to(dtype))
    assert unit.dtype == (torch.float64 if dtype == torch.float64 else torch.float32)
    torch.testing.assert_close(unit.norm(dim=1), torch.ones(4, dtype=unit.dtype), atol=1e-6, rtol=0)


def test_the_gradient_of_normalize_is_that_of_its_value():
    z = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(normalize, z)


@pytest.mark.parametrize("length", [0.0, 1e-30, 9e-7])
def test_a_row_without_direction_is_zero_with_zero_gradient(length):
    z = torch.randn(3, 4)
    z[1] *= length / z[1].norm()
    z.requires_grad_()
    unit = normalize(z)
    unit.sin().sum().backward()
    assert not unit[1].any()
    assert not z.grad[1].any()
    assert z.grad[[0, 2]].isfinite().all()
    assert z.grad[[0, 2]].any(1).all()


@pytest.mark.parametrize("value", [math.nan, math.inf, 1e30])
def test_a_row_that_is_not_finite_shows(value):
    z = torch.randn(3, 4)
    z[1, 2] = value
    unit = normalize(z)
    assert unit[1].isnan().all()
    assert unit[[0, 2]].isfinite().all()


def test_wide_raises_half_precision_and_keeps_double():
    half, single, double = (torch.zeros(2, dtype=d) for d in (torch.bfloat16, torch.float32, torch.float64))
    assert wide(half).dtype == torch.float32
    assert wide(single, half) is single
    assert wide(single, double).dtype == torch.float64


def test_rows_fills_in_what_is_not_given():
    made = rows(torch.randn(4, 2), torch.tensor([1, 1, 2, -1]))
    assert made.items.tolist() == [0, 1, 2, 3]
    assert made.views.tolist() == [0, 0, 0, 0]
    assert made.embedding_dim == 2
    assert len(made) == 4


def test_fresh_ids_never_repeat_and_never_meet_those_of_a_run():
    z, labels = torch.randn(50, 2), torch.zeros(50, dtype=torch.int64)
    ids = torch.cat([rows(z, labels).ids, rows(z, labels).ids])
    assert len(ids.unique()) == 100
    assert (ids < 0).all()
    assert (pack_ids(0, torch.arange(5), 0) >= 0).all()


def test_rows_names_what_does_not_fit():
    unchecked = inspect.unwrap(rows)  # outside the tests nothing executes the annotations
    with pytest.raises(ValueError, match=r"items has shape \(3,\), expected \(2,\): one for each row of z"):
        unchecked(torch.randn(2, 2), torch.zeros(2, dtype=torch.int64), torch.arange(3))


@few
@given(st.sets(st.tuples(st.integers(0, 2**31 - 1), st.integers(0, 2**24 - 1), st.integers(0, 255)), max_size=20))
def test_packed_ids_are_as_different_as_what_they_are_made_of(occurrences):
    ids = {int(pack_ids(step, torch.tensor([position]), view)) for step, position, view in occurrences}
    assert len(ids) == len(occurrences)


@pytest.mark.parametrize(("step", "view"), [(-1, 0), (2**31, 0), (0, 256), (0, -1)])
def test_what_does_not_fit_an_id_is_refused(step, view):
    with pytest.raises(ValueError, match="does not fit an id"):
        pack_ids(step, torch.arange(2), view)


@few
@given(label_lists, label_lists, st.integers(0, 12))
def test_count_positives_counts_like_a_loop(first, second, shared):
    mine = rows(torch.randn(len(first), 2), torch.tensor(first))
    others = rows(torch.randn(len(second), 2), torch.tensor(second))
    references = concatenate([others, mine[:shared]])
    expected = [
        sum(
            int(label) == int(mine.labels[i]) >= 0 and int(name) != int(mine.ids[i])
            for label, name in zip(references.labels, references.ids, strict=True)
        )
        for i in range(len(mine))
    ]
    assert count_positives(mine, references).tolist() == expected


def test_rows_slice_and_join():
    made = rows(torch.randn(5, 2), torch.arange(5))
    joined = concatenate([made[3:], made[torch.tensor([0, 1, 2])]])
    assert joined.labels.tolist() == [3, 4, 0, 1, 2]
    assert torch.equal(joined.z, made.z[[3, 4, 0, 1, 2]])
    assert torch.equal(made.keys[1:].ids, made.ids[1:])
    assert not rows(torch.randn(2, 2, requires_grad=True), torch.arange(2)).detach().z.requires_grad
