"""Does the report compare what can be compared, and is its verdict true as often as it says?"""

from __future__ import annotations

from math import log, sqrt
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from registry.artifacts import Manifest
from registry.rollout_report import (
    MIN_CONVERSATIONS,
    RolloutReport,
    Values,
    always_valid_radius,
    compare_versions,
    difference,
    promotion_gate,
)
from tests.rollouts.logged import routed, scored, side, write
from traffic.records import Feedback, Shadow
from traffic.said import ScoreOutOfRange
from traffic.stores import open_log

NEW, OLD = "cluster@00000001", "cluster@00000002"


async def report(folder: Path, *parts: Any, since: float = 0.0, until: float | None = None) -> RolloutReport:
    found = open_log(await write(folder, *parts))
    try:
        return compare_versions(found, NEW, OLD, since, until)
    finally:
        await found.close()


async def test_both_sides_are_counted_and_the_better_one_is_told(tmp_path: Path) -> None:
    found = await report(tmp_path, side(NEW, range(300), 0.95), side(OLD, range(1000, 1600), 0.6))
    assert (found.candidate.requests, found.champion.requests, found.candidate.scored) == (300, 600, 300)
    assert found.candidate.cost_usd == pytest.approx(0.001)
    assert found.quality is not None
    assert found.quality.low > 0.1
    assert found.verdict == "better"
    assert found.cost_usd is not None
    assert found.cost_usd.value == pytest.approx(0.0)


async def test_only_what_the_two_versions_decided_in_the_window_counts(tmp_path: Path) -> None:
    other = [routed(5000, "prior@0"), scored(5000, 1.0)]
    early = side(NEW, range(6000, 6100), 0.0, at=10.0)
    late = side(NEW, range(7000, 7100), 0.0, at=5_000.0)
    found = await report(tmp_path, side(NEW, range(60), 1.0), iter(other), early, late, since=500.0, until=2_000.0)
    assert (found.candidate.requests, found.candidate.quality, found.champion.requests) == (60, 1.0, 0)
    assert found.verdict == "undecided"
    assert f"at least {MIN_CONVERSATIONS} of each" in found.reason


async def test_failures_are_worse_whatever_the_quality(tmp_path: Path) -> None:
    failing = (routed(2000 + n, NEW, outcome="failed") for n in range(200))
    found = await report(tmp_path, side(NEW, range(100), 1.0), failing, side(OLD, range(1000, 1400), 0.5))
    assert found.candidate.failed == 200
    assert found.failure_rate is not None
    assert found.failure_rate.low > 0.3
    assert found.verdict == "worse"


async def test_one_long_conversation_is_one_conversation(tmp_path: Path) -> None:
    talk = (routed(n, NEW, session="one") for n in range(200))
    said = (scored(n, 1.0) for n in range(200))
    found = await report(tmp_path, talk, said, side(OLD, range(1000, 1400), 0.2))
    assert (found.candidate.requests, found.candidate.conversations, found.verdict) == (200, 1, "undecided")


async def test_shadow_decisions_are_counted(tmp_path: Path) -> None:
    same, other = Shadow(router=NEW, arm="calc", propensity=1.0), Shadow(router=NEW, arm="book", propensity=0.0)
    records = [routed(n, OLD, shadow=same if n < 30 else other) for n in range(40)]
    records += [routed(100, OLD, shadow=Shadow(router="x@00000000", arm="calc"))]
    found = await report(tmp_path, iter(records))
    assert (found.shadowed, found.shadow_agreement) == (40, 0.75)
    assert found.verdict == "undecided"
    assert "of 40 requests it would have sent 30 to the same arm" in found.reason


async def test_feedback_that_is_no_score_yet_counts_once_and_a_wrong_score_is_refused(tmp_path: Path) -> None:
    said = Feedback(id="f", interaction_id="req_1", created_at=1_000.0, metric="ok", value=True)
    found = await report(tmp_path, iter([routed(1, NEW), routed(2, NEW), scored(2, 0.0), said]))
    assert (found.candidate.scored, found.candidate.quality) == (2, 0.5)
    with pytest.raises(ScoreOutOfRange, match=r"must lie in \[0, 1\], got 1.5"):
        await report(tmp_path, iter([routed(3, NEW), scored(3, 1.5)]))


