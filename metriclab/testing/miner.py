"""What every miner keeps."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from metriclab.core.pairs import Pairs, all_pairs
from metriclab.core.promises import check_mined
from metriclab.core.protocols import Miner
from metriclab.distributed import map_tensors
from metriclab.testing.cases import Case, case, edges, plain, shuffle
from metriclab.testing.checks import Check, check, running, wanted
from metriclab.testing.mined_loss import RULE, check_ranks, check_tiles
from metriclab.testing.state import assert_stateless


def miner_checks(miner: Miner, *, rounding: bool = True, device: bool = True, ranks: bool = True) -> list[Check]:
    """Checks a miner on the edge cases of the field, in tiles and on several ranks.

    Its masks shrink and nothing else changes; an anchor's choice depends on its own pairs alone, not on the order of
    rows, nor on tiles, ranks, or an earlier call; and a row that is NaN stays in sight of the loss.

    Args:
        miner: the component, built. For `ranks` it must be picklable.
        rounding: whether similarities that differ by rounding alone are chosen alike, as ties are.
        device: whether it runs on tensors without values, so that a GPU need never wait for it.
        ranks: whether to compare several ranks with one process (starts processes: seconds, once a session).

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    tied = [one for one in edges() if one.name in ("identical rows", "opposite rows")]
    cases = [plain(), many(), *tied]
    every = [given.to(dtype) for given in [*edges(), many()] for dtype in (torch.float64, torch.float32)]
    checks = [
        check("masks only shrink", _for_each, _check_masks, miner, every),
        check("no rows", _check_nothing, miner),
        check("pure function", _for_each, _check_again, miner, cases),
        check("row order", _for_each, _check_order, miner, cases),
        check("parts of the anchors", _for_each, _check_parts, miner, cases),
        check("pairs alone looked at", _for_each, _check_other_cells, miner, cases),
        check("rounding", _for_each, _check_rounding, miner, cases, option="rounding"),
        check("precisions", _check_precision, miner),
        check("NaN in sight", _check_broken, miner),
        check("no values read on the host", _check_device, miner, option="device"),
        check("tiles", check_tiles, _name(miner), miner, [plain(), many()]),
        check("several ranks", check_ranks, _name(miner), miner, [plain(), many()], option="ranks"),
    ]
    return wanted(checks, rounding=rounding, device=device, ranks=ranks)


check_miner = running(miner_checks)


def _for_each(function: Callable[[Miner, Case], None], miner: Miner, cases: Sequence[Case]) -> None:
    for given in cases:
        function(miner, given)


def many() -> Case:
    """So many rows that most miners have to choose, some of them near each other."""
    return case("many rows", [i % 7 for i in range(40)], width=3, seed=2)


def against_itself(given: Case) -> Pairs:
    """The rows against themselves."""
    return all_pairs(given.rows(), given.rows())


def _name(miner: Miner) -> str:
    function: Any = getattr(miner, "func", miner)  # of a functools.partial
    return str(getattr(function, "__qualname__", type(miner).__name__))


def _cut(pairs: Pairs, anchors: slice | Tensor, references: slice | Tensor = slice(None)) -> Pairs:
    cells = (pairs.similarity, pairs.positive, pairs.negative)
    similarity, positive, negative = (cell[anchors][:, references] for cell in cells)
    return Pairs(
        similarity, positive, negative, pairs.anchors[anchors], pairs.references[references], pairs.embedding_dim
    )


def _same(one: Pairs, other: Pairs) -> bool:
    return torch.equal(one.positive, other.positive) and torch.equal(one.negative, other.negative)


def _mine(miner: Miner, pairs: Pairs, what: str) -> Any:
    try:
        return miner(pairs)
    except Exception as error:
        raise AssertionError(f"{_name(miner)} raises on {what}: {type(error).__name__}: {error}") from error


