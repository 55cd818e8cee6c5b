"""What every loss keeps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from metriclab.core.promises import check_scalar
from metriclab.core.protocols import Loss
from metriclab.core.rows import Rows
from metriclab.core.tiles import forced_tile_cells
from metriclab.testing.cases import Call, case, edges, evaluate, fresh, oblong, pairless, plain, shuffle, square
from metriclab.testing.checks import Check, check, running, wanted
from metriclab.testing.gaps import after_saving, deviation, gradient_fault, in_autocast, in_order_and_shuffled
from metriclab.testing.loss_on_ranks import check_ranks
from metriclab.testing.loss_signs import check_signs
from metriclab.testing.meter import measure
from metriclab.testing.state import assert_stateless

CLOSE = 1e-9
"""Largest difference, beside the scale of the gradient or 1, of float64 results that must be equal but for rounding."""


def loss_checks(
    loss: Loss,
    *,
    gradcheck: bool = True,
    signs: bool = True,
    by_label: bool = True,
    unit: bool = True,
    ranks: bool = True,
) -> list[Check]:
    """Checks a loss on the edge cases of the field, on any number of ranks.

    It gives a scalar with a gradient, the same whatever the order of its rows, under autocast and under no_grad; both
    are finite for identical, opposite, zero, very long and very short rows, a single row, no positives, no negatives,
    and labels all unknown, in every precision; but a row that is NaN stays in sight. Zero rows get no gradient, rows of
    unknown label have no influence, and with no pair a loss over pairs is 0. It writes into nothing it is given, keeps
    state in buffers, takes rows of norm 1 as they come, draws positives together and pushes negatives apart, and gives
    on 2 and 3 ranks what it gives in one process, without gathering anything itself. Most of it is tried in float64, as
    differences then are faults and not rounding: a loss computes in the precision of its rows, float32 or better.

    A loss marked `pairwise = True` is also called with fewer anchors than references, must not depend on the size of
    tiles, and must never hold a value for every pair at a time.

    Args:
        loss: the component, built; it is copied, never changed. For `ranks` it must be picklable.
        gradcheck: whether the gradient is that of the value; a loss may hold a part of it constant on purpose.
        signs: whether rows of one label attract each other and rows of different labels repel each other.
        by_label: whether only labels say who is alike, so that rows of unknown label have no influence at all.
        unit: whether it takes rows as they come, of norm 1 already; a loss of another library may normalise again.
        ranks: whether to compare several ranks with one process (starts processes: seconds, once a session).

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    pairwise = bool(getattr(loss, "pairwise", False))
    calls = [square, oblong] if pairwise else [square]
    checks = [
        check("scalar with a gradient", _for_each, _check_result, loss, calls),
        check("arguments unchanged", _check_arguments, loss),
        check("state saved", _check_state, loss),
        check("edge cases", _for_each, _check_edges, loss, calls),
        check("row order", _for_each, _check_order, loss, calls),
        check("precisions", _for_each, _check_modes, loss, calls),
        check("rows taken as they come", _check_length, loss, option="unit"),
        check("gradcheck", _for_each, _check_gradient, loss, calls, option="gradcheck"),
        check("unknown labels", _for_each, _check_unknown, loss, calls, option="by_label"),
    ]
    if pairwise:
        checks.append(check("no pairs", _check_pairless, loss))
        checks.append(check("tiles", _check_tiles, loss))
        checks.append(check("memory", _check_memory, loss))
    checks.append(check("signs", check_signs, loss, option="signs"))
    checks.append(check("several ranks", check_ranks, loss, option="ranks"))
    return wanted(checks, gradcheck=gradcheck, signs=signs, by_label=by_label, unit=unit, ranks=ranks)


check_loss = running(loss_checks)


def _for_each(function: Callable[[Loss, Call], None], loss: Loss, calls: Sequence[Call]) -> None:
    for call in calls:
        function(loss, call)


def _name(loss: Loss) -> str:
    return str(getattr(loss, "__qualname__", type(loss).__name__))


def _same(one: Tensor, other: Tensor, tolerance: float = CLOSE) -> bool:
    return deviation(one, other) <= tolerance


def _check_result(loss: Loss, call: Call) -> None:
    value, gradient = evaluate(loss, plain(), call)
    check_scalar(loss, value)
    assert value.dtype == torch.float64, f"{_name(loss)} returns {value.dtype} for float64 rows"
    assert bool(gradient.any()), f"{_name(loss)} gives plain rows no gradient: is the graph cut, by detach or item?"


def _check_edges(loss: Loss, call: Call) -> None:
    wide, half = (torch.float64, torch.float32), (torch.float16, torch.bfloat16)
    for place, given in enumerate(edges()):
        for dtype in (*wide, *half) if place < 3 else wide:  # `rows` raises half precision, whatever the case
            one = given.to(dtype)
            try:
                value, gradient = evaluate(loss, one, call)
            except Exception as error:
                raise AssertionError(f"{_name(loss)} raises on {one.name}: {type(error).__name__}: {error}") from error
            finite = bool(one.rows().z.isfinite().all())
            assert not finite or value.isfinite(), f"{_name(loss)} is {value} on {one.name} (call: {call.__name__})"
            assert not finite or gradient.isfinite().all(), f"the gradient of {_name(loss)} is not finite on {one.name}"
            assert value.dtype in (torch.float32, torch.float64), f"{_name(loss)} computes in {value.dtype}"
            dead = given.z.abs().sum(1) == 0
            assert not gradient[dead].any(), f"{_name(loss)} gives zero rows a gradient: use rows() to normalise"
    broken = plain()
    broken.z[0] = torch.nan
    value, _ = evaluate(loss, broken, call)
    assert not value.isfinite(), f"{_name(loss)} is {value} though a row is NaN: that hides divergence"


