"""Retraining and rollout without an operator, inside the bounds of `routers.automatic`. Off unless switched on.

A router is trained when enough new answers were scored. Only what was trained so is moved, one stage at a time, and
only on evidence: into shadow and canary if its off-policy difference is above 0, to promotion if the canary's is. A
canary that is worse, or undecided for too long, is rolled back. Every step stands in the audit log as `automatic`.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Callable
from typing import Final, TypeVar

from encoders.catalogue import load_encoder
from encoders.protocol import EncoderUnavailable
from registry.artifacts import ArtifactError, Artifacts, Manifest
from registry.job_kinds import TRAIN_ROUTER, TrainArguments
from registry.jobs import JobConflict, Jobs, JobsError
from registry.rollout_report import RolloutReport, compare_versions
from registry.rollouts import Rollout, RolloutError, Rollouts, Trial
from registry.worker_settings import WorkerSettings
from routers.catalogue import KIND, load_router
from traffic.log import LogError, TrafficLog
from traffic.stores import open_log

logger = logging.getLogger("tokamak.automatic")

T = TypeVar("T")

BY: Final = "automatic"
CHECK_S: Final = 10.0
HOUR_S: Final = 3600.0
COLD_START: Final = "prior@0"
"""The version that the log names where no router was deployed."""


class Automatic:
    """Called between jobs; looks around at most every `check_s` seconds."""

    def __init__(
        self, settings: WorkerSettings, *, check_s: float = CHECK_S, clock: Callable[[], float] = time.time
    ) -> None:
        self._settings = settings
        self._bounds = settings.automatic
        self._jobs = Jobs(settings.data_dir, settings.lease_s)
        self._artifacts = Artifacts(settings.data_dir / "artifacts")
        self._rollouts = Rollouts(self._artifacts, KIND, self._fits, clock)
        self._check_s = check_s
        self._clock = clock
        self._next = 0.0

    def __call__(self) -> None:
        if not self._bounds.enabled or self._clock() < self._next:
            return
        self._next = self._clock() + self._check_s
        try:
            self.step()
        except (ArtifactError, EncoderUnavailable, JobsError, LogError, RolloutError, ValueError, OSError) as error:
            # What stands in the way of one look is told, and looked at again.
            logger.error("nothing is done automatically now: %s", error)

    def step(self) -> None:
        """Take the one step that is due, if any."""
        rollout = self._rollouts.read()
        trial = rollout.trial
        if trial is None:
            candidate = self._candidate(rollout)
            if candidate is None:
                self._train()
            else:
                reason = candidate.evidence["off_policy"]["reason"]
                self._rollouts.shadow(candidate.version, by=BY, if_match=rollout.etag, why=f"off-policy: {reason}")
        elif trial.version in self._trained():
            if trial.stage == "shadow":
                self._after_shadow(rollout, trial)
            else:
                self._after_canary(rollout, trial)

    def _after_shadow(self, rollout: Rollout, trial: Trial) -> None:
        if self._hours(trial) < self._bounds.shadow_hours:
            return
        report = self._report(rollout, trial)
        if report.shadowed:
            told = f"in shadow it chose the same arm in {report.shadow_agreement:.0%} of {report.shadowed} decisions"
            self._rollouts.canary(trial.version, self._bounds.canary_share, by=BY, if_match=rollout.etag, why=told)

    def _after_canary(self, rollout: Rollout, trial: Trial) -> None:
        report, hours = self._report(rollout, trial), self._hours(trial)
        if report.verdict == "worse":
            self._rollouts.roll_back(by=BY, if_match=rollout.etag, why=report.reason)
        elif report.quality is not None and report.quality.low > 0.0 and hours >= self._bounds.canary_hours:
            self._rollouts.promote(trial.version, by=BY, if_match=rollout.etag, why=report.reason)
        elif hours >= self._bounds.max_canary_hours:
            why = f"no gain was shown within {self._bounds.max_canary_hours:g} hours: {report.reason}"
            self._rollouts.roll_back(by=BY, if_match=rollout.etag, why=why)

    def _hours(self, trial: Trial) -> float:
        return (self._clock() - trial.since) / HOUR_S

    def _trained(self) -> list[str]:
        """The versions that were trained automatically, newest first."""
        jobs = self._jobs.find(kind=TRAIN_ROUTER, states=["succeeded"])
        return [str(job.result["version"]) for job in jobs if job.by == BY and job.result is not None]

    def _candidate(self, rollout: Rollout) -> Manifest | None:
        """The newest version trained automatically, if it was not tried yet and is better than what serves now."""
        newest = next(iter(self._trained()), None)
        if newest is None or rollout.stage(newest) != "candidate":
            return None
        manifest = self._artifacts.manifest(KIND, newest)
        judged = manifest.evidence["off_policy"]
        return manifest if judged["verdict"] == "better" and judged["against"] == rollout.champion else None

    def _train(self) -> None:
        last = next(iter(self._jobs.find(kind=TRAIN_ROUTER, limit=1)), None)
        if last is not None and last.state in ("queued", "running"):
            return
        if not self._enough(0.0 if last is None else last.created_at):
            return
        try:
            job = self._jobs.submit(TRAIN_ROUTER, TrainArguments().to_json(), target=KIND, by=BY).job
        except JobConflict as conflict:
            logger.info("%s", conflict)
            return
        logger.info("queued %s: %d new answers were scored", job.id, self._bounds.every_outcomes)

    def _enough(self, since: float) -> bool:
        """Whether enough answers were scored after that time."""

        def count(log: TrafficLog) -> bool:
            seen: set[str] = set()
            for score in log.read_scores(since):
                seen.add(score.interaction_id)
                if len(seen) >= self._bounds.every_outcomes:
                    return True
            return False

        return self._reading(count)

    def _report(self, rollout: Rollout, trial: Trial) -> RolloutReport:
        champion = rollout.champion or COLD_START
        return self._reading(lambda log: compare_versions(log, trial.version, champion, trial.since))

    def _reading(self, read: Callable[[TrafficLog], T]) -> T:
        async def run() -> T:
            log = open_log(self._settings.log_url)
            try:
                return read(log)
            finally:
                await log.close()

        return asyncio.run(run())

    def _fits(self, version: str) -> None:
        load_router(self._artifacts.load(KIND, version), load_encoder(self._settings.encoder).hash)
