"""The tests of a window: values computed by hand, levels by enumeration, and what is refused."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from routers.evidence.window_test import benjamini_hochberg, chi_squared_tail, published, two_sample, two_sums


def test_two_samples_are_compared_by_the_n_minus_1_chi_squared_test() -> None:
    found = two_sums(9.0, 30, 70.0, 100)
    together = 79 / 130
    by_hand = (9 / 30 - 70 / 100) ** 2 / (together * (1 - together) * (1 / 30 + 1 / 100)) * 129 / 130
    assert found.statistic == pytest.approx(by_hand)
    assert found.p_value == pytest.approx(stats.chi2.sf(by_hand, 1))
    assert two_sample([1.0] * 9 + [0.0] * 21, [1.0] * 70 + [0.0] * 30) == found


@pytest.mark.parametrize("rate", [0.1, 0.3, 0.5, 0.9])
@pytest.mark.parametrize("level", [0.015, 0.05])
def test_two_samples_keep_their_level_at_any_rate(rate: float, level: float) -> None:
    windows, older = np.arange(31), np.arange(101)
    chance = stats.binom.pmf(windows, 30, rate)[:, None] * stats.binom.pmf(older, 100, rate)
    fires = np.array([[two_sums(float(w), 30, float(o), 100).p_value <= level for o in older] for w in windows])
    assert 0.7 * level < float(chance[fires].sum()) < 1.1 * level


def test_equal_samples_and_samples_without_variance_say_nothing() -> None:
    assert two_sample([0.5, 0.5], [0.5]).p_value == 1.0
    assert two_sample([1.0] * 30, [1.0] * 90) == two_sample([0.0] * 30, [0.0] * 90)
    assert two_sample([1.0] * 30, [1.0] * 90).p_value == 1.0


def test_the_published_test_compares_the_window_with_all_rewards_of_which_it_is_part() -> None:
    window = [1.0] * 6 + [0.0] * 14
    found = published(window, 1.0 + 62.0, 1.0 + 38.0)

    def log_likelihood(p: float) -> float:
        return 6 * math.log(p) + 14 * math.log(1 - p)

    assert found.statistic == pytest.approx(2 * (log_likelihood(0.3) - log_likelihood(0.62)))
    assert found.p_value == pytest.approx(stats.chi2.sf(found.statistic, 1))


def test_the_published_test_cannot_fire_on_its_own_window_alone() -> None:
    for won in range(21):
        assert published([1.0] * won + [0.0] * (20 - won), 1.0 + won, 21.0 - won).p_value == pytest.approx(1.0)


def test_windows_of_only_wins_or_losses_have_finite_statistics() -> None:
    assert math.isfinite(published([1.0] * 20, 61.0, 41.0).statistic)
    assert math.isfinite(published([0.0] * 20, 61.0, 41.0).statistic)
    assert published([1.0] * 20, 81.0, 1.0).p_value == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: two_sample([], [1.0]), "at least one; the window has 0"),
        (lambda: two_sample([1.0], []), "the older sample has 0"),
        (lambda: two_sample([1.5], [1.0]), r"must lie in \[0, 1\]"),
        (lambda: two_sums(31.0, 30, 5.0, 10), "the window has 30 with the sum 31"),
        (lambda: published([], 5.0, 5.0), "a window of 0 cannot"),
        (lambda: published([1.0] * 20, 1.0, 1.0), "a window of 20 cannot be tested against 0 rewards"),
    ],
)
def test_what_is_no_sample_is_refused(call: object, said: str) -> None:
    assert callable(call)
    with pytest.raises(ValueError, match=said):
        call()


def test_the_tail_of_chi_squared() -> None:
    assert chi_squared_tail(3.841458820694124) == pytest.approx(0.05)
    assert chi_squared_tail(0.0) == 1.0


def test_benjamini_and_hochbergs_own_example() -> None:
    p = [
        0.0001,
        0.0004,
        0.0019,
        0.0095,
        0.0201,
        0.0278,
        0.0298,
        0.0344,
        0.0459,
        0.3240,
        0.4262,
        0.5719,
        0.6528,
        0.7590,
        1.0,
    ]
    assert benjamini_hochberg(p, 0.05).tolist() == [True] * 4 + [False] * 11
    assert benjamini_hochberg(p[::-1], 0.05).tolist() == [False] * 11 + [True] * 4
    assert benjamini_hochberg([], 0.05).tolist() == []
    assert benjamini_hochberg([0.04, 0.04], 0.05).tolist() == [True, True]
    assert benjamini_hochberg([0.06], 0.05).tolist() == [False]
