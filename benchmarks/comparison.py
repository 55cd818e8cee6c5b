"""How often a comparison errs, by simulation with correlated classes: false verdicts, coverage of the intervals, power.

    python benchmarks/comparison.py

In each simulated table every entry has some seeds, each of which shifts all its queries alike and each class by itself,
and queries of one class share what that class is worth to an entry. Without a difference all entries are drawn alike.
A "verdict" is what `metriclab compare` calls better; simpler tests stand beside it. Tuned entries are the best of
several trials on held-out classes, from one response of the score to the setting for all of them.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
from scipy import stats

from metriclab.comparison.statistics import (
    class_bootstrap,
    class_errors,
    least_difference,
    search_spread,
    sign_flip_test,
    sum_by_class,
    t_interval,
)
from metriclab.comparison.trials import Tuning
from metriclab.comparison.tuning import unequal_tuning
from metriclab.comparison.verdicts import ComparisonEntry

SPREAD = {"class": 0.08, "seed": 0.008, "seed and class": 0.02, "query": 0.2}
"""Standard deviations of what an entry's score of a query is made of, beside what the class is worth to all entries."""


def table(generator, entries: int, classes: int, *, seeds: int = 3, effect: float = 0.0, lucky: bool = True):
    """Scores (entry, seed, query) and the class of each query; the first entry is better by the effect.

    Without `lucky` seeds all models of an entry are equally good, as an interval over classes takes them to be.
    """
    labels = np.repeat(np.arange(classes), generator.integers(5, 25, classes))
    draw = generator.normal
    of_class = draw(0, SPREAD["class"], (entries, 1, classes))
    of_seed = draw(0, SPREAD["seed"], (entries, seeds, 1)) + draw(
        0, SPREAD["seed and class"], (entries, seeds, classes)
    )
    of_seed *= lucky
    scores = 0.5 + (of_class + of_seed)[:, :, labels] + draw(0, SPREAD["query"], (entries, seeds, len(labels)))
    scores[0] += effect
    return scores, labels


def verdicts(scores, labels) -> dict[str, np.ndarray]:
    """For each pair of entries, whether a difference is found: by what compare does, and by simpler tests."""
    differences, sums, large = large_differences(scores, labels)
    p = sign_flip_test(sums)
    by_query = stats.ttest_1samp(differences.mean(1), 0.0, axis=1).pvalue
    return {
        "verdict of compare": (p < 0.05) & large,
        "test by class alone": p < 0.05,
        "test by query, Bonferroni": by_query < 0.05 / len(differences),
    }


