import sys
from itertools import islice

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.distributed import rank_slice
from metriclab.errors import RecipeError
from metriclab.samplers import Balanced, Shuffled
from metriclab.samplers.bits import bits_of
from metriclab.samplers.classes import choose_groups, deal, most_batches

QUICK = settings(deadline=None, max_examples=60)


def rows(sampler: Balanced | Shuffled, seed: int) -> np.ndarray:
    """All items of an epoch in their order."""
    return np.concatenate(list(sampler.epoch(seed)))


def labels(items: int) -> np.ndarray:
    return np.zeros(items, dtype=np.int64)


@QUICK
@given(st.integers(1, 200), st.integers(1, 50), st.booleans(), st.integers(-(2**63), 2**64))
def test_every_item_comes_at_most_once_an_epoch(items: int, batch_size: int, drop_last: bool, seed: int):
    batch_size = min(batch_size, items)
    sampler = Shuffled(labels(items), batch_size=batch_size, drop_last=drop_last)
    batches = sampler.epoch(seed)
    seen = np.concatenate(batches)
    assert len(batches) == sampler.steps
    assert seen.dtype == np.int64
    assert len(np.unique(seen)) == len(seen)
    assert seen.min() >= 0
    assert seen.max() < items
    assert all(len(batch) == batch_size for batch in batches[:-1])
    rest = items % batch_size
    kept = 0 if drop_last or rest == 1 else rest
    assert len(seen) == items - rest + kept
    assert len(batches[-1]) == (kept or batch_size)


@QUICK
@given(st.integers(10, 100), st.integers(0, 2**62))
def test_the_order_is_a_pure_function_of_the_seed(items: int, seed: int):
    one, other = (Shuffled(labels(items), batch_size=5) for _ in range(2))
    one.epoch(seed + 1)
    order = np.concatenate(one.epoch(seed))
    assert np.array_equal(order, np.concatenate(other.epoch(seed)))
    np.random.seed(0)
    assert np.array_equal(order, np.concatenate(one.epoch(seed)))
    assert not np.array_equal(order, np.concatenate(one.epoch(seed + 1)))


def test_the_order_is_this_one():
    """A change of this order changes every run that was ever recorded."""
    assert np.concatenate(Shuffled(labels(10), batch_size=5).epoch(3)).tolist() == ORDER_OF_SEED_3


ORDER_OF_SEED_3 = [0, 1, 2, 7, 5, 6, 9, 8, 4, 3]


def test_every_place_is_equally_likely():
    sampler = Shuffled(labels(8), batch_size=8)
    counts = np.zeros((8, 8))
    for seed in range(2000):
        counts[np.arange(8), sampler.epoch(seed)[0]] += 1
    # Chi-squared with 49 degrees of freedom: above 100 once in 30,000.
    assert ((counts - 250) ** 2 / 250).sum() < 100


@pytest.mark.parametrize("drop_last", [True, False])
def test_a_batch_larger_than_the_data_set_is_refused(drop_last: bool):
    with pytest.raises(
        RecipeError, match=r"batch_size = 256 is larger than the data set of 100 items\n.*to 100 or less"
    ):
        Shuffled(labels(100), drop_last=drop_last)
    with pytest.raises(RecipeError, match=r"the data set of 0 items\n.*split has to have items"):
        Shuffled(labels(0))


