"""Tests and intervals against slow ones of their own, and against what they promise in simulated experiments."""

from __future__ import annotations

import itertools
from functools import cache

import numpy as np
import pytest
from scipy import stats

from metriclab.comparison import statistics
from metriclab.comparison.statistics import (
    class_bootstrap,
    class_errors,
    least_difference,
    search_spread,
    sign_flip_test,
    smallest_p,
    sum_by_class,
    t_interval,
)


def test_the_t_interval_is_that_of_scipy():
    values = np.array([0.31, 0.35, 0.33, 0.30])
    interval = t_interval(values)
    expected = stats.ttest_1samp(values, 0.0).confidence_interval(0.95)
    assert (interval.low, interval.high) == pytest.approx(tuple(expected), abs=1e-12)


def test_one_value_has_no_interval_and_equal_ones_have_one_of_no_width():
    assert t_interval(np.array([0.3])) is None
    same = t_interval(np.array([0.5, 0.5, 0.5]))
    assert (same.low, same.high) == (0.5, 0.5)
    assert same.holds(0.5)
    assert not same.holds(0.0)


def test_class_sums_are_in_the_order_of_the_labels():
    sums, counts = sum_by_class(np.array([[1.0, 2.0, 4.0], [0.5, 0.0, 1.0]]), np.array([2**24 + 1, 2**24, 2**24 + 1]))
    np.testing.assert_array_equal(sums, [[2.0, 5.0], [0.0, 1.5]])
    np.testing.assert_array_equal(counts, [1.0, 2.0])


def naive_p(sums: np.ndarray) -> list[float]:
    """All flips of all classes, one at a time."""
    pairs, classes = sums.shape
    scale = [sum(value**2 for value in row) ** 0.5 for row in sums]
    observed = [abs(sum(row)) / scale[p] for p, row in enumerate(sums)]
    reached = [0] * pairs
    for signs in itertools.product((1, -1), repeat=classes):
        largest = max(abs(sum(s * v for s, v in zip(signs, row))) / scale[p] for p, row in enumerate(sums))
        for p in range(pairs):
            reached[p] += largest >= observed[p] - 1e-9
    return [count / 2**classes for count in reached]


def test_few_classes_are_tested_by_all_their_flips():
    sums = np.random.default_rng(3).normal(0.4, 1.0, (3, 7))
    assert sign_flip_test(sums).tolist() == pytest.approx(naive_p(sums), abs=1e-12)


@pytest.mark.parametrize("classes", [8, 40])
def test_one_pair_alone_is_the_permutation_test_of_scipy(classes):
    sums = np.random.default_rng(5).normal(0.3, 1.0, classes)
    expected = stats.permutation_test(
        (sums,), np.sum, permutation_type="samples", n_resamples=20_000, rng=np.random.default_rng(0)
    )
    assert sign_flip_test(sums[None])[0] == pytest.approx(expected.pvalue, abs=0.012)


def test_more_pairs_make_each_p_larger_and_their_spread_does_not_matter():
    sums = np.random.default_rng(1).normal(0.3, 1.0, (5, 30))
    alone, together = sign_flip_test(sums[:1]), sign_flip_test(sums)
    assert together[0] > alone[0]
    np.testing.assert_allclose(sign_flip_test(sums * np.array([[1.0], [100.0], [1.0], [1e-3], [1.0]])), together)


def test_pairs_that_never_differ_have_no_evidence():
    np.testing.assert_array_equal(sign_flip_test(np.zeros((2, 30))), [1.0, 1.0])
    assert class_bootstrap(np.zeros((1, 30)), np.ones(30))[0].half == 0.0


def test_no_p_is_below_what_its_classes_allow():
    for classes in (2, 5, 14, 15, 200):
        assert sign_flip_test(np.ones((1, classes)))[0] == pytest.approx(smallest_p(classes))
    assert smallest_p(5) > 0.05 > smallest_p(6)


