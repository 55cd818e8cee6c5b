"""Rows: unit embeddings and identities."""

from __future__ import annotations

import inspect
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.core.fresh_numbers import _numbered as row_numbers
from metriclab.core.rows import as_labels, concatenate, count_positives, normalize, pack_ids, rows, wide
from metriclab.losses import NTXent
from metriclab.testing.ranks import on_ranks

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


def test_a_zero_row_stays_zero_with_zero_gradient():
    z = torch.randn(3, 4)
    z[1] = 0
    z.requires_grad_()
    unit = normalize(z)
    unit.sin().sum().backward()
    assert not unit[1].any()
    assert not z.grad[1].any()
    assert z.grad[[0, 2]].isfinite().all()
    assert z.grad[[0, 2]].any(1).all()


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e-15, 9e-7, 1e15, 1e30, 1e37])
def test_rows_of_any_length_have_their_direction_and_its_gradient(scale):
    z = torch.randn(3, 4)
    z[1] = (z[1].double() * scale).float()  # as far as float32 has it: few digits are left of 1e-44
    z.requires_grad_()
    exact = z.detach().double().requires_grad_()
    unit, expected = normalize(z), exact / exact.norm(dim=1, keepdim=True)
    torch.testing.assert_close(unit.double(), expected, rtol=0, atol=1e-6)
    (gradient,), (reference,) = (torch.autograd.grad(u.sin().sum(), x) for u, x in ((unit, z), (expected, exact)))
    fine = reference.abs() < 1e36  # beyond it float32 ends
    torch.testing.assert_close(gradient.double()[fine], reference[fine], rtol=1e-4, atol=1e-38)


@pytest.mark.parametrize("scale", [1e-300, 1e-200, 1e200, 1e300])
def test_rows_of_any_length_in_float64(scale):
    z = torch.randn(3, 4, dtype=torch.float64)
    torch.testing.assert_close(normalize(z * scale), normalize(z), rtol=0, atol=1e-15)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rows_of_ordinary_length_are_divided_by_their_norm_to_the_last_bit(dtype):
    z = torch.randn(200, 16, dtype=dtype) * torch.logspace(-6, 12, 200, dtype=dtype)[:, None]
    assert torch.equal(normalize(z), z / torch.linalg.vector_norm(z, dim=1, keepdim=True))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
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
    assert made.views.tolist() == [0, 0, 0, 0]
    assert made.embedding_dim == 2
    assert len(made) == 4


def test_fresh_ids_and_items_never_repeat_and_never_meet_those_of_a_run():
    made = [rows(torch.zeros(50, 2), torch.zeros(50, dtype=torch.int64)) for _ in range(2)]
    ids, items = (torch.cat([getattr(part, name) for part in made]) for name in ("ids", "items"))
    assert len(ids.unique()) == len(items.unique()) == 100
    assert (ids < 0).all()
    assert (items > 2**61).all()
    assert (pack_ids(0, torch.arange(5), 0) >= 0).all()


@few
@given(st.lists(st.sampled_from(["same", "change", "copy", "slice", "one given"]), max_size=12))
def test_a_tensor_is_the_same_rows_until_it_changes(steps):
    z, labels = torch.randn(3, 2), [0, 1, 0]
    last, seen = rows(z, labels), set()
    for step in steps:
        if step == "one given":
            given = rows(z, labels, ids=torch.arange(3))
            assert given.ids.tolist() == [0, 1, 2]
            assert torch.equal(given.items, last.items)
            continue
        if step == "change":
            z += 1
        if step in ("copy", "slice"):
            z = z.clone() if step == "copy" else z[:]
        made = rows(z, labels)
        same = step == "same"
        assert torch.equal(made.ids, last.ids) is same
        assert torch.equal(made.items, last.items) is same
        assert not seen & set(made.ids.tolist())
        seen |= set() if same else set(last.ids.tolist())
        last = made