@QUICK
@given(st.integers(1, 300), st.integers(1, 40))
def test_slices_cover_the_batch_in_order(rows: int, world: int):
    if rows < world:
        with pytest.raises(RecipeError, match=rf"{rows} rows cannot be divided among {world} processes\n.*batch_size"):
            rank_slice(rows, 0, world)
        return
    batch = np.arange(rows)
    parts = [batch[rank_slice(rows, rank, world)] for rank in range(world)]
    assert np.array_equal(np.concatenate(parts), batch)
    assert {len(part) for part in parts} <= {rows // world, -(-rows // world)}


def balanced_labels() -> st.SearchStrategy:
    return st.lists(st.integers(-1, 6), min_size=1, max_size=80).map(lambda values: np.array(values, dtype=np.int64))


@QUICK
@given(balanced_labels(), st.integers(1, 4), st.integers(1, 4), st.sampled_from(["skip", "repeat"]), st.integers(0, 9))
def test_every_balanced_batch_is_so_many_classes_of_so_many_items(known, classes, per_class, small, seed):
    sizes = np.bincount(known[known >= 0], minlength=7)
    large = np.flatnonzero(sizes >= (per_class if small == "skip" else 1))
    if len(large) < classes:
        with pytest.raises(RecipeError, match="classes_per_batch"):
            Balanced(known, classes_per_batch=classes, per_class=per_class, small=small)
        return
    sampler = Balanced(known, classes_per_batch=classes, per_class=per_class, small=small)
    batches = list(sampler.epoch(seed))
    assert len(batches) == sampler.steps >= 1
    seen = np.bincount(np.concatenate(batches), minlength=len(known))
    for batch in batches:
        assert batch.dtype == np.int64
        assert len(batch) == sampler.batch_size == classes * per_class
        drawn, counts = np.unique(known[batch], return_counts=True)
        assert len(drawn) == classes
        assert (counts == per_class).all()
        assert np.isin(drawn, large).all()
        for label in drawn:
            repeats = np.unique(batch[known[batch] == label], return_counts=True)[1]
            assert repeats.max() == 1 if sizes[label] >= per_class else len(repeats) == sizes[label]
    enough = known >= 0
    enough[enough] = sizes[known[enough]] >= per_class
    assert seen[enough].max(initial=0) <= 1


def batches_by_trying(groups: list[int], classes: int) -> int:
    """By trying: always the classes with the most groups left."""
    count = 0
    while sum(left > 0 for left in groups) >= classes:
        groups = sorted(groups, reverse=True)
        groups = [left - (place < classes) for place, left in enumerate(groups)]
        count += 1
    return count


@QUICK
@given(st.lists(st.integers(0, 25), min_size=4, max_size=9), st.integers(1, 4), st.integers(1, 3))
def test_a_balanced_epoch_has_as_many_batches_as_can_be_made(sizes, classes, per_class):
    known = np.repeat(np.arange(len(sizes), dtype=np.int64), sizes)
    groups = [size // per_class for size in sizes]
    if sum(group > 0 for group in groups) < classes:
        return
    sampler = Balanced(known, classes_per_batch=classes, per_class=per_class)
    assert sampler.steps == batches_by_trying(groups, classes)


def test_the_balanced_order_is_a_pure_function_of_the_seed():
    known = np.arange(60, dtype=np.int64) % 6
    one, other = (Balanced(known, classes_per_batch=3, per_class=4) for _ in range(2))
    one.epoch(8)
    order = rows(one, 7)
    assert np.array_equal(order, rows(other, 7))
    assert not np.array_equal(order, rows(one, 8))


def test_the_balanced_order_is_this_one():
    """A change of this order changes every run that was ever recorded."""
    sampler = Balanced(np.array([0, 0, 0, 1, 1, 1, 1, 2, 2, -1]), classes_per_batch=2, per_class=2)
    assert [batch.tolist() for batch in sampler.epoch(3)] == BALANCED_ORDER_OF_SEED_3


BALANCED_ORDER_OF_SEED_3 = [[5, 6, 7, 8], [4, 3, 2, 0]]


def test_every_item_of_a_large_class_is_equally_likely():
    # Class 0 has 5 items, of which each epoch takes 4; class 1 has 3 and class 2 has 4, in groups of two.
    known = np.array([0] * 5 + [1] * 3 + [2] * 4)
    sampler = Balanced(known, classes_per_batch=2, per_class=2)
    seen = sum(np.bincount(rows(sampler, seed), minlength=12) for seed in range(2000))
    for label, size in enumerate((5, 3, 4)):
        counts = seen[known == label]
        assert len(counts) == size
        assert (np.abs(counts - counts.mean()) < 5 * np.sqrt(counts.mean())).all()


def test_classes_meet_one_another_equally_often():
    known = np.repeat(np.arange(6), 8)
    met = np.zeros((6, 6))
    for seed in range(300):
        for batch in Balanced(known, classes_per_batch=2, per_class=2).epoch(seed):
            a, b = np.unique(known[batch])
            met[a, b] += 1
    pairs = met[np.triu_indices(6, 1)]  # 300 epochs of 12 batches over 15 pairs: 240 each
    assert pairs.sum() == 3600
    assert (np.abs(pairs - 240) < 5 * np.sqrt(240)).all()


def test_batches_of_one_epoch_are_mixed():
    """Where a class comes in many batches, any two classes are together as often as chance has it, in each epoch."""
    known = np.repeat(np.arange(12), 400)
    batches = np.array(list(Balanced(known, classes_per_batch=6, per_class=2).epoch(0)))
    has = np.stack([np.isin(batches, np.flatnonzero(known == label)).any(1) for label in range(12)], 1).astype(int)
    together = (has.T @ has)[np.triu_indices(12, 1)]  # of 400 batches, 200 with each: 400 * 6 * 5 / (12 * 11)
    assert has.sum(0).tolist() == [200] * 12
    assert (np.abs(together - 400 * 30 / 132) < 40).all()
    assert len(np.unique(has, axis=0)) > 250  # of 924 choices, where independent draws would give 325


def calls(classes: int, batches: int) -> int:
    """Python and C calls from labels to so many batches of an epoch."""
    known, counted = np.repeat(np.arange(classes), 9), 0

    def count(frame, event, argument):
        nonlocal counted
        counted += event in ("call", "c_call")

    sys.setprofile(count)
    try:
        for _ in islice(Balanced(known, classes_per_batch=8, per_class=4).epoch(0), batches):
            pass
    finally:
        sys.setprofile(None)
    return counted


def test_many_classes_take_hardly_more_operators_than_few():
    calls(100, 1)
    first = [calls(classes, 1) for classes in (20_000, 60_000)]
    assert first[1] < 1.3 * first[0]  # epochs of 5,000 and of 15,000 batches
    more = [calls(classes, 200) - before for classes, before in zip((20_000, 60_000), first, strict=True)]
    assert more[1] < 1.1 * more[0]
    assert more[1] < 200 * first[0] / 5


@QUICK
@given(st.lists(st.integers(0, 12), min_size=3, max_size=9), st.integers(1, 3), st.integers(0, 2**62))
def test_every_class_is_dealt_as_often_as_was_asked(left: list[int], count: int, seed: int):
    groups = np.array(left)
    batches = most_batches(groups, count)
    if batches == 0:
        return
    chosen = choose_groups(groups, batches, count, bits_of(seed))
    assert (chosen <= np.minimum(groups, batches)).all()
    dealt = list(deal(chosen, batches, bits_of(seed)))
    assert [len(np.unique(classes)) for classes in dealt] == [count] * batches
    assert np.bincount(np.concatenate(dealt), minlength=len(left)).tolist() == chosen.tolist()


def test_a_batch_does_not_depend_on_how_many_are_taken():
    known = np.arange(600, dtype=np.int64) % 60
    whole = list(Balanced(known, classes_per_batch=5, per_class=3).epoch(4))
    part = list(islice(Balanced(known, classes_per_batch=5, per_class=3).epoch(4), 7))
    assert all(map(np.array_equal, whole, part))


def test_what_an_epoch_covers_is_known_before_it_is_drawn():
    known = np.repeat(np.arange(5), [9, 8, 2, 7, 1])
    for small, items, classes in (("skip", 24, 3), ("repeat", 24, 5)):
        sampler = Balanced(known, classes_per_batch=2, per_class=4, small=small)
        for seed in range(20):
            drawn = np.unique(rows(sampler, seed))
            assert sampler.coverage(seed) == (len(drawn), len(np.unique(known[drawn])))
            assert sampler.coverage(seed) <= (items, classes)


def test_small_classes_are_left_out_repeated_or_refused():
    known = np.array([0, 0, 0, 0, 1, 1, 1, 1, 2])
    assert 8 not in rows(Balanced(known, classes_per_batch=2, per_class=4), 0)
    (batch,) = Balanced(known, classes_per_batch=3, per_class=4, small="repeat").epoch(0)
    assert (batch == 8).sum() == 4
    message = r"1 classes have fewer items than sampler.per_class = 4, the first the one of label 2 with 1\n.*small"
    with pytest.raises(RecipeError, match=message):
        Balanced(known, classes_per_batch=2, per_class=4, small="error")


def test_too_few_classes_are_refused_with_the_number_there_is():
    known = np.array([0, 0, 1, 1, 2])
    message = r"classes_per_batch = 3 is more than the 2 classes that can be drawn from \(sampler.per_class = 2\)\n"
    with pytest.raises(RecipeError, match=message + r".*to 2 or less; the training split has 3 classes"):
        Balanced(known, classes_per_batch=3, per_class=2)
    with pytest.raises(RecipeError, match=r"the 0 classes .*\n.*a smaller sampler.per_class"):
        Balanced(known, classes_per_batch=1, per_class=3)
    with pytest.raises(RecipeError, match=r"the 0 classes .*\n.*has to have labels; sampler 'shuffled' needs none"):
        Balanced(np.full(5, -1), classes_per_batch=1, per_class=1)


@QUICK
@given(st.data(), st.integers(1, 4), st.sampled_from(["skip", "repeat"]), st.integers(0, 2**62))
def test_items_of_a_class_come_from_as_many_groups_as_it_has(data, per_class: int, small: str, seed: int):
    """No group comes more often in a part of its class than it must: its items over the parts, rounded up."""
    of_class = np.array(data.draw(st.lists(st.integers(0, 3), min_size=12, max_size=50)))
    groups = np.array(data.draw(st.lists(st.integers(-1, 5), min_size=len(of_class), max_size=len(of_class))))
    settings = {"classes_per_batch": 1, "per_class": per_class, "small": small}
    try:
        plain, spread = Balanced(of_class, **settings), Balanced(of_class, **settings, across="groups")
    except RecipeError:
        return
    spread.use_groups(groups)
    batches, again = list(spread.epoch(seed)), list(spread.epoch(seed))
    assert np.array_equal(batches, again)
    assert len(batches) == spread.steps == plain.steps
    drawn = np.concatenate(batches)
    for label in np.unique(of_class[drawn]):
        mine, parts = np.flatnonzero(of_class == label), [part for part in batches if of_class[part[0]] == label]
        assert all((of_class[part] == label).all() for part in parts)
        if len(mine) >= per_class:
            flat = np.concatenate(parts)
            assert len(np.unique(flat)) == len(flat)
        whole = max(len(mine) // per_class, 1)
        for part in parts if len(mine) >= per_class else []:
            for group in set(groups[part].tolist()) - {-1}:
                assert (groups[part] == group).sum() <= -(-(groups[mine] == group).sum() // whole)


def test_each_item_is_as_likely_to_come_whatever_its_group():
    of_class, groups = np.array([0] * 9 + [1] * 3), np.array([0, 0, 0, 0, 1, 1, 2, 3, 3, 0, 1, 2])
    sampler = Balanced(of_class, classes_per_batch=2, per_class=3, across="groups")
    sampler.use_groups(groups)
    counts = np.zeros(12)
    for seed in range(900):
        (batch,) = sampler.epoch(seed)
        counts[batch] += 1
    assert (counts[9:] == 900).all()
    assert np.abs(counts[:9] / 900 - 1 / 3).max() < 0.1


def test_classes_of_fewer_groups_are_told():
    sampler = Balanced(np.array([5, 5, 5, 7, 7, 7, 9]), classes_per_batch=1, per_class=3, across="groups")
    sampler.use_groups(np.array([0, 1, 2, 0, 0, 3, 0]))
    assert sampler.note == (
        "1 of 2 classes that are drawn have items of fewer than sampler.per_class = 3 groups, so some that come "
        "together are of one (the first has label 7 and 2)"
    )
    sampler.use_groups(np.array([0, 1, 2, 0, -1, -1, 0]))  # nobody knows that these are of one group
    assert sampler.needs == ("groups",)


def test_groups_change_nothing_where_they_are_not_asked_for():
    of_class = np.arange(40) % 5
    one, other = (Balanced(of_class, classes_per_batch=2, per_class=3) for _ in range(2))
    assert (one.needs, one.note) == ((), None)
    assert np.array_equal(list(one.epoch(4)), list(other.epoch(4)))