def test_the_bootstrap_is_centred_and_shrinks_with_the_number_of_classes():
    generator = np.random.default_rng(2)
    widths = []
    for classes in (20, 80, 320):
        counts = generator.integers(5, 20, classes).astype(float)
        sums = generator.normal(0.1, 0.2, classes) * counts
        (interval,) = class_bootstrap(sums[None], counts)
        assert interval.holds(float(sums.sum() / counts.sum()))
        widths.append(interval.half)
    assert widths[0] > 1.5 * widths[1] > 2.2 * widths[2]


def test_one_class_tells_nothing():
    (interval,) = class_bootstrap(np.array([[3.0]]), np.array([10.0]))
    assert interval.holds(-1e9)
    assert interval.holds(1e9)
    assert sign_flip_test(np.array([[3.0]]))[0] == 1.0


def test_the_same_numbers_give_the_same_answers():
    sums = np.random.default_rng(4).normal(0.1, 1.0, (3, 60))
    np.testing.assert_array_equal(sign_flip_test(sums), sign_flip_test(sums))
    assert class_bootstrap(sums, np.ones(60)) == class_bootstrap(sums, np.ones(60))


def test_the_least_difference_of_two_entries_is_that_of_a_t_test_where_classes_are_many():
    runs = [np.array([0.30, 0.32, 0.31]), np.array([0.35, 0.38, 0.36])]
    (least,) = least_difference(runs, np.zeros(1), np.array([2 / 3]))
    (low, high) = stats.ttest_ind(runs[1], runs[0]).confidence_interval(0.95)
    assert least == pytest.approx((high - low) / 2, rel=1e-6)


def test_the_least_difference_grows_with_the_entries_and_with_either_error():
    runs = [np.array([0.30, 0.32, 0.31]), np.array([0.35, 0.38, 0.36])]
    share = np.array([2 / 3])
    (two,) = least_difference(runs, np.array([0.01]), share)
    assert least_difference(runs, np.array([0.02]), share)[0] > two
    same = np.array([0.2, 0.2, 0.2])  # raw pixels: no luck, and none to be pooled
    assert least_difference([*runs, same], np.array([0.01]), share)[0] > two
    (without_luck,) = least_difference([same, same], np.array([0.01]), share)
    assert without_luck == pytest.approx(0.01 * stats.norm.ppf(0.975), rel=1e-4)


def test_the_error_over_classes_is_that_of_their_means_where_classes_are_equal():
    sums = np.random.default_rng(6).normal(0, 1.0, (2, 50))
    expected = (sums / 8).std(1, ddof=1) / 50**0.5
    np.testing.assert_allclose(class_errors(sums, np.full(50, 8.0)), expected)


# From here on the experiments: entries whose queries are alike within a class, trained with several seeds.


def world(generator: np.random.Generator, entries: int, classes: int, effect: float = 0.0, seeds: int = 3):
    """Scores (entry, seed, query) and labels; the first entry is better by the effect."""
    labels = np.repeat(np.arange(classes), generator.integers(5, 25, classes))
    difficulty = generator.normal(0.5, 0.2, classes)[labels] + generator.normal(0, 0.25, len(labels))
    of_entry = generator.normal(0, 0.06, (entries, 1, classes))[..., labels]  # classes that a recipe happens to suit
    of_seed = generator.normal(0, 0.05, (entries, seeds, classes))[..., labels]
    level = generator.normal(0, 0.004, (entries, seeds, 1))
    scores = difficulty + of_entry + of_seed + level + generator.normal(0, 0.1, (entries, seeds, len(labels)))
    scores[0] += effect
    return scores, labels


