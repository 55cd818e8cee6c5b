import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.core.errors import RecipeError
from metriclab.samplers import Shuffled, rank_slice

QUICK = settings(deadline=None, max_examples=60)


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
