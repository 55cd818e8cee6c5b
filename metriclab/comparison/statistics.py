"""What a comparison may conclude: tests and intervals that know that queries of one class are alike.

Queries of a class succeed and fail together, so the class is what is resampled, and what has its sign flipped. All of
it is a pure function of its arguments: the random numbers are those of the seed 0.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache

import numpy as np
from jaxtyping import Float64, Int64
from scipy import stats

LEVEL = 0.95
"""Confidence of every interval."""

ERROR = 0.05
"""Family-wise error of the test: how often it may find any difference where there is none."""

FLIPS = 9_999
"""Random flips of the test, where there are too many for all of them."""

RESAMPLES = 4_999
"""Of the bootstrap."""

_EXACT = 14  # classes: their 2^13 flips (a flip and its opposite are one) are all taken
_SEARCHES = 1_999  # that are drawn anew
_CELLS = 2**22  # random numbers at a time: 32 MB
_TIED = 1 - 1e-9  # of a statistic: sums of the same numbers in another order


@dataclass(frozen=True, slots=True)
class Interval:
    """From `low` to `high`."""

    low: float
    high: float

    @property
    def half(self) -> float:
        return (self.high - self.low) / 2

    def negated(self) -> Interval:
        return Interval(-self.high, -self.low)

    def holds(self, value: float) -> bool:
        return self.low <= value <= self.high


def t_interval(values: Float64[np.ndarray, "n"]) -> Interval | None:
    """Student's interval of the mean; None for fewer than two values, which tell nothing of their spread.

    Paper: Student. The Probable Error of a Mean. Biometrika 6(1), 1908.
    """
    n = len(values)
    if n < 2:
        return None
    half = float(stats.t.ppf((1 + LEVEL) / 2, n - 1) * values.std(ddof=1) / np.sqrt(n))
    return Interval(float(values.mean()) - half, float(values.mean()) + half)


def least_difference(
    runs: Sequence[Float64[np.ndarray, "_"]],
    by_class: Float64[np.ndarray, "p"],
    over_seeds: Float64[np.ndarray, "p"],
    over_searches: Float64[np.ndarray, "p"] | None = None,
) -> Float64[np.ndarray, "p"]:
    """What two entries must differ by, given that both the classes and the seeds are a draw, and how many entries vie.

    The variance of a difference is that over classes, which no number of seeds lowers, plus that over seeds, which no
    number of classes lowers; either test alone is blind to the other part. The variance over seeds is pooled over all
    entries; the sum's root is multiplied by the quantile of the studentized range, with the degrees of freedom of the
    pooled variance. With two entries that is a t-test.

    Papers: Tukey. The Problem of Multiple Comparisons, 1953 (the studentized range; Kramer, Biometrics 12(3), 1956, for
    unequal numbers of runs). Cameron, Gelbach, Miller. Robust Inference with Multiway Clustering. Journal of Business
    and Economic Statistics 29(2), 2011 (adding up the variances of two crossed groupings, here without taking off what
    they share, which errs on the side of caution).

    Args:
        runs: the metric of every run, entry by entry; those that never vary, as raw pixels do, do not count.
        by_class: standard error over classes of each pair's difference; see `class_errors`.
        over_seeds: 1 / n + 1 / m for each pair of entries with n and m runs.
        over_searches: standard error over searches of each pair's difference, where entries were tuned: one search an
            entry, of which no number of classes or seeds says how lucky it was; see `search_spread`.
    """
    varying = [values for values in runs if len(values) > 1 and np.ptp(values) > 0]
    freedom = sum(len(values) - 1 for values in varying)
    pooled = sum(float(((values - values.mean()) ** 2).sum()) for values in varying) / max(1, freedom)
    quantile = _range_quantile(max(2, len(runs)), freedom)
    searched = 0.0 if over_searches is None else over_searches**2
    return np.asarray(quantile / np.sqrt(2) * np.sqrt(by_class**2 + pooled * over_seeds + searched))


def search_spread(values: Float64[np.ndarray, "t f"]) -> float:
    """How far the value of what a search chooses goes up and down from search to search: its standard deviation.

    Trials are drawn with replacement, as another search would have tried others; each mean over folds is disturbed by
    its standard error, as other classes held out would have done; and the best is taken, 1,999 times. The standard
    error is what is left of the values without the mean of their trial and of their fold, pooled over all trials. What
    the best one scored counts as what it is worth, which errs on the side of caution: half of it may be luck. 0 for
    fewer than two trials or folds, of which nothing can be known.

    Args:
        values: of each trial in each fold.
    """
    trials, folds = values.shape
    if min(trials, folds) < 2:
        return 0.0
    means = values.mean(1)
    left = values - means[:, None] - values.mean(0) + values.mean()
    error = np.sqrt((left**2).sum() / ((trials - 1) * (folds - 1)) / folds)
    generator = np.random.default_rng(0)
    drawn = means[generator.integers(0, trials, (_SEARCHES, trials))]
    best = (drawn + generator.normal(0, error, drawn.shape)).argmax(1)
    return float(drawn[np.arange(_SEARCHES), best].std())


@cache
def _range_quantile(entries: int, freedom: int) -> float:
    """Of the studentized range; scipy integrates for it, which takes longer than all else that a verdict needs."""
    return float(stats.studentized_range.ppf(1 - ERROR, entries, freedom or np.inf))


def class_errors(sums: Float64[np.ndarray, "p c"], counts: Float64[np.ndarray, "c"]) -> Float64[np.ndarray, "p"]:
    """Standard error over classes of the mean over queries, infinite for one class; see `class_bootstrap`."""
    if sums.shape[1] < 2:
        return np.full(len(sums), np.inf)
    return np.asarray(_standard_error(np.ones((1, sums.shape[1])), sums, counts)[1][0])


def sum_by_class(
    values: Float64[np.ndarray, "e q"], labels: Int64[np.ndarray, "q"]
) -> tuple[Float64[np.ndarray, "e c"], Float64[np.ndarray, "c"]]:
    """Sums over the queries of each class, and how many those are; classes in the order of their labels."""
    classes, of_query = np.unique(labels, return_inverse=True)
    sums = [np.bincount(of_query, weights=row, minlength=len(classes)) for row in values]
    return np.stack(sums), np.bincount(of_query).astype(np.float64)


def sign_flip_test(sums: Float64[np.ndarray, "p c"]) -> Float64[np.ndarray, "p"]:
    """P-values of no difference for each of several pairs, right for all of them together.

    In each permutation the differences of a class change their sign in all pairs, or in none. A pair's statistic is
    |sum of its class sums| (the mean over queries, but for a factor), divided by the root of the sum of their squares:
    flips leave that as it is, so that a pair's own test does not change, and pairs of any spread meet on one scale.
    The p-value is the share of permutations whose largest statistic over all pairs reaches that of the pair. With up
    to 14 classes all permutations are taken, else 9,999 random ones and the identity.

    Papers: Fisher. The Design of Experiments, 1935, section 21 (the sign-flip test). Westfall and Young. Resampling-
    Based Multiple Testing, 1993 (the maximum). Phipson and Smyth. Permutation P-values Should Never Be Zero.
    Statistical Applications in Genetics and Molecular Biology 9(1), 2010 (the identity counts).

    Args:
        sums: differences summed over the queries of each class, for every pair; a pair that never differs has p = 1.
    """
    spread = np.sqrt((sums**2).sum(1, keepdims=True))
    scaled = np.divide(sums, spread, out=np.zeros_like(sums), where=spread > 0)
    observed = np.abs(scaled.sum(1))
    reached, total = np.zeros(len(sums)), 0
    for flips in _sign_flips(sums.shape[1]):
        largest = np.abs(flips @ scaled.T).max(1)
        reached += (largest[:, None] >= observed * _TIED).sum(0)
        total += len(flips)
    return np.where(observed > 0, reached / total, 1.0)


def smallest_p(classes: int) -> float:
    """The smallest p-value that the test can give with so many classes."""
    return 2.0 ** (1 - classes) if classes <= _EXACT else 1 / (FLIPS + 1)


def class_bootstrap(sums: Float64[np.ndarray, "p c"], counts: Float64[np.ndarray, "c"]) -> list[Interval]:
    """Intervals of the mean difference over queries for each of several pairs, each on its own: bootstrap-t by class.

    Classes are drawn with replacement, 4,999 times; each time the mean is told in units of its standard error, that of
    a ratio of sums over classes. The quantiles of this t over the draws, turned around, give the interval. With one
    class nothing is known: it is infinite.

    Paper: Efron and Tibshirani. An Introduction to the Bootstrap, 1993, section 12.5 (the bootstrap-t interval).

    Args:
        sums: as in `sign_flip_test`.
        counts: queries of each class.
    """
    pairs, classes = sums.shape
    if classes < 2:
        return [Interval(-np.inf, np.inf)] * pairs
    mean = sums.sum(1) / counts.sum()
    error = class_errors(sums, counts)
    parts = []
    for drawn in _draws(classes):
        again, its_error = _standard_error(drawn, sums, counts)
        # A draw of one class alone has no spread; its t is as far out as there is.
        gap = again - mean
        far = np.where(np.abs(gap) > 1e-12, np.copysign(np.inf, gap), 0.0)
        parts.append(np.divide(gap, its_error, out=far, where=its_error > 1e-12))
    edges = np.quantile(np.concatenate(parts), [(1 + LEVEL) / 2, (1 - LEVEL) / 2], axis=0, method="nearest")
    steps = np.multiply(edges, error, out=np.zeros_like(edges), where=error > 0)
    return [Interval(float(m - up), float(m - down)) for m, up, down in zip(mean, *steps, strict=True)]


def _standard_error(
    drawn: Float64[np.ndarray, "r c"], sums: Float64[np.ndarray, "p c"], counts: Float64[np.ndarray, "c"]
) -> tuple[Float64[np.ndarray, "r p"], Float64[np.ndarray, "r p"]]:
    """Mean over queries and its standard error, where class c is there `drawn[:, c]` times (Cochran 1977, eq. 6.13)."""
    size = (drawn @ counts)[:, None]
    mean = drawn @ sums.T / size
    squares = drawn @ (sums**2).T - 2 * mean * (drawn @ (sums * counts).T) + mean**2 * (drawn @ counts**2)[:, None]
    classes = sums.shape[1]
    return mean, np.sqrt(np.maximum(squares, 0) * classes / (classes - 1)) / size


def _sign_flips(classes: int) -> Iterator[Float64[np.ndarray, "_ {classes}"]]:
    """All sign flips up to a common sign, or the identity and random ones, some at a time."""
    if classes <= _EXACT:
        signs = itertools.product((1.0, -1.0), repeat=classes - 1)
        yield np.array([(1.0, *rest) for rest in signs])
        return
    yield np.ones((1, classes))
    generator = np.random.default_rng(0)
    for rows in _portions(FLIPS, classes):
        yield generator.integers(0, 2, (rows, classes)) * 2.0 - 1.0


def _draws(classes: int) -> Iterator[Float64[np.ndarray, "_ {classes}"]]:
    """How often each class is drawn, for some of the resamples at a time."""
    generator = np.random.default_rng(0)
    for rows in _portions(RESAMPLES, classes):
        drawn = generator.integers(0, classes, (rows, classes)) + classes * np.arange(rows)[:, None]
        yield np.bincount(drawn.reshape(-1), minlength=rows * classes).reshape(rows, classes).astype(np.float64)


def _portions(rows: int, classes: int) -> Iterator[int]:
    most = max(1, _CELLS // classes)
    for start in range(0, rows, most):
        yield min(most, rows - start)
