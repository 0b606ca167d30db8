"""Intervals, the oracle and the verdict that decides the exit code."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from demo.comparison import Interval, interval, judge_learning, oracle

scores = st.lists(st.floats(0, 1), min_size=2, max_size=40)


@settings(max_examples=25)
@given(scores)
def test_interval_holds_its_mean_and_stays_in_range(values: list[float]) -> None:
    array = np.array(values)
    mean, low, high = interval(array, resamples=500)
    assert mean == pytest.approx(array.mean())
    assert array.min() - 1e-12 <= low <= high <= array.max() + 1e-12
    assert low <= mean + 1e-12
    assert high >= mean - 1e-12


def test_interval_is_the_same_for_a_seed_and_agrees_with_the_normal_one() -> None:
    values = np.random.default_rng(1).normal(0.3, 1.0, 2000)
    found = interval(values)
    assert found == interval(values)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert found.low == pytest.approx(values.mean() - half, abs=0.01)
    assert found.high == pytest.approx(values.mean() + half, abs=0.01)


def test_interval_refuses_what_is_missing() -> None:
    with pytest.raises(ValueError, match="at least one"):
        interval(np.array([]))
    with pytest.raises(ValueError, match="finite"):
        interval(np.array([0.0, np.nan]))


@settings(max_examples=50)
@given(st.integers(1, 20), st.integers(1, 5), st.integers(0, 1000))
def test_oracle_is_the_cheapest_of_the_best(rows: int, models: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    values, costs = rng.integers(0, 3, (rows, models)) / 2, rng.random((rows, models))
    best, spent = oracle(values, costs)
    for row in range(rows):
        winners = [m for m in range(models) if values[row, m] == values[row].max()]
        assert best[row] == values[row].max()
        assert spent[row] == min(costs[row, m] for m in winners)


def test_oracle_with_unknown_costs_keeps_them_unknown() -> None:
    values = np.array([[0.0, 1.0], [1.0, 1.0]])
    costs = np.array([[0.5, np.nan], [np.nan, 0.25]])
    best, spent = oracle(values, costs)
    assert best.tolist() == [1.0, 1.0]
    assert np.isnan(spent[0])
    assert spent[1] == 0.25


@pytest.mark.parametrize(("mean", "low", "high", "helped", "says"), [
    (0.05, 0.01, 0.09, True, "after minus before is +5.0"),
    (0.05, -0.01, 0.11, False, "chance"),
    (0.05, 0.0, 0.1, False, "chance"),
    (0.0, 0.0, 0.0, False, "did not rise"),
    (-0.05, -0.09, -0.01, False, "did not rise"),
])  # fmt: skip
def test_verdict(mean: float, low: float, high: float, helped: bool, says: str) -> None:
    verdict = judge_learning(Interval(mean, low, high))
    assert verdict.helped is helped
    assert says in verdict.reason
