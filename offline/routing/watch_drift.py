"""Reads the log since the deployed router was made, and tests each arm for a change of quality under its name."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import fmean

import numpy as np

from offline.outcomes import logged_features, said_values
from registry.drift_records import DriftRecord
from routers.evidence.drift import LEAST_REFERENCE, RUN_LENGTH, Detector, located, reference_of, split_reference
from routers.protocol import F32, Router
from traffic.log import TrafficLog
from traffic.records import Interaction

BATCH = 1024


@dataclass(slots=True)
class Residuals:
    """Of one arm, oldest first: score minus predicted quality, and when it was answered."""

    values: list[float] = field(default_factory=list)
    times: list[float] = field(default_factory=list)


def watch(
    log: TrafficLog, router: Router, version: str, since: float, *, run_length: float = RUN_LENGTH
) -> list[DriftRecord]:
    """A record for each arm of the router with scored answers from `since` on, in the order of its arms.

    The test may be run after every answer: looking often does not make false alarms more frequent, since it always
    starts at the same answer and never forgets.
    """
    found = residuals(log, router, since)
    return [_record(arm, version, found[arm], run_length) for arm in router.arms if arm in found]


def residuals(log: TrafficLog, router: Router, since: float) -> dict[str, Residuals]:
    """Residuals by arm of all scored answers whose vector the router's encoder made.

    Left out are answers of arms that the router does not know, and those that a cascade kept or dropped after it had
    seen them: they were selected by their quality.
    """
    said = said_values(log.read_scores(since), log.read_feedback(since))
    found: dict[str, Residuals] = {}
    batch: list[Interaction] = []
    for interaction in log.read_interactions(since):
        if interaction.id in said and _fits(interaction, router):
            batch.append(interaction)
        if len(batch) == BATCH:
            _add(found, batch, said, router)
            batch = []
    _add(found, batch, said, router)
    return found


def _fits(interaction: Interaction, router: Router) -> bool:
    cascaded = interaction.decision is not None and interaction.decision.cascade is not None
    fitting = interaction.vector is not None and interaction.encoder == router.encoder
    return interaction.outcome == "ok" and interaction.arm in router.arms and fitting and not cascaded


def _add(
    found: dict[str, Residuals], batch: Sequence[Interaction], said: Mapping[str, list[float]], router: Router
) -> None:
    if not batch:
        return
    vectors = np.stack([np.frombuffer(i.vector or b"", dtype="<f4") for i in batch]).astype(np.float32)
    predicted = router.predict_batch(vectors, _features(batch), [i.query_text for i in batch]).quality
    for row, interaction in enumerate(batch):
        arm = str(interaction.arm)
        kept = found.setdefault(arm, Residuals())
        kept.values.append(fmean(said[interaction.id]) - float(predicted[row, router.arms.index(arm)]))
        kept.times.append(interaction.created_at)


def _features(batch: Sequence[Interaction]) -> F32 | None:
    """The feature blocks, if every request of the batch has one."""
    blocks = [logged_features(interaction) for interaction in batch]
    known = [block for block in blocks if block is not None]
    return np.stack(known) if len(known) == len(blocks) else None


def _record(arm: str, version: str, found: Residuals, run_length: float) -> DriftRecord:
    answers = len(found.values)
    checked = time.time()
    if answers < LEAST_REFERENCE:
        return DriftRecord(arm=arm, router=version, checked_at=checked, answers=answers, reference=answers,
                           run_length=run_length)  # fmt: skip
    first = split_reference(found.values)
    reference = reference_of(found.values[:first])
    detector = Detector(reference, run_length)
    alarm = next((i for i, value in enumerate(found.values[first:]) if detector.see(value)), None)
    record = DriftRecord(
        arm=arm, router=version, checked_at=checked, answers=answers, reference=first, run_length=run_length,
        evidence=detector.evidence,
    )  # fmt: skip
    if alarm is None:
        return record
    change = located(np.array(found.values[first:]), alarm, reference)
    return DriftRecord(
        arm=arm, router=version, checked_at=checked, answers=answers, reference=first, run_length=run_length,
        evidence=detector.evidence, alarm_at=found.times[first + alarm], since=found.times[first + change.start],
        effect=change.effect, low=change.low, high=change.high,
    )  # fmt: skip


def lines(records: list[DriftRecord]) -> Iterator[str]:
    """One line for each arm, for people."""
    for record in records:
        told = f"{record.arm}: {record.answers} scored answers, "
        if record.evidence is None:
            yield f"{told}{LEAST_REFERENCE - record.answers} more are needed before it is watched"
        elif record.since is None:
            yield f"{told}no change (evidence {record.evidence:.3g} of {record.run_length:g})"
        else:
            when = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(record.since))
            yield (
                f"{told}CHANGED since about {when} UTC by {record.effect:+.3f} [{record.low:+.3f}, {record.high:+.3f}]"
            )
