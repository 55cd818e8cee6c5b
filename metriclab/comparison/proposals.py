"""The one door to Optuna: what to try next, and which keys mattered. Nothing of it outlives a call."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

from metriclab.comparison.space import Dimension, Search
from metriclab.comparison.trials import Trial
from metriclab.errors import needing

with needing("search", "optuna", "[suite.search]"):
    import optuna
    from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

from metriclab.registry.toml import toml_value

STARTUP = 10
"""Trials that TPE proposes at random before it looks at their values."""

_DIGITS = 4
"""Of a number that is proposed: a recipe is read by people."""


def propose(entry: str, space: Sequence[Dimension], search: Search, trials: Sequence[Trial]) -> dict[str, Any]:
    """The settings of the next trial: a pure function of the arguments.

    A study is made anew for each, from the trials so far, with a seed of the search, the entry and the number of the
    trial: so it does not matter what was stopped in between, nor in which order the entries came. A trial that failed
    counts as the worst value so far.

    Papers: Bergstra, Bardenet, Bengio, Kegl. Algorithms for Hyper-Parameter Optimization. NeurIPS 2011 (TPE). Akiba,
    Sano, Yanase, Ohta, Koyama. Optuna. KDD 2019, arXiv 1907.10902.
    """
    digest = hashlib.blake2b(f"{search.seed} {entry} {len(trials)}".encode(), digest_size=4).digest()
    seed = int.from_bytes(digest, "little")
    sampler: optuna.samplers.BaseSampler = optuna.samplers.RandomSampler(seed=seed)
    if search.sampler == "tpe":
        sampler = optuna.samplers.TPESampler(
            seed=seed, n_startup_trials=STARTUP, multivariate=False, constant_liar=False
        )
    asked = _study(space, trials, sampler).ask({one.key: _distribution(one) for one in space})
    return {one.key: _value(one, asked.params[one.key]) for one in space}


def importance(space: Sequence[Dimension], trials: Sequence[Trial]) -> dict[str, float]:
    """The share of each key in how the better trials differ from all, largest first; nothing for too few trials.

    Paper: Watanabe, Bansal, Hutter. PED-ANOVA. IJCAI 2023, arXiv 2304.10255.
    """
    values = [trial.value(0) for trial in trials]
    if len({value for value in values if value is not None}) < STARTUP // 2:
        return {}
    found = get_param_importances(_study(space, trials, None), evaluator=PedAnovaImportanceEvaluator())
    return {key: round(float(share), 4) for key, share in found.items()}


def _study(
    space: Sequence[Dimension], trials: Sequence[Trial], sampler: optuna.samplers.BaseSampler | None
) -> optuna.Study:
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(direction="maximize", sampler=sampler)
    distributions = {one.key: _distribution(one) for one in space}
    values = [value for trial in trials if (value := trial.value(0)) is not None]
    for trial in trials:
        value = trial.value(0)
        params = {one.key: toml_value(trial.params[one.key]) if one.choices else trial.params[one.key] for one in space}
        worst = min(values, default=0.0)
        study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=distributions, value=worst if value is None else value
            )
        )
    return study


def _distribution(one: Dimension) -> BaseDistribution:
    if one.choices:
        return CategoricalDistribution([toml_value(choice) for choice in one.choices])
    if one.whole:
        return IntDistribution(int(one.low), int(one.high), log=one.log)
    return FloatDistribution(one.low, one.high, log=one.log)


def _value(one: Dimension, proposed: Any) -> Any:
    if one.choices:
        return next(choice for choice in one.choices if toml_value(choice) == proposed)
    if one.whole:
        return int(proposed)
    return min(max(float(f"{proposed:.{_DIGITS}g}"), float(one.low)), float(one.high))
