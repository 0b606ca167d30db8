"""Does the automatic rollout move only on evidence, one stage at a time, inside its bounds, and only if told to?"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from offline.routing.automatic import BY, COLD_START, Automatic
from offline.worker import Worker
from registry.artifacts import Artifacts
from registry.job_kinds import TRAIN_ROUTER
from registry.jobs import Job, Jobs
from registry.rollouts import Rollout, Rollouts
from registry.worker_settings import WorkerSettings
from routers.catalogue import KIND
from tests.rollouts.logged import Record, explored, routed, scored, settings_for, side, written
from traffic.records import Shadow

BOUNDS = {
    "enabled": True, "every_outcomes": 50, "shadow_hours": 1.0, "canary_share": 0.1, "canary_hours": 2.0,
    "max_canary_hours": 10.0,
}  # fmt: skip
HOUR_S = 3600.0


class Site:
    """A data folder with a clock of its own."""

    def __init__(self, folder: Path, **bounds: Any) -> None:
        self.folder = folder
        self.now = 2_000_000_000.0
        self.settings: WorkerSettings = settings_for(folder, automatic=BOUNDS | bounds)
        self.automatic = Automatic(self.settings, check_s=0.0, clock=lambda: self.now)
        self.artifacts = Artifacts(folder / "artifacts")
        self.rollouts = Rollouts(self.artifacts, KIND)

    def jobs(self) -> list[Job]:
        return Jobs(self.folder).find(kind=TRAIN_ROUTER)

    def log(self, *parts: Iterator[Record]) -> None:
        written(self.folder, *parts)

    def hours(self, count: float) -> None:
        self.now += count * HOUR_S
        self.automatic()

    def rollout(self) -> Rollout:
        return self.rollouts.read()


def trained(folder: Path) -> tuple[Site, str]:
    """A site on which a version was trained automatically, and found better by the log."""
    site = Site(folder)
    site.log(explored(range(2_600)))
    site.automatic()
    job = site.jobs()[0]
    assert (job.state, job.by) == ("queued", BY)
    Worker(site.settings).run(until_idle=True)
    result = site.jobs()[0].result
    assert result is not None
    assert result["off_policy"]["verdict"] == "better", result
    return site, result["version"]


def in_canary(folder: Path) -> tuple[Site, str]:
    site, version = trained(folder)
    site.automatic()
    site.log(iter([routed(9_000, COLD_START, at=site.now, shadow=Shadow(router=version, arm="calc"))]))
    site.hours(1.1)
    trial = site.rollout().trial
    assert trial is not None
    assert (trial.stage, trial.share) == ("canary", 0.1)
    return site, version


def test_it_is_off_unless_it_is_switched_on(tmp_path: Path) -> None:
    site = Site(tmp_path, enabled=False)
    site.log(explored(range(200)))
    site.automatic()
    assert site.jobs() == []
    assert not settings_for(tmp_path).automatic.enabled


def test_a_training_waits_for_enough_new_outcomes(tmp_path: Path) -> None:
    site = Site(tmp_path)
    site.log(explored(range(49)))
    site.automatic()
    assert site.jobs() == []
    site.log(iter([routed(1_000, COLD_START), scored(1_000, 1.0)]))
    site.automatic()
    site.automatic()
    first = site.jobs()
    assert len(first) == 1
    Worker(site.settings).run(until_idle=True)
    site.automatic()
    assert len(site.jobs()) == 1
    site.log(explored(range(2_000, 2_050), at=first[0].created_at + 1.0))
    site.automatic()
    assert len(site.jobs()) == 2


@pytest.mark.slow
def test_it_goes_through_shadow_and_canary_to_promotion(tmp_path: Path) -> None:
    site, version = in_canary(tmp_path)
    site.log(
        side(version, range(10_000, 10_300), 0.95, at=site.now + 1, seed=1),
        side(COLD_START, range(11_000, 11_600), 0.6, at=site.now + 1, seed=2),
    )
    site.hours(1.0)
    assert site.rollout().champion is None
    site.hours(1.5)
    assert site.rollout().champion == version
    entries = site.rollouts.audit()
    assert [entry.action for entry in entries] == ["announce", "shadow", "canary", "promote"]
    assert {entry.by for entry in entries} == {BY}
    assert "difference in quality" in (entries[-1].why or "")


@pytest.mark.slow
def test_a_worse_canary_is_rolled_back_at_once_and_not_tried_again(tmp_path: Path) -> None:
    site, version = in_canary(tmp_path)
    site.log(
        side(version, range(10_000, 10_300), 0.3, at=site.now + 1, seed=1),
        side(COLD_START, range(11_000, 11_600), 0.9, at=site.now + 1, seed=2),
    )
    site.hours(0.1)
    assert (site.rollout().trial, site.rollout().stage(version)) == (None, "rolled_back")
    site.hours(1.0)
    assert site.rollout().trial is None


@pytest.mark.slow
def test_a_canary_without_a_verdict_ends_and_one_that_is_only_not_worse_is_not_promoted(tmp_path: Path) -> None:
    site, version = in_canary(tmp_path)
    site.log(
        side(version, range(10_000, 10_300), 0.8, at=site.now + 1, seed=1),
        side(COLD_START, range(11_000, 11_600), 0.8, at=site.now + 1, seed=2),
    )
    site.hours(3.0)
    assert site.rollout().trial is not None
    site.hours(8.0)
    assert (site.rollout().trial, site.rollout().champion) == (None, None)
    assert "no gain was shown within 10 hours" in (site.rollouts.audit()[-1].why or "")


@pytest.mark.slow
def test_what_an_operator_tries_is_left_alone_and_so_is_a_champion_that_has_changed(tmp_path: Path) -> None:
    site, version = trained(tmp_path)
    by_hand = site.artifacts.load(KIND, version)
    other = site.artifacts.publish(KIND, "hand", by_hand.arrays, by_hand.manifest.meta).version
    site.rollouts.canary(other, 0.2, by="anna", if_match="*")
    site.hours(20.0)
    trial = site.rollout().trial
    assert trial is not None
    assert (trial.version, trial.stage) == (other, "canary")
    site.rollouts.promote(other, by="anna", if_match="*")
    site.hours(1.0)
    # The candidate's evidence is against the cold start, which serves no more.
    assert (site.rollout().trial, site.rollout().champion) == (None, other)


def test_what_stands_in_the_way_is_told_and_the_worker_goes_on(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    site = Site(tmp_path)
    site.log(explored(range(60)))
    folder = tmp_path / "artifacts" / KIND
    folder.mkdir(parents=True)
    (folder / "rollout.json").write_text("{")
    site.automatic()
    assert "nothing is done automatically now" in caplog.text
    assert site.jobs() == []
