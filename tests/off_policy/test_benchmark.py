from __future__ import annotations

import numpy as np
import pytest

from benchmarks.off_policy import few_arms, measure, pools_folder, ranked, spearman
from tests.routers.worlds import world


def test_rank_correlation_is_that_of_the_textbook() -> None:
    assert ranked(np.array([3.0, 1.0, 3.0, 2.0])).tolist() == [3.5, 1.0, 3.5, 2.0]
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([10.0, 20.0, 90.0])) == pytest.approx(1.0)
    assert spearman(np.array([1.0, 2.0, 3.0]), np.array([3.0, 2.0, 1.0])) == pytest.approx(-1.0)
    # 1 - 6 * (1 + 1) / (4 * 15) for one exchange of neighbours among four.
    assert spearman(np.array([1.0, 2.0, 3.0, 4.0]), np.array([2.0, 1.0, 3.0, 4.0])) == pytest.approx(0.8)


def test_at_most_ten_arms_are_kept_best_and_worst_among_them() -> None:
    outcomes = world(arms=14)
    means = outcomes.quality.mean(axis=0)
    kept = few_arms(outcomes)
    assert len(kept.arms) == 10
    assert kept.arms == tuple(sorted(kept.arms, key=outcomes.arms.index))
    assert {outcomes.arms[int(means.argmax())], outcomes.arms[int(means.argmin())]} <= set(kept.arms)
    assert few_arms(kept) is kept


@pytest.mark.shared_data
@pytest.mark.slow
def test_intervals_and_ranks_keep_the_bar_on_a_real_pool() -> None:
    if not pools_folder().is_dir():
        pytest.skip(f"there is no {pools_folder()}; set TOKAMAK_SHARED_DATA")
    bar = measure(("llmrouter14",), range(15))
    assert 0.90 <= bar["ope_coverage"] <= 0.99
    assert bar["ope_spearman"] >= 0.9