def test_rows_made_twice_are_not_their_own_positives():
    z, labels = torch.randn(4, 3, requires_grad=True), [0, 0, 1, 1]
    assert count_positives(rows(z, labels), rows(z, labels)).tolist() == [1, 1, 1, 1]
    (gradient,) = torch.autograd.grad(NTXent()(rows(z, labels), rows(z, labels)), z)
    (expected,) = torch.autograd.grad(NTXent()(z, labels), z)
    torch.testing.assert_close(gradient, expected)


def test_a_tensor_is_forgotten_with_its_end():
    before = len(row_numbers)
    z = torch.nn.Linear(2, 2)(torch.randn(3, 2))
    made = rows(z, [0, 1, 2])
    assert len(row_numbers) == before + 1
    made.z.sum().backward()
    del z, made
    assert len(row_numbers) == before


def test_tensors_made_for_inference_are_rows_too():
    with torch.inference_mode():
        z = torch.randn(3, 2)
        assert not set(rows(z, [0, 1, 2]).ids.tolist()) & set(rows(z, [0, 1, 2]).ids.tolist())


def fresh_numbers(share):
    z = torch.randn(3, 2)
    made = [rows(z, [0, 1, 2]), rows(z, [0, 1, 2]), rows(z.clone(), [0, 1, 2])]
    return [(part.ids.tolist(), part.items.tolist()) for part in made]


def test_fresh_numbers_differ_between_ranks():
    (one, again, other), theirs = on_ranks(fresh_numbers, 2)
    assert one == again
    for place in (0, 1):
        mine = {*one[place], *other[place]}
        assert len(mine) == 6
        assert not mine & {number for part in theirs for number in part[place]}


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64])
def test_labels_are_any_integers(dtype):
    z = torch.randn(3, 2)
    numbers = getattr(np, str(dtype).removeprefix("torch."))
    for labels in (torch.tensor([3, 0, 3], dtype=dtype), np.array([3, 0, 3], numbers), [3, 0, 3], (3, 0, 3)):
        made = rows(z, labels)
        assert made.labels.dtype == torch.int64
        assert made.labels.tolist() == [3, 0, 3]
    assert len(rows(z[:0], [])) == 0


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (torch.zeros(2), "labels are torch.float32, expected integers: number the classes, as labels = torch.unique"),
        (torch.ones(2, dtype=torch.bool), "labels are torch.bool, expected integers"),
        ([0.0, 1.0], r"labels are float64, expected integers: .* labels = np.unique\(labels, return_inverse=True\)"),
        (["cat", "dog"], "labels are str96, expected integers"),
        (np.array([True, False]), "labels are bool, expected integers"),
    ],
)
def test_labels_that_are_no_integers_say_how_to_number_them(labels, said):
    unchecked = inspect.unwrap(as_labels)
    with pytest.raises(ValueError, match=said):
        unchecked(labels)


def test_numbered_as_the_error_says_they_are_labels():
    assert as_labels(np.unique(["b", "a", "b"], return_inverse=True)[1]).tolist() == [1, 0, 1]
    assert as_labels(torch.unique(torch.tensor([2.0, 1.0, 2.0]), return_inverse=True)[1]).tolist() == [1, 0, 1]


def test_embeddings_need_not_lie_in_order():
    z = torch.randn(2, 6, 3)[:, ::2].transpose(0, 2)[..., 0]  # neither contiguous nor of its storage's size
    assert not z.is_contiguous()
    assert torch.equal(rows(z, [0] * len(z)).z, normalize(z.contiguous()))


def test_rows_names_what_does_not_fit():
    unchecked = inspect.unwrap(rows)  # outside the tests nothing executes the annotations
    with pytest.raises(ValueError, match=r"items has shape \(3,\), expected \(2,\): one for each row of z"):
        unchecked(torch.randn(2, 2), torch.zeros(2, dtype=torch.int64), torch.arange(3))
    with pytest.raises(ValueError, match=r"labels has shape \(3,\), expected \(2,\)"):
        unchecked(torch.randn(2, 2), [0, 1, 2])
    with pytest.raises(ValueError, match=r"z has shape \(2,\), expected \(n, d\)"):
        unchecked(torch.randn(2), [0, 1])


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