def large_differences(scores, labels, spreads=None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Of all pairs the differences, their sums by class, and which are large by the two tests that look at seeds."""
    entries, seeds, _ = scores.shape
    pairs = list(itertools.combinations(range(entries), 2))
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    differences = scores[first] - scores[second]
    sums, counts = sum_by_class(differences.mean(1), labels)
    errors = class_errors(sums, counts)
    searched = None if spreads is None else np.hypot(spreads[first], spreads[second])
    least = least_difference(list(scores.mean(2)), errors, np.full(len(pairs), 2 / seeds), searched)
    over_seeds = np.array([t_interval(one).holds(0.0) for one in differences.mean(2)])
    return differences, sums, ~over_seeds & (np.abs(differences.mean((1, 2))) > least)


def is_told_apart(scores, labels, spreads=None) -> bool:
    """Whether compare finds a difference in any pair; the slow test is made where the others leave one alone."""
    _, sums, large = large_differences(scores, labels, spreads)
    return bool(large.any() and ((sign_flip_test(sums) < 0.05) & large).any())


def chosen(generator, trials: int, steepness: float, *, classes: int = 100, folds: int = 4) -> tuple[float, float]:
    """What the setting costs that a search chooses, and how far the search says that goes up and down.

    The score falls with the square of a setting's distance from the best one, 0; settings are drawn from -1 to 1. What
    is seen of each is its score on the held-out classes of each fold, with the luck of these and of a seed.
    """
    settings = generator.uniform(-1, 1, trials)
    luck = (SPREAD["class"] ** 2 + SPREAD["seed and class"] ** 2) / (classes / folds) + SPREAD["seed"] ** 2
    seen = -steepness * settings[:, None] ** 2 + generator.normal(0, np.sqrt(luck), (trials, folds))
    return -steepness * settings[seen.mean(1).argmax()] ** 2, search_spread(seen)


def tuned_table(generator, trials, steepness: float):
    """As `table`, of entries that are alike but for how many trials each was tuned by, and the spreads of searches."""
    scores, labels = table(generator, len(trials), 300)
    costs, spreads = np.array([chosen(generator, count, steepness) for count in trials]).T
    return scores + costs[:, None, None], labels, spreads


def warned(trials) -> bool:
    """Whether a comparison of entries that were tuned by so many trials says that it is unequal."""
    empty = {"seeds": (0,), "paths": (), "metrics": {}, "cost": {}, "images_seen": 1, "settings": {}, "warnings": {}}
    entries = [
        ComparisonEntry(str(at), steps=1, tuning=Tuning(count, 0, 100 * count, {}, 0.5, "m.m"), **empty)
        for at, count in enumerate(trials)
    ]
    return any("tuned unequally" in sentence for sentence in unequal_tuning(entries, "m.m"))


def print_tuned(tables: int) -> None:
    """How often entries without a difference are told apart after tuning."""
    print(f"Tables of tuned entries with a verdict, of {tables}; no entry differs, three seeds, 300 classes")
    cases = [
        ("settings do not matter", [20] * 10, 0.0),
        ("settings matter", [20] * 2, 0.1),
        ("settings matter", [20] * 10, 0.1),
        ("settings matter much", [20] * 10, 0.5),
        ("much, one tuned by 1 trial", [20] * 9 + [1], 0.5),
    ]
    for name, trials, steepness in cases:
        generator = np.random.default_rng(len(trials))
        drawn = [tuned_table(generator, trials, steepness) for _ in range(tables)]
        found = rate([is_told_apart(*one) for one in drawn])
        blind = rate([is_told_apart(*one[:2]) for one in drawn])
        note = "  and the warning" if warned(trials) else ""
        print(f"{len(trials):>3} entries  {name:<26} {found}; blind to searches {blind}{note}", flush=True)


def rate(values) -> str:
    """A share with its 95 % interval (Clopper and Pearson, Biometrika 26(4), 1934)."""
    result = stats.binomtest(int(np.sum(values)), len(values)).proportion_ci(0.95, "exact")
    return f"{np.mean(values):6.1%} ({result.low:.1%} to {result.high:.1%})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--only-tuned", action="store_true", help="leave all but the tuned entries out")
    arguments = parser.parse_args()
    trials = arguments.trials
    print_tuned(trials)
    if arguments.only_tuned:
        return
    print(f"Tables with a false verdict, of {trials}; no entry differs, three seeds, 300 classes")
    for entries in (2, 5, 10):
        generator = np.random.default_rng(entries)
        found = [verdicts(*table(generator, entries, 300)) for _ in range(trials)]
        for name in found[0]:
            print(f"{entries:>3} entries  {name:<26} {rate([one[name].any() for one in found])}", flush=True)
    print("Coverage of the 95 % intervals of a difference")
    for classes in (10, 40, 300):
        generator, held = np.random.default_rng(classes), []
        for _ in range(5 * trials):
            scores, labels = table(generator, 2, classes, seeds=1, lucky=False)
            held.append(class_bootstrap(*sum_by_class((scores[0] - scores[1]), labels))[0].holds(0.0))
        print(f"by class, {classes:>4} classes    {rate(held)}", flush=True)
    for seeds in (2, 3, 5):
        generator = np.random.default_rng(seeds)
        held = [t_interval(generator.normal(0.0, 0.01, seeds)).holds(0.0) for _ in range(20 * trials)]
        print(f"over seeds, {seeds} seeds      {rate(held)}", flush=True)
    print("Pairs in which +0.02 of one entry among ten is found, 1,000 classes")
    for seeds in (3, 5):
        generator = np.random.default_rng(seeds)
        found = [
            verdicts(*table(generator, 10, 1000, seeds=seeds, effect=0.02))["verdict of compare"][:9]
            for _ in range(max(1, trials // 10))
        ]
        print(f"{seeds} seeds  {np.mean(found):.0%} of {np.size(found)}", flush=True)


if __name__ == "__main__":
    main()