def test_the_interval_by_hand() -> None:
    first, second = Values(), Values()
    for number in range(60):
        first.add(str(number), float(number % 2))
        second.add(str(number), 0.0)
    found = difference(first, second, shares=False)
    assert found is not None
    rho2 = (-2 * log(0.05) + log(-2 * log(0.05) + 1)) / 1000
    grown = 120 * rho2 + 1
    # Variance of the mean: 60 deviations of 1/2, squared and summed, over 60 squared.
    reach = sqrt(120 * 60 * 0.25 / 3600) * sqrt(2 * grown / (120**2 * rho2) * log(sqrt(grown) / 0.05))
    assert found.value == pytest.approx(0.5)
    assert found.high - found.value == pytest.approx(reach)
    assert difference(first, Values(), shares=False) is None


def test_equal_answers_do_not_make_a_certain_difference() -> None:
    ones, zeros = Values(), Values()
    for number in range(MIN_CONVERSATIONS):
        ones.add(str(number), 1.0)
        zeros.add(str(number), 0.0)
    found = difference(ones, zeros, shares=True)
    assert found is not None
    assert 0.0 < found.low < 1.0


def looked_at_all_the_time(effect: float, seed: int, requests: int = 3_000, share: float = 0.2) -> bool:
    """Whether the interval ever excludes 0 on the way, looked at after every twentieth request."""
    rng = np.random.default_rng(seed)
    dealt = rng.random(requests) < share
    right = (rng.random(requests) < 0.7 + effect * dealt).astype(float)
    count = np.arange(1, requests + 1)
    new, old = np.cumsum(dealt), count - np.cumsum(dealt)
    with np.errstate(divide="ignore", invalid="ignore"):
        means = np.cumsum(right * dealt) / new, np.cumsum(right * ~dealt) / old
        spread = sum((n * m * (1 - m) + 0.5) / n**2 for n, m in zip((new, old), means, strict=True))
    looks = np.arange(99, requests, 20)
    looks = looks[(new[looks] >= MIN_CONVERSATIONS) & (old[looks] >= MIN_CONVERSATIONS)]
    reach = np.array([sqrt(count[at] * spread[at]) * always_valid_radius(int(count[at])) for at in looks])
    return bool(np.any(np.abs(means[0][looks] - means[1][looks]) > reach))


def test_an_equal_version_is_seldom_called_different_however_often_one_looks() -> None:
    assert np.mean([looked_at_all_the_time(0.0, seed) for seed in range(200)]) <= 0.05


def test_a_better_version_is_found() -> None:
    assert np.mean([looked_at_all_the_time(0.1, seed) for seed in range(50)]) >= 0.9


def manifest(**off_policy: Any) -> Manifest:
    evidence = {"off_policy": off_policy} if off_policy else {}
    return Manifest(
        kind="router", name="v", version=NEW, created_at=0.0, encoder="e", arrays_sha256="", meta={}, evidence=evidence
    )


def test_the_gate_wants_evidence_against_the_champion_of_today() -> None:
    better = manifest(verdict="better", reason="+0.1", against=OLD)
    assert promotion_gate(better, OLD, None).open
    assert promotion_gate(manifest(verdict="not worse", reason="", against=None), None, None).open
    moved = promotion_gate(better, "other@00000000", None)
    assert not moved.open
    assert "other@00000000 serves now" in moved.why
    for closed in (manifest(verdict="worse", reason="-0.1", against=OLD), manifest(verdict="undecided", against=OLD)):
        assert not promotion_gate(closed, OLD, None).open
    without = promotion_gate(manifest(), OLD, None)
    assert not without.open
    assert "without an off-policy estimate" in without.why


async def test_a_canary_overrules_the_estimate(tmp_path: Path) -> None:
    (tmp_path / "good").mkdir()
    (tmp_path / "bad").mkdir()
    good = await report(tmp_path / "good", side(NEW, range(300), 0.95), side(OLD, range(1000, 1600), 0.6))
    bad = await report(tmp_path / "bad", side(NEW, range(300), 0.3), side(OLD, range(1000, 1600), 0.9))
    assert promotion_gate(manifest(verdict="undecided", reason="", against=OLD), OLD, good).open
    closed = promotion_gate(manifest(verdict="better", reason="", against=OLD), OLD, bad)
    assert not closed.open
    assert "worse" in closed.why
