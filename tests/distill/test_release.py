"""When a fused model may be released, on scores made by hand."""

from __future__ import annotations

import numpy as np
import pytest

from offline.distill.release import compare, judge

DOMAINS = ["sums"] * 40 + ["words"] * 40


def scores(sums: float, words: float, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    return np.concatenate([(rng.random(40) < sums), (rng.random(40) < words)]).astype(float)


def test_better_everywhere_is_released() -> None:
    made = judge({"fused": scores(1, 1), "base": scores(0.2, 0.2), "sft": scores(0.9, 0.9)}, DOMAINS,
                 candidate="fused", base="base", controls=["sft"])  # fmt: skip
    assert made.released
    assert made.reasons == ()
    assert made.comparisons["base"].average.better
    assert made.means["fused"] == {"sums": 1.0, "words": 1.0}


def test_one_domain_worse_than_the_base_is_enough_to_refuse() -> None:
    made = judge({"fused": scores(1, 0.2), "base": scores(0.1, 0.9), "sft": scores(0, 0)}, DOMAINS,
                 candidate="fused", base="base", controls=["sft"])  # fmt: skip
    assert not made.released
    assert made.comparisons["base"].interference == ["words"]
    assert any(reason.startswith("worse than the base in words") for reason in made.reasons)


def test_what_plain_training_does_better_is_refused() -> None:
    made = judge({"fused": scores(0.6, 0.6), "base": scores(0.1, 0.1), "sft": scores(1, 1)}, DOMAINS,
                 candidate="fused", base="base", controls=["sft"])  # fmt: skip
    assert made.reasons == tuple(reason for reason in made.reasons if "control sft" in reason)
    assert len(made.reasons) == 1


def test_a_model_that_is_the_base_is_refused_and_not_called_worse() -> None:
    same = scores(0.5, 0.5)
    made = judge({"fused": same, "base": same}, DOMAINS, candidate="fused", base="base", controls=[])
    assert not made.released
    assert made.comparisons["base"].interference == []


def test_each_domain_counts_alike_whatever_its_size() -> None:
    labels = ["big"] * 90 + ["small"] * 10
    mine = np.array([0.0] * 90 + [1.0] * 10)
    made = compare(mine, np.zeros(100), labels, "other")
    assert made.average.mean == pytest.approx(0.5)


def test_answers_that_are_missing_are_no_zeros() -> None:
    mine, other = scores(1, 1), scores(1, 1)
    other[:20] = np.nan
    made = compare(mine, other, DOMAINS, "other")
    assert made.domains["sums"].n == 20
    assert made.domains["sums"].mean == 0.0


def test_too_small_a_holdout_is_told() -> None:
    with pytest.raises(ValueError, match="hold out more"):
        compare(np.ones(5), np.zeros(5), ["a"] * 5, "other")
