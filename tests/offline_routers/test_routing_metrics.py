from __future__ import annotations

import numpy as np
import pytest

from offline.routing.metrics import calibration_error, gain, oracle_value, random_value, value

RNG = np.random.default_rng(0)


def test_with_every_arm_observed_a_value_is_the_plain_mean() -> None:
    values = RNG.random((50, 3)).astype(np.float32)
    chosen = RNG.integers(3, size=50)
    estimate = value(values, np.ones_like(values), chosen)
    assert estimate is not None
    assert estimate.mean == pytest.approx(values[np.arange(50), chosen].mean(), rel=1e-6)
    assert (estimate.coverage, estimate.effective) == (1.0, pytest.approx(50))
    assert random_value(values, np.ones_like(values)) == pytest.approx(values.mean(), rel=1e-6)
    assert oracle_value(values) == pytest.approx(values.max(axis=1).mean(), rel=1e-6)


def test_with_one_answer_per_row_weights_recover_the_value_of_any_choice() -> None:
    rows = 20_000
    easy = RNG.random(rows) < 0.5
    truth = np.where(easy[:, None], [0.9, 0.5], [0.1, 0.5])
    propensity = np.where(easy, 0.8, 0.2)
    first = RNG.random(rows) < propensity
    values = np.full((rows, 2), np.nan, dtype=np.float32)
    weights = np.zeros((rows, 2), dtype=np.float32)
    arm = np.where(first, 0, 1)
    at = (np.arange(rows), arm)
    values[at] = RNG.random(rows) < truth[at]
    weights[at] = 1 / np.where(first, propensity, 1 - propensity)
    always_first = value(values, weights, np.zeros(rows, dtype=np.intp))
    assert always_first is not None
    assert np.nanmean(values[:, 0]) > 0.65
    assert always_first.mean == pytest.approx(0.5, abs=0.03)
    best = value(values, weights, np.where(easy, 0, 1))
    assert best is not None
    assert best.mean == pytest.approx(0.7, abs=0.03)
    assert best.effective < rows
    assert oracle_value(values) is None


def test_a_choice_that_was_never_observed_has_no_value_instead_of_a_zero() -> None:
    values = np.array([[1.0, np.nan], [0.0, np.nan]], dtype=np.float32)
    weights = np.array([[1.0, 0.0], [1.0, 0.0]], dtype=np.float32)
    never = np.ones(2, dtype=np.intp)
    assert value(values, weights, never) is None
    assert gain(values, weights, never, np.zeros(2, dtype=np.intp)) is None
    assert random_value(np.full((2, 2), np.nan, dtype=np.float32), weights) is None
    assert (
        calibration_error(values, np.full((2, 2), np.nan, dtype=np.float32), np.zeros((2, 2), dtype=np.float32)) is None
    )


def test_the_interval_of_a_gain_holds_the_truth_about_as_often_as_it_says() -> None:
    held, runs = 0, 40
    for run in range(runs):
        rng = np.random.default_rng(run)
        values = (rng.random((80, 2)) < [0.6, 0.5]).astype(np.float32)
        first, second = np.zeros(80, dtype=np.intp), np.ones(80, dtype=np.intp)
        interval = gain(values, np.ones_like(values), first, second, seed=run)
        assert interval is not None
        assert interval.mean == pytest.approx(float((values[:, 0] - values[:, 1]).mean()), abs=1e-6)
        held += interval.low <= 0.1 <= interval.high
    assert 34 <= held <= 40


def test_the_same_choices_gain_exactly_nothing() -> None:
    values = RNG.random((30, 2)).astype(np.float32)
    chosen = RNG.integers(2, size=30)
    assert gain(values, np.ones_like(values), chosen, chosen) == (0.0, 0.0, 0.0)


def test_calibration_error_sees_a_shift_and_forgives_noise() -> None:
    predicted = RNG.uniform(0.2, 0.8, (20_000, 1)).astype(np.float32)
    values = (RNG.random((20_000, 1)) < predicted).astype(np.float32)
    ones = np.ones_like(values)
    right, shifted = calibration_error(predicted, values, ones), calibration_error(predicted + 0.1, values, ones)
    assert right is not None
    assert right < 0.02
    assert shifted == pytest.approx(0.1, abs=0.02)
