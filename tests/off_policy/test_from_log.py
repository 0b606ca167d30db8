from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from encoders.features import FEATURE_SET
from offline.outcomes import content_id
from offline.routing.off_policy import (
    OffPolicyReport,
    compare_routers,
    decisions_from_log,
    decisions_from_outcomes,
    drawn,
    held_out,
    utility,
)
from routers.classic.cluster import ClusterRouter
from routers.cost_scale import CostScale
from routers.evidence.off_policy import OffPolicyError, check_decisions
from routers.evidence.off_policy_targets import target_probabilities
from routers.prior import PriorRouter
from routers.protocol import Outcomes
from routers.rows import split
from tests.off_policy.logs import decision, log_of
from tests.offline_routers.interactions import HashEncoder, feedback, interaction, score, written
from tests.routers.worlds import masked, world
from traffic.records import Cascade


async def test_decisions_come_with_their_chances_and_what_is_left_out_is_counted(tmp_path: Path) -> None:
    chances = {"a": 0.95, "b": 0.05}
    passed = Cascade(signal="verifier", first="a", then="b")
    log = await written(
        tmp_path,
        [
            interaction(0, "b", "one", decision=decision("b", chances), cost_usd=None, workload="tag"),
            score(0, 0.5),
            feedback(0, True),
            interaction(1, "a", "two", decision=decision("a", {"a": 1.0}, ("b", "c"))),
            score(1, 1.0),
            interaction(2, "a", "old", decision=decision("a", chances), encoder="another"),
            score(2, 0.0),
            interaction(3, "a", "certain", decision=decision("a", {"a": 1.0, "b": 0.0})),
            score(3, 1.0),
            interaction(4, "a", "by name"),
            score(4, 1.0),
            interaction(5, "a", "nobody said anything", decision=decision("a", chances)),
            interaction(6, "b", "fallback", decision=decision("a", chances)),
            score(6, 1.0),
            interaction(7, "a", "failed", decision=decision("a", chances), outcome="failed"),
            interaction(8, "a", None, decision=decision("a", chances), encoder="another", vector=b"\0" * 64),
            score(8, 1.0),
            interaction(9, "a", "cascade", decision=decision("a", chances, cascade=passed)),
            score(9, 1.0),
        ],
    )
    found = decisions_from_log(log, HashEncoder())
    await log.close()
    assert found.counts == {
        "read": 10, "used": 3, "unanswered": 1, "cached": 0, "pinned": 1, "unscored": 1, "fell_back": 1, "cascaded": 1,
        "deterministic": 1, "encoder_mismatch": 1,
    }  # fmt: skip
    decisions = found.decisions
    check_decisions(decisions)
    assert decisions.arms == ("a", "b", "c")
    assert decisions.chosen.tolist() == [1, 0, 0]
    np.testing.assert_array_equal(decisions.logging, [[0.95, 0.05, 0.0], [1.0, 0.0, 0.0], [0.95, 0.05, 0.0]])
    np.testing.assert_array_equal(decisions.eligible, [[True, True, False], [True, False, False], [True, True, False]])
    assert decisions.reward.tolist() == [0.75, 1.0, 0.0]
    np.testing.assert_array_equal(decisions.cost_usd, [np.nan, 0.002, 0.002])
    assert decisions.ids == tuple(content_id(text) for text in ("one", "two", "old"))
    assert decisions.texts == ("one", "two", "old")
    np.testing.assert_allclose(decisions.vectors, HashEncoder().encode(["one", "two", "old"]), atol=1e-6)
    assert decisions.feature_set == FEATURE_SET
    assert decisions.features is not None
    assert len(decisions.features) == 3


async def test_a_window_is_read_and_a_decision_without_a_propensity_is_told(tmp_path: Path) -> None:
    bad = msgspec.structs.replace(decision("a", {"a": 0.9, "b": 0.1}), propensity=0.0)
    log = await written(
        tmp_path,
        [
            interaction(0, "a", "fine", decision=decision("a", {"a": 0.9, "b": 0.1})),
            score(0, 1.0),
            interaction(1, "a", "bad", decision=bad),
            score(1, 1.0),
        ],
    )
    assert decisions_from_log(log, HashEncoder(), until=1001.0).counts["used"] == 1
    with pytest.raises(OffPolicyError, match=r"logged with propensity 0\.0, expected one in \(0, 1\]"):
        decisions_from_log(log, HashEncoder())
    empty = decisions_from_log(log, HashEncoder(), since=5000.0)
    await log.close()
    assert empty.counts["read"] == 0
    router = PriorRouter.fit(replace(world(), encoder=HashEncoder.hash))
    report = compare_routers(empty.decisions, router, router, preference=1.0)
    assert report.verdict == "undecided"
    assert "no scored decision that explored" in report.reason