def found(scores: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Which pairs of entries are found to differ, by all that a verdict asks for."""
    pairs = list(itertools.combinations(range(len(scores)), 2))
    differences = np.stack([scores[a] - scores[b] for a, b in pairs])
    sums, counts = sum_by_class(differences.mean(1), labels)
    of_seeds = np.array([t_interval(pair.mean(1)).holds(0.0) for pair in differences])
    share = np.full(len(pairs), 2 / scores.shape[1])
    least = least_difference(list(scores.mean(2)), class_errors(sums, counts), share)
    return (sign_flip_test(sums) < 0.05) & ~of_seeds & (np.abs(differences.mean((1, 2))) > least)


@pytest.fixture
def flips_once(monkeypatch) -> None:
    """Flips of one number of classes are the same in every test of theirs; here they are drawn once."""
    monkeypatch.setattr(statistics, "_sign_flips", cache(lambda classes, draw=statistics._sign_flips: [*draw(classes)]))


@pytest.mark.slow
@pytest.mark.parametrize("classes", [40, 300])
@pytest.mark.parametrize("entries", [2, 5, 10])
def test_without_a_difference_hardly_any_is_found(entries, classes, flips_once):
    generator, trials = np.random.default_rng(7), 200
    wrong = [found(*world(generator, entries, classes)).any() for _ in range(trials)]
    assert np.mean(wrong) <= 0.05


@pytest.mark.slow
def test_a_planted_difference_is_found(flips_once):
    generator = np.random.default_rng(8)
    pairs = [found(*world(generator, 10, 1000, effect=0.02, seeds=5)) for _ in range(20)]
    assert np.mean([of_trial[:9] for of_trial in pairs]) > 0.8  # the pairs of the better entry come first
    assert np.mean([of_trial[9:].any() for of_trial in pairs]) <= 0.05


@pytest.mark.slow
@pytest.mark.parametrize("classes", [10, 40, 300])
def test_the_interval_by_class_covers(classes):
    generator, trials = np.random.default_rng(9), (40, 25)  # so many sizes of classes, so many experiments with each
    held = []
    for _ in range(trials[0]):
        counts = generator.integers(5, 25, classes).astype(float)
        # What one class is worth, and the noise of its queries: the truth is 0.
        worth, noise = (generator.normal(0, spread, (trials[1], classes)) for spread in (0.08, 0.2))
        sums = worth * counts + noise * np.sqrt(counts)
        held += [interval.holds(0.0) for interval in class_bootstrap(sums, counts)]
    assert 0.93 <= np.mean(held) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_the_interval_over_seeds_covers(seeds):
    generator = np.random.default_rng(10)
    held = [t_interval(generator.normal(0.0, 0.01, seeds)).holds(0.0) for _ in range(4000)]
    assert 0.94 <= np.mean(held) <= 0.96


def test_the_spread_of_a_search_is_that_of_the_best_of_other_draws():
    # Two trials without noise between folds: the better one is among two that are drawn in three of four cases.
    values = np.array([[0.5, 0.6, 0.7], [0.1, 0.2, 0.3]])
    assert search_spread(values) == pytest.approx(0.4 * np.sqrt(3 / 16), rel=0.05)
    assert search_spread(values + 1) == pytest.approx(search_spread(values))
    # Many trials that are all alike but for the luck of folds: what is chosen is some of that luck.
    noise = np.random.default_rng(0).normal(0, 0.02, (200, 4))
    assert 0.1 * 0.01 < search_spread(noise) < 0.01
    # The luck of a fold is that of every trial, and chooses none.
    assert search_spread(noise + np.array([0.5, -0.5, 0.2, 0.0])) == pytest.approx(search_spread(noise))
    assert search_spread(values[:1]) == search_spread(values[:, :1]) == 0.0


def test_the_luck_of_searches_is_added_to_the_other_two():
    runs = [np.array([0.1, 0.2, 0.3]), np.array([0.3, 0.2, 0.4])]
    by_class, shares = np.array([0.03]), np.array([2 / 3])
    alone = least_difference(runs, by_class, shares)
    searched = least_difference(runs, by_class, shares, np.array([0.04]))
    quantile = stats.studentized_range.ppf(0.95, 2, 4)
    assert searched**2 - alone**2 == pytest.approx((quantile / np.sqrt(2) * 0.04) ** 2)
    assert least_difference(runs, by_class, shares, np.array([0.0])) == alone
