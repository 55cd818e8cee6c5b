from __future__ import annotations

import hashlib
from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.datasets.splits import carve, require_split, shares
from metriclab.errors import DataError, RecipeError

KEYS = st.lists(st.text(max_size=5), unique=True, min_size=6, max_size=30)


def test_a_share_is_the_upper_53_bits_of_a_hash_of_the_key():
    expected = (int.from_bytes(hashlib.blake2b("ä/1.jpg".encode(), digest_size=8).digest(), "little") >> 11) / 2**53
    assert shares(["x", "ä/1.jpg"])[1] == expected


@given(KEYS, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=50)
def test_the_order_of_the_keys_does_not_matter(keys, random):
    before = dict(zip(keys, carve(keys, {"val": 0.2, "test": 0.3}, place="x"), strict=True))
    random.shuffle(keys)
    assert dict(zip(keys, carve(keys, {"val": 0.2, "test": 0.3}, place="x"), strict=True)) == before


@given(KEYS)
@settings(deadline=None, max_examples=50)
def test_no_split_is_left_with_less_than_the_least(keys):
    counts = Counter(carve(keys, {"val": 0.01, "test": 0.98}, least=2, place="x").tolist())
    assert min(counts[split] for split in ("train", "val", "test")) >= 2
    assert counts.total() == len(keys)


def test_new_keys_move_no_others():
    keys = [f"{item}.jpg" for item in range(1000)]
    few = carve(keys[:500], {"val": 0.1, "test": 0.2}, place="x")
    many = carve(keys, {"val": 0.1, "test": 0.2}, place="x")
    assert (few == many[:500]).all()
    assert np.mean(many == "val") == pytest.approx(0.1, abs=0.03)
    assert np.mean(many == "test") == pytest.approx(0.2, abs=0.03)


def test_a_split_without_a_fraction_gets_nothing():
    assert set(carve(["a", "b"], {"val": 0.0, "test": 0.5}, place="x").tolist()) == {"train", "test"}


def test_too_few_keys_are_an_error():
    with pytest.raises(DataError) as error:
        carve(list("abcde"), {"val": 0.1, "test": 0.1}, least=2, what="classes", place="pets")
    assert str(error.value) == (
        "pets: 5 classes are too few to make 3 splits of at least 2\n"
        "  help: give it 6 or more, or make the splits yourself"
    )


def test_fractions_must_leave_something_to_train_on():
    with pytest.raises(RecipeError, match="val and test leave nothing to train on: their fractions add up to 1"):
        carve(list("abcde"), {"val": 0.5, "test": 0.5}, place="x")


def test_a_misspelt_split_is_an_error():
    with pytest.raises(RecipeError, match="there is no split 'tset'\n  help: the splits are train, val, test"):
        require_split("tset")