def served(outcomes: Outcomes, router: PriorRouter, exploration: float, n: int = 6000, seed: int = 0) -> Any:
    """What a log would hold if the router had served the world."""
    everyone = decisions_from_outcomes(outcomes, np.full(outcomes.quality.shape, 1.0 / len(outcomes.arms)))
    logging = target_probabilities(router, everyone, 1.0, exploration=exploration)
    return decisions_from_outcomes(outcomes, logging, seed, n)


WORLD = world(rows=3000, seed=4)
SINGLE = PriorRouter.fit(world(rows=400, seed=5))
TAUGHT = ClusterRouter.fit(world(rows=400, seed=5), clusters=8)
LOG = served(WORLD, SINGLE, 0.3)


def true_value(router: Any) -> float:
    everyone = decisions_from_outcomes(WORLD, np.full(WORLD.quality.shape, 0.2))
    return float((target_probabilities(router, everyone, 1.0) * WORLD.quality).sum(axis=1).mean())


def test_a_better_candidate_is_called_better_and_a_worse_one_worse() -> None:
    report = compare_routers(LOG, TAUGHT, SINGLE, preference=1.0)
    assert (report.verdict, report.estimator, report.needed) == ("better", "dr", 0)
    gain = true_value(TAUGHT) - true_value(SINGLE)
    assert gain > 0.3
    assert report.difference is not None
    assert report.difference.low <= gain <= report.difference.high
    assert report.candidate is not None
    assert report.champion is not None
    assert report.candidate.value - report.champion.value == pytest.approx(report.difference.value)
    assert report.quality == report.difference
    assert report.cost_usd is not None
    assert report.cost_usd.high < 0.0
    assert report.latency_s is None
    assert report.disagreeing > 200
    back = compare_routers(LOG, SINGLE, TAUGHT, preference=1.0)
    assert back.verdict == "worse"
    assert back.difference is not None
    assert back.difference.value == pytest.approx(-report.difference.value)
    assert msgspec.json.decode(msgspec.json.encode(report), type=OffPolicyReport) == report


def test_the_log_itself_is_a_champion_without_its_exploration() -> None:
    named = compare_routers(LOG, TAUGHT, SINGLE, preference=1.0)
    logged = compare_routers(LOG, TAUGHT, "logged", preference=1.0)
    assert logged.difference == named.difference


def test_the_same_router_is_not_worse_than_itself() -> None:
    report = compare_routers(LOG, SINGLE, SINGLE, preference=1.0)
    assert report.verdict == "not worse"
    assert report.agreement == 1.0
    assert report.difference is not None
    assert report.difference.value == 0.0


def test_a_small_log_gets_no_verdict_but_the_number_that_is_missing() -> None:
    report = compare_routers(LOG.rows(np.arange(600)), TAUGHT, SINGLE, preference=1.0)
    assert report.verdict == "undecided"
    assert report.effective < 200
    assert report.needed is not None
    assert 1_000 < report.needed < 10_000
    assert "at least 200 are needed" in report.reason
    assert report.difference is not None


def test_a_log_that_never_explores_gets_no_verdict() -> None:
    report = compare_routers(served(WORLD, SINGLE, 0.0), TAUGHT, SINGLE, preference=1.0)
    assert report.verdict == "undecided"
    assert report.outside > 0.5
    assert "that the log never tries" in report.reason
    assert report.needed is None


def test_a_candidate_that_only_differs_where_nothing_was_drawn_gets_no_verdict() -> None:
    """1,000 decisions are enough in number, but of the 40 in which the two differ the log drew the other arm in 20."""
    n = 1000
    logging = np.tile([0.5, 0.5], (n, 1))
    chosen = [i % 2 for i in range(n)]
    log = log_of(chosen, logging, [0.5] * n, encoder="0123456789abcdef")
    vectors = np.zeros((n, 2), dtype=np.float32)
    vectors[np.arange(n), (np.arange(n) < 40).astype(int)] = 1.0
    log = replace(log, vectors=vectors)

    class Sometimes(PriorRouter):
        """Takes the other arm where the second axis is."""

        def predict_batch(self, vectors: Any, features: Any = None, texts: Any = None) -> Any:
            prediction = super().predict_batch(vectors)
            return prediction._replace(quality=np.ascontiguousarray(vectors[:, :2]))

    plain = PriorRouter(("arm-0", "arm-1"), "0123456789abcdef", CostScale(), _flat([0.9, 0.1]))
    other = Sometimes(("arm-0", "arm-1"), "0123456789abcdef", CostScale(), _flat([0.9, 0.1]))
    report = compare_routers(log, other, plain, preference=1.0)
    assert report.effective > 200
    assert report.agreement == pytest.approx(0.96)
    assert (report.verdict, report.disagreeing, report.needed) == ("undecided", 20, 500)
    assert "takes in 20 decisions, at least 30 are needed" in report.reason


