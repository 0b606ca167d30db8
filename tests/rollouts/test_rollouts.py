"""Does a rollout only ever go where its stages, its ETag and its versions allow, and survive every crash?"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from registry.artifacts import ArtifactError, ArtifactMissing, Artifacts
from registry.rollouts import (
    AUDIT,
    DOCUMENT,
    RolloutConflict,
    Rollouts,
    RolloutStale,
    RolloutUnreadable,
    Trial,
)
from service.trial import dealt_to_canary

KIND = "router"
BY = "anna"


def version(artifacts: Artifacts, number: int) -> str:
    return artifacts.publish(KIND, "v", {"x": np.array([float(number)])}, {}).version


@pytest.fixture
def artifacts(tmp_path: Path) -> Artifacts:
    return Artifacts(tmp_path)


@pytest.fixture
def rollouts(artifacts: Artifacts) -> Rollouts:
    return Rollouts(artifacts, KIND)


def etag(rollouts: Rollouts) -> str:
    return rollouts.read().etag


def test_from_candidate_to_champion_and_back(artifacts: Artifacts, rollouts: Rollouts) -> None:
    first, second = version(artifacts, 1), version(artifacts, 2)
    artifacts.deploy(KIND, first)
    rollouts.announce(second, by=BY)
    assert rollouts.announce(second, by=BY).etag == etag(rollouts)
    assert rollouts.read().stage(second) == "candidate"
    shadow = rollouts.shadow(second, by=BY, if_match=etag(rollouts))
    assert shadow.trial is not None
    assert (shadow.trial.version, shadow.trial.stage, shadow.champion) == (second, "shadow", first)
    canary = rollouts.canary(second, 0.1, by=BY, if_match=shadow.etag, why="looks good")
    assert canary.trial is not None
    assert canary.trial.share == 0.1
    wider = rollouts.canary(second, 0.2, by=BY, if_match=canary.etag)
    assert wider.trial is not None
    assert (wider.trial.share, wider.trial.id, wider.trial.since) == (0.2, canary.trial.id, canary.trial.since)
    promoted = rollouts.promote(second, by=BY, if_match=wider.etag)
    assert (promoted.champion, promoted.trial) == (second, None)
    assert (promoted.stage(first), promoted.stage(second)) == ("retired", "promoted")
    back = rollouts.roll_back(by=BY, why="worse")
    assert (back.champion, back.stage(second)) == (first, "rolled_back")
    assert artifacts.names(KIND) == sorted([first, second])
    entries = rollouts.audit()
    assert [e.action for e in entries] == ["announce", "shadow", "canary", "canary", "promote", "roll_back"]
    assert [e.revision for e in entries] == [1, 2, 3, 4, 5, 6]
    assert (entries[2].why, entries[2].by, entries[2].before, entries[2].after) == (
        "looks good",
        BY,
        "shadow",
        "canary",
    )


def test_rolling_back_passes_over_what_cannot_serve_any_more(artifacts: Artifacts, rollouts: Rollouts) -> None:
    good, cut, bad = version(artifacts, 1), version(artifacts, 2), version(artifacts, 3)
    for champion in (good, cut, bad):
        rollouts.promote(champion, by=BY, if_match=etag(rollouts))
    (artifacts.root / KIND / cut / "arrays.safetensors").write_bytes(b"")
    back = rollouts.roll_back(by=BY, why="worse")
    assert (back.champion, back.history) == (good, ())
    assert rollouts.audit()[-1].why == f"worse (passed over, because they cannot serve: {cut})"
    (artifacts.root / KIND / good / "arrays.safetensors").write_bytes(b"")
    rollouts.promote(bad, by=BY, if_match=etag(rollouts))
    assert rollouts.roll_back(by=BY).champion is None


def test_rolling_back_ends_a_trial_first_and_then_goes_down_to_the_cold_start(
    artifacts: Artifacts, rollouts: Rollouts
) -> None:
    first, second = version(artifacts, 1), version(artifacts, 2)
    rollouts.promote(first, by=BY, if_match=etag(rollouts))
    rollouts.canary(second, 0.5, by=BY, if_match=etag(rollouts))
    ended = rollouts.roll_back(by=BY)
    assert (ended.champion, ended.trial, ended.stage(second)) == (first, None, "rolled_back")
    cold = rollouts.roll_back(by=BY)
    assert (cold.champion, cold.stage(first)) == (None, "rolled_back")
    assert artifacts.deployed(KIND) is None
    with pytest.raises(RolloutConflict, match="nothing to roll back"):
        rollouts.roll_back(by=BY)
    assert rollouts.promote(first, by=BY, if_match=etag(rollouts)).champion == first


def test_a_change_by_somebody_else_makes_the_etag_stale(artifacts: Artifacts, rollouts: Rollouts) -> None:
    first, second = version(artifacts, 1), version(artifacts, 2)
    seen = etag(rollouts)
    rollouts.shadow(first, by=BY, if_match=seen)
    with pytest.raises(RolloutStale, match="look at it and try again"):
        rollouts.canary(first, 0.1, by=BY, if_match=seen)
    seen = etag(rollouts)
    artifacts.deploy(KIND, second)
    with pytest.raises(RolloutStale):
        rollouts.promote(first, by=BY, if_match=seen)


def test_what_does_not_fit_is_refused_and_changes_nothing(artifacts: Artifacts, rollouts: Rollouts) -> None:
    first, second = version(artifacts, 1), version(artifacts, 2)
    rollouts.shadow(first, by=BY, if_match="*")
    before = etag(rollouts)
    with pytest.raises(RolloutConflict, match=r"is in shadow; promote it or roll it back"):
        rollouts.shadow(second, by=BY, if_match="*")
    with pytest.raises(RolloutConflict, match="is in shadow"):
        rollouts.promote(second, by=BY, if_match="*")
    with pytest.raises(ValueError, match="share must lie in"):
        rollouts.canary(first, 0.6, by=BY, if_match="*")
    assert etag(rollouts) == before
    rollouts.promote(first, by=BY, if_match="*")
    with pytest.raises(RolloutConflict, match="serves already"):
        rollouts.canary(first, 0.1, by=BY, if_match="*")
    with pytest.raises(ArtifactMissing, match="no router v@00000000"):
        rollouts.promote("v@00000000", by=BY, if_match="*")
    (artifacts.root / KIND / second / "arrays.safetensors").write_bytes(b"cut")
    with pytest.raises(ArtifactError, match="truncated"):
        rollouts.promote(second, by=BY, if_match="*")
    assert rollouts.read().champion == first


def test_a_corrupt_document_is_told_and_the_champion_stays(artifacts: Artifacts, rollouts: Rollouts) -> None:
    first, second = version(artifacts, 1), version(artifacts, 2)
    rollouts.promote(first, by=BY, if_match="*")
    rollouts.shadow(second, by=BY, if_match="*")
    document = artifacts.root / KIND / DOCUMENT
    document.write_text("{")
    for call in (rollouts.read, rollouts.audit, lambda: rollouts.roll_back(by=BY)):
        with pytest.raises(RolloutUnreadable, match=r"champion goes on serving.* Move the file away"):
            call()
    assert artifacts.deployed(KIND) == first
    document.unlink()
    assert (rollouts.read().champion, rollouts.read().trial) == (first, None)


def test_a_crash_after_each_write_leaves_a_state_that_is_told_right(
    artifacts: Artifacts, rollouts: Rollouts, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = version(artifacts, 1), version(artifacts, 2)
    rollouts.promote(first, by=BY, if_match="*")
    rollouts.canary(second, 0.2, by=BY, if_match="*")
    # Between the pointer and the document of a promotion: it serves everybody and is on trial no more.
    artifacts.deploy(KIND, second)
    half = rollouts.read()
    assert (half.champion, half.trial, half.stage(second), half.stage(first)) == (second, None, "promoted", "retired")
    # Between the document and the audit log: the next reader and the next writer make up for it.
    audit = artifacts.root / KIND / AUDIT
    lines = audit.read_bytes().split(b"\n")
    audit.write_bytes(b"\n".join(lines[:-2]) + b"\n" + lines[-2][:30])
    assert [entry.action for entry in rollouts.audit()] == ["promote", "canary"]
    rollouts.roll_back(by=BY)
    assert [entry.action for entry in rollouts.audit()] == ["promote", "canary", "roll_back"]
    assert [entry.revision for entry in rollouts.audit()] == [1, 2, 3]


def test_a_deployment_past_the_stages_is_audited(artifacts: Artifacts, rollouts: Rollouts) -> None:
    first = version(artifacts, 1)
    artifacts.deploy(KIND, first)
    rollouts.deployed(first, by=BY, why="by hand")
    assert [(e.action, e.champion, e.why) for e in rollouts.audit()] == [("deploy", first, "by hand")]


def trial(share: float) -> Trial:
    return Trial(version="v@01234567", stage="canary", share=share, id="trial", since=0.0)


@given(st.text(max_size=40), st.floats(0.01, 0.5), st.floats(0.01, 0.5))
@settings(max_examples=200)
def test_a_conversation_stays_where_it_was_dealt_as_the_share_grows(name: str, one: float, other: float) -> None:
    small, large = min(one, other), max(one, other)
    assert dealt_to_canary(trial(small), name) == dealt_to_canary(trial(small), name)
    if dealt_to_canary(trial(small), name):
        assert dealt_to_canary(trial(large), name)


def test_the_share_is_kept() -> None:
    for share in (0.01, 0.1, 0.5):
        dealt = sum(dealt_to_canary(trial(share), f"conversation {i}") for i in range(20_000)) / 20_000
        assert dealt == pytest.approx(share, abs=0.01)
