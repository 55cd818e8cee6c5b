import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from metriclab.schedules import Constant, Cosine


def test_constant_rises_and_stays():
    factor = Constant(10, warmup=0.4)
    assert [factor(step) for step in range(10)] == [0.25, 0.5, 0.75] + [1.0] * 7
    assert [Constant(10)(step) for step in (0, 9, 100)] == [1.0] * 3


def test_cosine_is_the_formula():
    factor = Cosine(10, warmup=0.2, final=0.1)
    expected = [0.5, 1.0] + [0.1 + 0.9 * 0.5 * (1 + math.cos(math.pi * t / 8)) for t in range(8)]
    assert [factor(step) for step in range(10)] == pytest.approx(expected)
    assert factor(10) == pytest.approx(0.1)
    assert factor(1000) == pytest.approx(0.1)


@settings(deadline=None, max_examples=50)
@given(st.integers(0, 300), st.floats(0, 1), st.floats(0, 1))
def test_factors_stay_within_reach_and_never_start_at_zero(steps: int, warmup: float, final: float):
    for factor in (Constant(steps, warmup=warmup), Cosine(steps, warmup=warmup, final=final)):
        values = [factor(step) for step in range(steps)]
        assert all(0 < value <= 1 for value in values)
        assert values == [factor(step) for step in range(steps)]
        peak = max(range(steps), key=values.__getitem__, default=0)
        assert values[: peak + 1] == sorted(values[: peak + 1])
        assert values[peak:] == sorted(values[peak:], reverse=True)


def test_no_steps_and_all_warm_up_are_allowed():
    assert Cosine(0)(0) == 1.0
    assert [Cosine(4, warmup=1.0)(step) for step in range(4)] == [0.25, 0.5, 0.75, 1.0]