def _check_pairless(loss: Loss) -> None:
    for given in pairless():
        value, gradient = evaluate(loss, given)
        assert value == 0, f"{_name(loss)} is {value} with {given.name}, expected 0: no pair has anything to say"
        assert not gradient.any(), f"{_name(loss)} has a gradient with {given.name}, though there is no pair"


def _check_order(loss: Loss, call: Call) -> None:
    given = plain()
    cut = 8 if call is oblong else len(given.z)  # anchors stay anchors
    order = torch.cat([shuffle(cut), cut + shuffle(len(given.z) - cut)])
    (value, gradient), (shuffled, of_shuffled) = in_order_and_shuffled(loss, given, order, call)
    assert _same(shuffled, value), f"{_name(loss)} is {value} or {shuffled} by the order of its rows"
    assert _same(of_shuffled, gradient), f"the gradient of {_name(loss)} depends on the order of the rows"


def _check_length(loss: Loss) -> None:
    given = plain().rows()
    half = Rows(given.z / 2, given.labels, given.items, given.ids, given.views)
    with torch.no_grad():
        value, of_half = square(fresh(loss), given), square(fresh(loss), half)
    assert not _same(of_half, value), (
        f"{_name(loss)} normalises rows again: it is {value} for rows of norm 1, and of norm 1/2 too. Rows have norm 1 "
        "already, and normalising a zero row again gives it a gradient of 1e12 or NaN: take `rows.z` as it comes"
    )


def _check_gradient(loss: Loss, call: Call) -> None:
    fault = gradient_fault(loss, plain(), call)
    assert fault is None, f"the gradient of {_name(loss)} is not that of its value: {fault}"


def _check_modes(loss: Loss, call: Call) -> None:
    single = plain().to(torch.float32)
    value, gradient = evaluate(loss, single, call)
    lower, of_lower = evaluate(loss, single, in_autocast(call))
    same = _same(lower, value, 1e-5) and _same(of_lower, gradient, 1e-5)
    assert same, f"{_name(loss)} is {lower} under bfloat16 autocast, {value} without: compute in float32 there"
    with torch.no_grad():
        bare = call(fresh(loss, torch.float32), single.rows())
    assert not bare.requires_grad, f"{_name(loss)} builds a graph under no_grad"
    assert _same(bare, value, 1e-5), f"{_name(loss)} is {bare} under no_grad, {value} with gradients"


def _check_unknown(loss: Loss, call: Call) -> None:
    given = plain()
    known = (given.labels >= 0).nonzero()[:, 0]
    value, gradient = evaluate(loss, given)
    alone, of_alone = evaluate(loss, given[known])
    assert _same(value, alone), f"{_name(loss)} is {value} with rows of unknown (negative) label and {alone} without"
    assert _same(gradient[known], of_alone), f"rows of unknown label change the gradients that {_name(loss)} gives"
    hidden = gradient[given.labels < 0]
    assert not hidden.any(), f"{_name(loss)} gives rows of unknown label a gradient"


def _check_arguments(loss: Loss) -> None:
    given = plain()
    passed = given.rows()
    before = copy.deepcopy(passed)
    fresh(loss)(passed, passed)
    for field in ("z", "labels", "items", "ids", "views"):
        same = torch.equal(getattr(before, field), getattr(passed, field))
        assert same, f"{_name(loss)} writes into the {field} of its rows"


def _check_state(loss: Loss) -> None:
    first, second = plain(), case("other rows", [3, 3, 1, 1, 0, 0], seed=1)
    value, again, other = after_saving(loss, [first, second], square)
    assert torch.equal(value, again) or bool(value.isnan() & again.isnan()), (
        f"{_name(loss)} gives {again} after its state was saved and loaded, {value} without: keep state in buffers"
    )
    assert_stateless(_name(loss), other, lambda: square(other, first.rows()), "keep state in buffers")


def _check_tiles(loss: Loss) -> None:
    for call in (square, oblong):
        value, gradient = evaluate(loss, plain(), call)
        for cells in (1, 10, 50):
            with forced_tile_cells(cells):
                tiled, of_tiled = evaluate(loss, plain(), call)
            same = _same(tiled, value) and _same(of_tiled, gradient)
            assert same, (
                f"{_name(loss)} depends on how rows are cut into tiles: {tiled} with tiles of {cells} cells, {value} "
                "with one; a row's terms may depend on that row of the pairs alone"
            )


def _check_memory(loss: Loss) -> None:
    n = 128
    given = case("many rows", [i // 2 for i in range(n)])
    for call in (square, oblong):
        with forced_tile_cells(4 * n), measure() as meter:
            evaluate(loss, given, call)
        pairs = n * n if call is square else n * ((2 * n + 2) // 3)
        assert meter.largest < pairs, (
            f"{_name(loss)} holds a tensor of {meter.largest} elements for {pairs} pairs: write it as terms of a "
            "PairLoss, which streams them"
        )
