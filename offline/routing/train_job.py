"""The job `train_router`: from the traffic log to a candidate version with its evidence."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import msgspec

from encoders.catalogue import load_encoder
from encoders.protocol import Encoder
from offline.job_work import JobWork
from offline.outcomes import LoggedOutcomes, outcomes_from_log
from offline.routing.evaluate import HELD_OUT
from offline.routing.off_policy import LogDecisions, compare_routers, decisions_from_log, held_out
from offline.routing.train_router import DEFAULT, default_router, train
from registry.artifacts import Artifacts, Manifest
from registry.drift_records import read_drift, since_by_arm
from registry.job_kinds import TrainArguments, train_arguments
from registry.rollouts import Rollouts
from routers.catalogue import KIND, load_router
from routers.protocol import Router, TrainingError
from traffic.log import TrafficLog
from traffic.stores import open_log

SQLITE = "sqlite:///"


class Read(NamedTuple):
    """What the log held when the job was queued."""

    outcomes: LoggedOutcomes
    decisions: LogDecisions


def run_train_router(work: JobWork) -> dict[str, Any]:
    """Train, judge, publish and announce a router. The result names its version and what it is worth.

    Raises
    ------
    TrainingError, OffPolicyError, ArtifactError, LogError, EncoderUnavailable: nothing can be learned; says what to do.
    """
    wanted, settings = train_arguments(work.job.arguments), work.settings
    router = wanted.router or default_router()
    encoder = load_encoder(settings.encoder)
    artifacts = Artifacts(settings.data_dir / "artifacts")
    work.step("reading the log", 0.05)
    if wanted.router is None:
        more = "" if router == DEFAULT else f"; {DEFAULT} needs pip install 'tokamak[learn]' where the worker runs"
        work.note(f"the router is {router}, the default of this installation{more}")
    changed = since_by_arm(read_drift(settings.data_dir))
    read = _read(settings.log_url, encoder, wanted, work.job.created_at, changed)
    outcomes, counts = read.outcomes.outcomes, read.outcomes.counts
    never = [arm for arm in settings.arms if arm not in outcomes.arms]
    if never:
        work.note(f"never observed, so they keep what is expected of them: {', '.join(never)}")
    work.note(f"{len(outcomes.query_ids)} queries, {len(outcomes.arms)} arms: {_told(counts)}")
    champion = artifacts.deployed(KIND)
    judge = _Judge(read.decisions, artifacts, encoder, champion, _preference(wanted, work), wanted.seed)
    manifest = train(
        outcomes, router, wanted.seed, artifacts=artifacts, off_policy=judge, told=work.step,
        source=_source(wanted, work, counts, never),
    )  # fmt: skip
    Rollouts(artifacts, KIND).announce(manifest.version, by=work.job.by, why=f"trained by {work.job.id}")
    return _result(manifest)


def _preference(wanted: TrainArguments, work: JobWork) -> float:
    return work.settings.preference if wanted.preference is None else wanted.preference


def _source(wanted: TrainArguments, work: JobWork, counts: dict[str, int], never: list[str]) -> dict[str, Any]:
    """The data window, and what was left out of it. Nothing here tells one attempt of a job from the next."""
    return {
        "log": counts,
        "since": wanted.since,
        "until": work.job.created_at if wanted.until is None else wanted.until,
        "scores_until": work.job.created_at,
        "sources": None if wanted.sources is None else list(wanted.sources),
        "never_observed": never,
    }


def _read(url: str, encoder: Encoder, wanted: TrainArguments, queued_at: float, changed: dict[str, float]) -> Read:
    """Only what was there when the job was queued: run again after a crash, it reads the same.

    Of an arm that has `changed` under its name only what it answered since then.
    """
    if url.startswith(SQLITE) and not Path(url.removeprefix(SQLITE)).exists():
        raise TrainingError(f"there is no log {url}; serve and score some traffic first")
    until = queued_at if wanted.until is None else wanted.until

    async def read() -> Read:
        log: TrafficLog = open_log(url)
        try:
            return Read(
                outcomes_from_log(
                    log,
                    encoder,
                    wanted.since,
                    until,
                    sources=wanted.sources,
                    said_until=queued_at,
                    since_by_arm=changed,
                ),
                decisions_from_log(log, encoder, wanted.since, until, sources=wanted.sources, said_until=queued_at),
            )
        finally:
            await log.close()

    return asyncio.run(read())


@dataclass(frozen=True, slots=True)
class _Judge:
    """Compares a router with the champion on the logged decisions of queries that it has not seen."""

    decisions: LogDecisions
    artifacts: Artifacts
    encoder: Encoder
    champion: str | None
    preference: float
    seed: int

    def __call__(self, router: Router) -> dict[str, Any]:
        unseen = held_out(self.decisions.decisions, HELD_OUT, f"held-out-{self.seed}")
        against: Any = "logged"
        if self.champion is not None:
            against = load_router(self.artifacts.load(KIND, self.champion), self.encoder.hash)
        report = compare_routers(unseen, router, against, preference=self.preference, seed=self.seed)
        found: dict[str, Any] = msgspec.to_builtins(report)
        return found | {"against": self.champion, "log": self.decisions.counts}


def _result(manifest: Manifest) -> dict[str, Any]:
    evaluation, judged = manifest.evidence["evaluation"], manifest.evidence["off_policy"]
    performance = evaluation["routers"][-1]["scenarios"]["performance"]
    return {
        "version": manifest.version,
        "quality": performance["quality"],
        "gain": performance["gain"],
        "off_policy": {"verdict": judged["verdict"], "reason": judged["reason"], "against": judged["against"]},
    }


def _told(counts: dict[str, int]) -> str:
    left_out = ", ".join(f"{count} {name}" for name, count in counts.items() if name not in ("read", "used") and count)
    return f"{counts['used']} of {counts['read']} interactions{f' (left out: {left_out})' if left_out else ''}"