def _flat(quality: list[float]) -> Any:
    from routers.protocol import Prediction

    columns = [quality, [0.1, 0.1], [np.nan, np.nan], [np.nan, np.nan]]
    return Prediction(*(np.array(column, dtype=np.float32) for column in columns))


def test_a_preference_for_cost_judges_what_answers_cost_too() -> None:
    report = compare_routers(LOG, TAUGHT, SINGLE, preference=0.2)
    assert report.difference is not None
    assert report.quality is not None
    assert report.difference != report.quality
    np.testing.assert_allclose(
        utility(LOG, 0.2, SINGLE.cost_scale), 0.2 * LOG.reward - 0.8 * SINGLE.cost_scale.positions(LOG.cost_usd)
    )
    unknown = replace(LOG, cost_usd=np.where(np.arange(6000) < 10, np.nan, LOG.cost_usd))
    dearest = SINGLE.cost_scale.positions(np.nanmax(unknown.cost_usd, keepdims=True))[0]
    assert utility(unknown, 0.2, SINGLE.cost_scale)[0] == pytest.approx(0.2 * LOG.reward[0] - 0.8 * dearest)
    free = replace(LOG, cost_usd=np.full(6000, np.nan))
    np.testing.assert_allclose(utility(free, 0.2, SINGLE.cost_scale), 0.2 * LOG.reward)
    assert compare_routers(free, TAUGHT, SINGLE, preference=0.2).cost_usd is None


def test_routers_of_another_encoder_are_told() -> None:
    with pytest.raises(
        OffPolicyError, match=r"a prior router learned from .* encoder abc, the decisions have those of"
    ):
        compare_routers(LOG, TAUGHT, PriorRouter.fit(replace(world(), encoder="abc")), preference=1.0)


def test_the_order_of_the_log_does_not_matter() -> None:
    order = np.random.default_rng(0).permutation(len(LOG.ids))
    first, second = (compare_routers(log, TAUGHT, SINGLE, preference=1.0) for log in (LOG, LOG.rows(order)))
    assert first.difference is not None
    assert second.difference is not None
    assert second.difference.value == pytest.approx(first.difference.value, abs=1e-4)
    assert second.difference.low == pytest.approx(first.difference.low, abs=1e-4)


def test_simulated_logs_draw_as_often_as_their_policy_says() -> None:
    probabilities = np.tile([0.7, 0.0, 0.2, 0.1], (20_000, 1))
    shares = np.bincount(drawn(probabilities, np.random.default_rng(0)), minlength=4) / 20_000
    assert shares == pytest.approx([0.7, 0.0, 0.2, 0.1], abs=0.01)
    again = decisions_from_outcomes(WORLD, np.full(WORLD.quality.shape, 0.2), 3, 50)
    assert again.ids == decisions_from_outcomes(WORLD, np.full(WORLD.quality.shape, 0.2), 3, 50).ids
    with pytest.raises(OffPolicyError, match="was not observed"):
        decisions_from_outcomes(masked(WORLD), np.full(WORLD.quality.shape, 0.2))


def test_the_held_out_part_is_the_one_that_training_holds_out() -> None:
    everyone = decisions_from_outcomes(WORLD, np.full(WORLD.quality.shape, 0.2))
    assert held_out(everyone, 0.2, "held-out-0").ids == split(WORLD, 0.2, "held-out-0")[1].query_ids


def test_intervals_hold_the_truth_and_verdicts_are_right() -> None:
    """100 logs of 1,500 decisions: the 95 % interval of the difference holds the truth about as often."""
    gain = true_value(TAUGHT) - true_value(SINGLE)
    held = 0
    for seed in range(100):
        report = compare_routers(served(WORLD, SINGLE, 0.3, 1500, seed), TAUGHT, SINGLE, preference=1.0)
        assert report.verdict in ("better", "undecided")
        assert report.difference is not None
        held += report.difference.low <= gain <= report.difference.high
    assert 90 <= held <= 99