def _check_masks(miner: Miner, given: Case) -> None:
    pairs = against_itself(given)
    some = slice((2 * len(given.z) + 2) // 3)
    _check_result(miner, pairs, given.name)
    _check_result(miner, _cut(pairs, some), f"{given.name}, two thirds of them anchors")


def _check_nothing(miner: Miner) -> None:
    """A rank without anchors, or an empty memory."""
    pairs, every, none = against_itself(plain()), slice(None), slice(0)
    _check_result(miner, _cut(pairs, none, every), "no anchors")
    _check_result(miner, _cut(pairs, every, none), "no references")
    _check_result(miner, _cut(pairs, none, none), "no rows at all")


def _check_result(miner: Miner, pairs: Pairs, what: str) -> None:
    before = copy.deepcopy(pairs)
    check_mined(_name(miner), _mine(miner, pairs, what), pairs, what)
    assert _equal(before, pairs), f"{_name(miner)} writes into its pairs"


def _equal(one: Pairs, other: Pairs) -> bool:
    same = [torch.equal(one.similarity.nan_to_num(9), other.similarity.nan_to_num(9)), _same(one, other)]
    for side in ("anchors", "references"):
        ours, theirs = getattr(one, side), getattr(other, side)
        same += [torch.equal(getattr(ours, key), getattr(theirs, key)) for key in ("labels", "items", "ids", "views")]
    return all(same)


def _check_again(miner: Miner, given: Case) -> None:
    advice = "it must be a pure function; draw from the ids of anchors and references"
    miner = copy.deepcopy(miner)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        first = miner(against_itself(given))
        miner(against_itself(plain()))
        second = miner(against_itself(given))
    assert _same(first, second), f"{_name(miner)} chooses otherwise in a second call on {given.name}: {advice}"
    assert_stateless(_name(miner), miner, lambda: miner(against_itself(given)), advice)


def _check_order(miner: Miner, given: Case) -> None:
    pairs = against_itself(given)
    mined, n = miner(pairs), len(given.z)
    same_order, other = torch.arange(n), shuffle(n)
    for what, order in (("anchors", (other, same_order)), ("references", (same_order, other))):
        same = _same(_cut(mined, *order), miner(_cut(pairs, *order)))
        assert same, f"{_name(miner)} chooses by the order of {what} on {given.name}: {RULE}; keep all that tie"


def _check_parts(miner: Miner, given: Case) -> None:
    pairs, n = against_itself(given), len(given.z)
    mined = miner(pairs)
    for borders in ([0, n // 2, n], [0, 0, 1, 2, n // 3, n - 1, n]):
        for start, stop in pairwise(borders):
            part = slice(start, stop)
            same = _same(_cut(mined, part), miner(_cut(pairs, part)))
            assert same, f"{_name(miner)} depends on which anchors are in the same tile, on {given.name}: {RULE}"


def _check_other_cells(miner: Miner, given: Case) -> None:
    pairs = against_itself(given)
    for similarity in (1.0, -1.0):
        others = pairs.similarity.masked_fill(~(pairs.positive | pairs.negative), similarity)
        assert _same(miner(pairs), miner(replace(pairs, similarity=others))), (
            f"{_name(miner)} looks at cells that are neither positive nor negative on {given.name}, such as a row and "
            "itself or rows of unknown label: mask similarities before taking a maximum"
        )


def _check_rounding(miner: Miner, given: Case) -> None:
    pairs = against_itself(given)
    step = torch.finfo(pairs.similarity.dtype).eps
    anchors, references = torch.arange(len(pairs.anchors)), torch.arange(len(pairs.references))
    steps = (7 * anchors[:, None] + references) % 3 - 1  # one up, one down, or none, in turn
    rounded = replace(pairs, similarity=pairs.similarity + step * steps)
    assert _same(miner(pairs), miner(rounded)), (
        f"{_name(miner)} chooses by rounding alone on {given.name}: a product summed in another order must give the "
        "same pairs, so take similarities within some epsilons of the type for equal"
    )


def _check_precision(miner: Miner) -> None:
    given = many()
    same = _same(miner(against_itself(given)), miner(against_itself(given.to(torch.float32))))
    assert same, f"{_name(miner)} chooses otherwise in float32 than in float64 on {given.name}"


def _check_broken(miner: Miner) -> None:
    for row in range(len(plain().z)):
        broken = plain()
        broken.z[row] = torch.nan
        if broken.labels[row] >= 0:
            mined = miner(against_itself(broken))
            seen = ((mined.positive | mined.negative) & mined.similarity.isnan()).any()
            assert seen, (
                f"{_name(miner)} leaves out all pairs of a row that is NaN, which hides divergence: compare as "
                "~(s <= bound), which is true for NaN"
            )


def _check_device(miner: Miner) -> None:
    given: Any = copy.deepcopy(miner)
    if isinstance(given, nn.Module):
        given.to("meta")
    without_values = map_tensors(lambda tensor: tensor.to("meta"), _fields(against_itself(plain())))
    try:
        given(Pairs(**without_values, embedding_dim=5))
    except Exception as error:
        raise AssertionError(
            f"{_name(miner)} cannot run on tensors without values ({type(error).__name__}: {error}): it reads values "
            "on the host, by .item(), nonzero or a boolean index, or makes tensors on another device than its pairs"
        ) from error


def _fields(pairs: Pairs) -> dict[str, Any]:
    names = ("similarity", "positive", "negative", "anchors", "references")
    return {name: getattr(pairs, name) for name in names}
