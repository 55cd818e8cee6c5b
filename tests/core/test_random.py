from __future__ import annotations

import dataclasses

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.core.random import RandomKeys, absorb, mix, pair_uniform, to_uniform

MASK = (1 << 64) - 1
INT64 = st.integers(-(2**63), 2**63 - 1)


def splitmix(x: int) -> int:
    """The finaliser in unbounded integers."""
    x = ((x ^ (x >> 30)) * 0xBF58476D1CE4E5B9) & MASK
    x = ((x ^ (x >> 27)) * 0x94D049BB133111EB) & MASK
    return x ^ (x >> 31)


def unmix(x: int) -> int:
    """Its inverse: shifts undone from the top bits down, products by the inverse modulo 2^64."""
    for shift, factor in ((31, 0x94D049BB133111EB), (27, 0xBF58476D1CE4E5B9), (30, 1)):
        y = x
        for _ in range(64 // shift + 1):
            y = x ^ (y >> shift)
        x = (y * pow(factor, -1, 1 << 64)) & MASK
    return x


def random_keys(n: int = 4, seed: int = 0, epoch: int = 0) -> RandomKeys:
    return RandomKeys(seed, epoch, torch.arange(n), torch.zeros(n, dtype=torch.int64))


@given(st.lists(INT64, min_size=1, max_size=20))
@settings(deadline=None, max_examples=50)
def test_mix_is_the_finaliser_of_splitmix64_and_a_bijection(values):
    mixed = [value & MASK for value in mix(torch.tensor(values)).tolist()]
    assert mixed == [splitmix(value & MASK) for value in values]
    assert [unmix(value) for value in mixed] == [value & MASK for value in values]


def test_mix_gives_the_published_stream():
    # SplitMix64 from state 1234567: the first numbers of the reference implementation.
    increment = 0x9E3779B97F4A7C15
    states = [(1234567 + increment * k) & MASK for k in range(1, 4)]
    signed = torch.tensor([state - (1 << 64) if state >> 63 else state for state in states])
    assert [value & MASK for value in mix(signed).tolist()] == [
        6457827717110365317,
        3203168211198807973,
        9817491932198370423,
    ]


@given(INT64, INT64, INT64)
@settings(deadline=None, max_examples=50)
def test_absorb_tells_two_parts_of_a_key_apart(state, a, b):
    first, second = absorb(torch.tensor([state, state]), torch.tensor([a, b])).tolist()
    assert (first == second) == (a == b)


def test_to_uniform_covers_the_half_open_interval():
    bits = torch.tensor([0, -1, 2**62, -(2**63)])
    assert to_uniform(bits).tolist() == [0.0, 1 - 2**-24, 0.25, 0.5]


# Worked out in unbounded integers.
GOLDEN = [
    [0.39896315336227417, 0.26792609691619873, 0.9303287267684937],
    [0.1935732364654541, 0.8431090116500854, 0.9944451451301575],
    [0.33127301931381226, 0.9856231808662415, 0.9510447978973389],
]


def test_golden_values():
    keys = RandomKeys(42, 3, torch.tensor([0, 7, 123456789]), torch.tensor([0, 1, 0]))
    assert keys.uniform(1, 2, 3).tolist() == GOLDEN


def test_numbers_look_uniform():
    x = random_keys(20000).uniform(0, 0, 8).double()
    assert x.dtype == torch.float64
    assert x.min() >= 0
    assert x.max() < 1
    count = x.numel()
    assert x.mean().item() == pytest.approx(1 / 2, abs=4 * (1 / 12 / count) ** 0.5)
    assert x.var().item() == pytest.approx(1 / 12, abs=4 * (1 / 180 / count) ** 0.5)
    frequencies = torch.histc(x, 64, 0, 1)
    # Chi-square with 63 degrees of freedom, the 0.1 % level.
    assert ((frequencies - count / 64).square() / (count / 64)).sum() < 103.4


def test_columns_streams_views_items_epochs_and_repeats_are_uncorrelated():
    n = 20000
    base = random_keys(n)
    series = {
        "columns": base.uniform(0, 0, 3).T,
        "stream": base.uniform(0, 1).T,
        "view": base.uniform(1, 0).T,
        "next item": base.uniform(0, 0).roll(1, 0).T,
        "epoch": random_keys(n, epoch=1).uniform(0, 0).T,
        "seed": random_keys(n, seed=1).uniform(0, 0).T,
        "repeats": dataclasses.replace(base, repeats=torch.ones(n, dtype=torch.int64)).uniform(0, 0).T,
    }
    correlation = torch.corrcoef(torch.cat(list(series.values())).double())
    correlation.fill_diagonal_(0)
    assert correlation.abs().max() < 4.5 / n**0.5


def test_no_two_keys_share_their_numbers():
    seen = []
    for seed in range(3):
        for epoch in range(3):
            for view in range(3):
                for stream in range(3):
                    seen.append(random_keys(40, seed, epoch).uniform(view, stream, 4))
    rows = torch.cat(seen)
    assert len(rows.unique(dim=0)) == len(rows)


def test_parts_of_the_key_do_not_stand_in_for_each_other():
    items = torch.tensor([1])
    ones, twos = torch.tensor([1]), torch.tensor([2])
    permuted = [
        RandomKeys(1, 2, items * 3, ones * 4).uniform(5, 6),
        RandomKeys(2, 1, items * 3, ones * 4).uniform(5, 6),
        RandomKeys(1, 3, twos, ones * 4).uniform(5, 6),
        RandomKeys(1, 2, items * 4, ones * 3).uniform(5, 6),
        RandomKeys(1, 2, items * 3, ones * 5).uniform(4, 6),
        RandomKeys(1, 2, items * 3, ones * 4).uniform(6, 5),
    ]
    assert len({value.item() for value in permuted}) == len(permuted)


@given(st.permutations(range(8)), st.integers(0, 2**62), st.integers(0, 2**31), st.integers(1, 5))
@settings(deadline=None, max_examples=25)
def test_an_image_keeps_its_numbers_in_any_batch(order, seed, epoch, count):
    items, repeats = torch.arange(8) * 1000003, torch.arange(8) % 3
    index = torch.tensor(order)
    whole = RandomKeys(seed, epoch, items, repeats).uniform(0, 1, count)
    part = RandomKeys(seed, epoch, items[index][:3], repeats[index][:3]).uniform(0, 1, count)
    assert torch.equal(part, whole[index][:3])
    # Asking for more numbers does not change the first ones.
    assert torch.equal(RandomKeys(seed, epoch, items, repeats).uniform(0, 1, count + 2)[:, :count], whole)


def test_numbers_of_pairs_are_those_of_both_ids_in_unbounded_integers():
    def expected(seed, anchor, reference):
        state = 0
        for part in (seed, anchor, reference):
            state = splitmix((state * 3 + part + 0x9E3779B97F4A7C15) & MASK)
        return (state >> 40) * 2.0**-24

    anchors, references = [0, 7, -(2**61)], [7, 2**40, -3, 0]
    numbers = pair_uniform(5, torch.tensor(anchors), torch.tensor(references))
    assert numbers.tolist() == [[expected(5, a, r) for r in references] for a in anchors]
    assert pair_uniform(5, torch.arange(0), torch.arange(3)).shape == (0, 3)
