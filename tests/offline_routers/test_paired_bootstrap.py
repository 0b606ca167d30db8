from __future__ import annotations

import numpy as np
import pytest

from offline.paired_bootstrap import intervals

RNG = np.random.default_rng(7)


def test_an_interval_of_plain_differences_is_that_of_the_normal_law() -> None:
    differences = RNG.normal(0.1, 1.0, size=(2000, 1))
    (found,) = intervals(differences, np.ones_like(differences), resamples=4000)
    error = differences.std(ddof=1) / np.sqrt(len(differences))
    assert found.mean == pytest.approx(differences.mean())
    assert found.low == pytest.approx(differences.mean() - 1.96 * error, abs=0.1 * error)
    assert found.high == pytest.approx(differences.mean() + 1.96 * error, abs=0.1 * error)


def test_equal_choices_differ_by_nothing_and_a_constant_difference_has_no_width() -> None:
    nothing, constant = intervals(np.tile([0.0, 0.25], (50, 1)), np.ones((50, 2)), resamples=200)
    assert nothing == (0.0, 0.0, 0.0)
    assert constant == pytest.approx((0.25, 0.25, 0.25))


def test_judging_the_same_queries_in_more_splits_does_not_narrow_the_interval() -> None:
    once = RNG.normal(size=(300, 1))
    (single,) = intervals(once, np.ones_like(once))
    (five,) = intervals(5 * once, np.full_like(once, 5.0))
    assert five == pytest.approx(single)


def test_a_column_counts_only_the_queries_that_it_was_judged_on() -> None:
    sums, counts = np.array([[1.0], [0.0], [0.0], [0.0]]), np.array([[2.0], [2.0], [0.0], [0.0]])
    (found,) = intervals(sums, counts, resamples=500)
    assert found.mean == pytest.approx(0.25)
    assert (found.low, found.high) == (0.0, 0.5)


def test_no_query_at_all_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one query"):
        intervals(np.zeros((3, 1)), np.zeros((3, 1)))


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    sets = np.random.default_rng(1).binomial(1, 0.3, size=(200, 200)).astype(np.float64)
    found = intervals(sets.T.copy(), np.ones((200, 200)), resamples=1000)
    covered = np.mean([each.low <= 0.3 <= each.high for each in found])
    assert 0.90 <= covered <= 0.99
