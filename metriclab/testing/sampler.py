"""What every sampler keeps."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from metriclab.core.promises import check_batch, check_built
from metriclab.core.protocols import Sampler
from metriclab.testing.checks import Check, check, running, wanted
from metriclab.testing.state import assert_stateless

LARGEST_SEED = 2**63 - 1
"""A run gives seeds of 63 bits."""

Make = Callable[[np.ndarray], Sampler]


def sampler_checks(make: Make, *, labels: np.ndarray | None = None, shuffles: bool = True) -> list[Check]:
    """Checks a sampler: everything that batches, ranks and a resumed run rely on.

    An epoch gives `steps` batches of int64 indices of items that are there, none empty and none larger than
    `batch_size`, for every seed of 63 bits. It is a pure function of the seed: another call, another sampler and other
    epochs in between change nothing, global generators have no say and are left as they were. Another seed gives
    another order. Labels are not changed. What it says of its coverage is what it draws.

    Args:
        make: builds it from labels, as `functools.partial(build, "sampler", "mine")`.
        labels: of the items, negative for unknown; 640 items of 40 classes by default, of which a few are unknown.
        shuffles: whether the order is random.

    Raises:
        AssertionError: saying what is wrong and how to see it.
    """
    labels = _some_labels() if labels is None else np.asarray(labels, dtype=np.int64)
    checks = [
        check("batches", _check_batches, make, labels),
        check("pure function of the seed", _check_pure, make, labels),
        check("global generators", _check_generators, make, labels),
        check("labels unchanged", _check_labels, make, labels),
        check("another seed, another order", _check_shuffles, make, labels, option="shuffles"),
    ]
    return wanted(checks, shuffles=shuffles)


check_sampler = running(sampler_checks)


def _some_labels() -> np.ndarray:
    labels = (np.arange(640) * 7 % 40).astype(np.int64)
    labels[::31] = -1
    return labels


def _epoch(sampler: Any, seed: int) -> list[np.ndarray]:
    return [np.array(batch) for batch in sampler.epoch(seed)]


def _same(one: Sequence[np.ndarray], other: Sequence[np.ndarray]) -> bool:
    return len(one) == len(other) and all(map(np.array_equal, one, other))


def _check_batches(make: Make, labels: np.ndarray) -> None:
    sampler: Any = make(labels.copy())
    name = type(sampler).__name__
    check_built("sampler", sampler, labels)
    for seed in (0, 1, LARGEST_SEED):
        try:
            batches = list(sampler.epoch(seed))
        except Exception as error:
            raise AssertionError(f"{name}.epoch({seed}) raises {type(error).__name__}: {error}") from error
        found = len(batches)
        assert found == sampler.steps, f"{name}.epoch({seed}) gives {found} batches, and says steps = {sampler.steps}"
        for place, batch in enumerate(batches):
            check_batch(f"batch {place} of {name}.epoch({seed})", batch, sampler.batch_size, len(labels))
        if hasattr(sampler, "coverage"):
            items = np.unique(np.concatenate(batches))
            drawn, said = (len(items), len(np.unique(labels[items][labels[items] >= 0]))), sampler.coverage(seed)
            assert said == drawn, (
                f"{name}.coverage({seed}) is {said}, and the epoch draws {drawn[0]} items of {drawn[1]} classes"
            )


def _check_pure(make: Make, labels: np.ndarray) -> None:
    sampler = make(labels.copy())
    name = type(sampler).__name__
    before = _epoch(sampler, 3)
    _epoch(sampler, 4)
    assert _same(before, _epoch(sampler, 3)), (
        f"{name}.epoch(3) gives other batches in a second call: it must be a pure function of the seed, as a resumed "
        "run asks for the same epoch again"
    )
    same = _same(before, _epoch(make(labels.copy()), 3))
    assert same, f"{name}.epoch(3) gives other batches in another sampler of the same labels: ranks would differ"
    assert_stateless(name, sampler, lambda: _epoch(sampler, 3), "an epoch is a pure function of the seed")


def _check_generators(make: Make, labels: np.ndarray) -> None:
    kept = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        found, moved = [], []
        for seed in (1, 2):
            random.seed(seed)
            np.random.seed(seed)
            torch.manual_seed(seed)
            state = _generators()
            sampler = make(labels.copy())
            found.append(_epoch(sampler, 3))
            moved.append(state != _generators())
    finally:
        random.setstate(kept[0])
        np.random.set_state(kept[1])
        torch.set_rng_state(kept[2])
    advice = "draw from np.random.Generator(np.random.Philox(seed))"
    name = type(sampler).__name__
    assert _same(*found), f"{name}.epoch depends on a global generator and not on its seed alone: {advice}"
    assert not any(moved), f"{name} uses or seeds a global generator, which others draw from: {advice}"


def _generators() -> tuple[Any, ...]:
    words = np.random.get_state(legacy=False)["state"]
    # Not Python's own: checkers of types at run time draw from it.
    return words["key"].tobytes(), words["pos"], torch.get_rng_state().numpy().tobytes()


def _check_labels(make: Make, labels: np.ndarray) -> None:
    given = labels.copy()
    sampler = make(given)
    _epoch(sampler, 0)
    assert np.array_equal(given, labels), f"{type(sampler).__name__} writes into the labels it is given"


def _check_shuffles(make: Make, labels: np.ndarray) -> None:
    sampler = make(labels.copy())
    epochs = [_epoch(sampler, seed) for seed in (0, 1, 2)]
    alike = _same(epochs[0], epochs[1]) and _same(epochs[1], epochs[2])
    assert not alike, f"{type(sampler).__name__}.epoch gives the same order for every seed: each epoch would be alike"
