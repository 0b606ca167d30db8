from __future__ import annotations

from math import sqrt

import numpy as np
import pytest

from routers.evidence.off_policy_intervals import (
    METHODS,
    Z95,
    degrees_of_freedom,
    mean_interval,
    standard_error,
    t_quantile,
)


@pytest.mark.parametrize(
    ("freedom", "quantile"), [(3, 3.1824), (5, 2.5706), (10, 2.2281), (30, 2.0423), (100, 1.9840), (1e9, 1.9600)]
)
def test_the_quantile_is_that_of_the_tables(freedom: float, quantile: float) -> None:
    assert t_quantile(freedom) == pytest.approx(quantile, abs=0.01)


def test_the_normal_interval_is_worked_out_by_hand() -> None:
    each = np.array([0.0, 0.0, 1.0, 1.0])
    assert standard_error(each - 0.5, 4) == pytest.approx(sqrt(1 / 3) / 2)
    found = mean_interval(each, method="normal")
    assert found == pytest.approx((0.5, 0.5 - Z95 * sqrt(1 / 3) / 2, 0.5 + Z95 * sqrt(1 / 3) / 2))


def test_a_variance_that_a_few_terms_make_up_has_few_degrees_of_freedom() -> None:
    few, many = np.zeros(10_000), np.tile([-1.0, 1.0], 5_000)
    few[:20] = 100.0
    # Of 20 equal terms among many zeros the kurtosis is 500, and 2 * 10,000 / 499 is about 40.
    assert degrees_of_freedom(few - few.mean()) == pytest.approx(40.0, rel=0.02)
    assert degrees_of_freedom(many) == pytest.approx(9_999.0)
    assert degrees_of_freedom(np.zeros(50)) == 49.0


@pytest.mark.parametrize("method", METHODS)
def test_every_interval_holds_its_mean_and_shrinks_with_more_terms(method: str) -> None:
    rng = np.random.default_rng(1)
    small, large = rng.exponential(size=400), rng.exponential(size=40_000)
    first, second = (mean_interval(each, method=method) for each in (small, large))
    assert first.low < first.mean < first.high
    assert (second.high - second.low) < 0.25 * (first.high - first.low)
    assert mean_interval(small, method=method, seed=3) == mean_interval(small, method=method, seed=3)


@pytest.mark.parametrize("method", METHODS)
def test_terms_that_are_all_the_same_leave_no_doubt(method: str) -> None:
    assert mean_interval(np.full(50, 0.3), method=method) == pytest.approx((0.3, 0.3, 0.3))


def test_a_single_group_says_nothing_about_its_spread() -> None:
    assert mean_interval(np.arange(4.0), np.zeros(4, dtype=np.intp)) == (1.5, -np.inf, np.inf)


@pytest.mark.parametrize(("chance", "reward"), [(0.1, 0.5), (0.03, 0.8), (1.0, 0.2)])
def test_the_default_holds_the_truth_as_often_as_it_says(chance: float, reward: float) -> None:
    """Terms as a log gives them whose arm was drawn with this chance: weight 1 / chance where it was, else 0."""
    rng = np.random.default_rng(7)
    drawn = (rng.random((600, 4_000)) < chance) & (rng.random((600, 4_000)) < reward)
    found = [mean_interval(row / chance) for row in drawn]
    held = np.mean([interval.low <= reward <= interval.high for interval in found])
    assert 0.92 <= held <= 0.98


def test_a_dozen_heavy_terms_need_the_degrees_of_freedom_of_a_dozen() -> None:
    rng = np.random.default_rng(3)
    drawn = rng.random((300, 1_000)) < 0.012
    held = {
        method: np.mean([
            found.low <= 1.0 <= found.high
            for found in (mean_interval(row / 0.012, method=method) for row in drawn)
        ])
        for method in ("student", "normal")
    }  # fmt: skip
    assert held["student"] >= held["normal"]
    assert held["student"] >= 0.92
