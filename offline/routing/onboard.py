"""Takes a new model into the router that serves: chooses probe queries, asks, scores, and publishes a version.

plan     which at most 64 queries, kept in a file so that a stopped run goes on with the same ones
ask      what was not answered yet (`offline.ask_model`)
score    against references (`offline.check_answer`), or from a file that the operator made
publish  the deployed router with one more arm (`routers.onboarding.onboarded`)
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from offline.ask_model import Asked, Asking, Report, ask_all, estimate_usd
from offline.check_answer import can_check, check
from offline.questions import Question
from registry.arms import Arm
from registry.artifacts import Artifacts, Manifest
from routers.catalogue import KIND
from routers.onboarding.onboarded import MIN_SCORED, OnboardedRouter, ProbeResults, add_arm
from routers.onboarding.probes import choose_probes
from routers.protocol import Outcomes, Router, TrainingError

FOLDER = "onboarding"
"""Folder below the data folder that holds plans and answers."""


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """The probes of one arm, as they are kept in `<arm>.plan.json`."""

    arm: str
    count: int
    seed: int
    encoder: str
    query_ids: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Known:
    """What is known before: the logged outcomes, the router that the arm joins, and its version."""

    outcomes: Outcomes
    router: Router
    version: str


@dataclass(frozen=True, slots=True)
class Planned:
    """The plan, its questions in order, and their rows in the outcomes."""

    plan: Plan
    questions: tuple[Question, ...]
    rows: NDArray[np.intp]
    estimate_usd: float | None


def planned(
    known: Known,
    arm: Arm,
    questions: Mapping[str, Question],
    folder: Path,
    *,
    count: int,
    seed: int = 0,
    scored_outside: bool = False,
    again: bool = False,
) -> Planned:
    """The probes of an earlier run of the same size and seed, or freshly chosen ones, which are kept.

    Only queries whose answers can be checked are asked, unless they are scored outside. `again` chooses anew.

    Raises
    ------
    TrainingError: the router knows the arm, too few queries can be asked, or another encoder's vectors.
    """
    if arm.id in known.router.arms:
        raise TrainingError(f"{known.version} knows {arm.id} already; `tokamak train` learns more about it")
    if arm.way == "thought":
        raise TrainingError(f"{arm.id} needs templates, which a probe has not; onboard {arm.model.name} itself")
    ids = known.outcomes.query_ids
    usable = {q.query_id for q in questions.values() if scored_outside or _checkable(q)}
    among = np.array([query_id in usable for query_id in ids])
    if among.sum() < MIN_SCORED:
        raise TrainingError(
            f"{among.sum()} of {len(ids)} scored queries can be asked and checked, at least {MIN_SCORED} are needed: "
            "add references (a column of --data, or demonstrations), or score the answers yourself with --scores"
        )
    path = folder / f"{_file_name(arm.id)}.plan.json"
    kept = None if again else _kept(path, arm, count, seed, known.outcomes.encoder)
    if kept is None or not set(kept.query_ids) <= usable & set(ids):
        rows = choose_probes(known.outcomes, known.router, count, seed, among)
        kept = Plan(
            arm=arm.id,
            count=count,
            seed=seed,
            encoder=known.outcomes.encoder,
            query_ids=tuple(ids[row] for row in rows.tolist()),
        )
    place = {query_id: row for row, query_id in enumerate(ids)}
    chosen = tuple(questions[query_id] for query_id in kept.query_ids)
    rows = np.array([place[query_id] for query_id in kept.query_ids], dtype=np.intp)
    return Planned(kept, chosen, rows, estimate_usd(chosen, arm))


def keep(plan: Planned, folder: Path) -> None:
    """Write the plan to its file, in one step."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{_file_name(plan.plan.arm)}.plan.json"
    partial = path.with_suffix(f".{os.getpid()}")
    partial.write_bytes(msgspec.json.encode(plan.plan))
    partial.replace(path)


async def asked(plan: Planned, asking: Asking, folder: Path) -> Report:
    """Ask what was not answered by an earlier run; the answers are kept in `answers_file`."""
    keep(plan, folder)
    return await ask_all(plan.questions, asking, answers_file(folder, asking.arm.id))


def answers_file(folder: Path, arm: str) -> Path:
    """Where the answers of an arm are kept: JSON lines with `query_id` and `text`."""
    return folder / f"{_file_name(arm)}.jsonl"


def results_of(plan: Planned, answers: Mapping[str, Asked], scores: Mapping[str, float] | None = None) -> ProbeResults:
    """Scores, costs and latencies of the probes; NaN where there is no answer, or none that was scored."""
    quality = [_score(question, answers.get(question.query_id), scores) for question in plan.questions]
    found = [answers.get(question.query_id) for question in plan.questions]
    cost = [None if answer is None else answer.cost_usd for answer in found]
    latency = [None if answer is None else answer.latency_s for answer in found]
    return ProbeResults(*(np.array(column, dtype=np.float64) for column in (quality, cost, latency)))


def publish(
    known: Known,
    plan: Planned,
    results: ProbeResults,
    report: Report,
    artifacts: Artifacts,
    *,
    deploy: bool = False,
) -> Manifest:
    """Publish the router with the new arm, and deploy it if asked to; its evidence says what it rests on.

    Raises
    ------
    TrainingError: too few probes were scored.
    """
    arm = plan.plan.arm
    router = add_arm(known.router, arm, known.outcomes, plan.rows, results)
    evidence = {"onboarding": _evidence(known, plan, results, report, router)}
    manifest = artifacts.publish(KIND, router.name, router.arrays(), router.meta(), evidence)
    if deploy:
        artifacts.deploy(KIND, manifest.version)
    return manifest


def read_scores(path: Path) -> dict[str, float]:
    """Scores by query id from JSON lines `{"query_id": ..., "score": ...}`; a score of null is none.

    Raises
    ------
    TrainingError: a line is not such an object, or a score is out of range.
    """
    scores: dict[str, float] = {}
    for number, line in enumerate(path.read_bytes().splitlines(), 1):
        if not line.strip():
            continue
        where = f"{path.name}, line {number}"
        try:
            row = msgspec.json.decode(line, type=_ScoreLine)
        except msgspec.DecodeError as error:
            raise TrainingError(f"{where}: expected {{query_id, score}} ({error})") from error
        if row.score is None:
            continue
        if not 0.0 <= row.score <= 1.0:
            raise TrainingError(f"{where}: score must lie in [0, 1], got {row.score}")
        if scores.setdefault(row.query_id, row.score) != row.score:
            raise TrainingError(f"{where}: {row.query_id} has another score in an earlier line; keep one of them")
    return scores


class _ScoreLine(msgspec.Struct, frozen=True):
    query_id: str
    score: float | None


def _checkable(question: Question) -> bool:
    return question.reference is not None and can_check(question.kind)


def _score(question: Question, answer: Asked | None, scores: Mapping[str, float] | None) -> float | None:
    if answer is None:
        return None
    if scores is not None:
        return scores.get(question.query_id)
    return None if question.reference is None else check(answer.text, question.reference, question.kind)


def _evidence(
    known: Known, plan: Planned, results: ProbeResults, report: Report, router: OnboardedRouter
) -> dict[str, Any]:
    outcomes = known.outcomes
    predicted = router.predict_batch(outcomes.vectors, outcomes.features, outcomes.texts)
    place = router.arms.index(plan.plan.arm)
    scored = ~np.isnan(results.quality)
    return {
        "arm": plan.plan.arm,
        "base": known.version,
        "probes": len(plan.rows),
        "scored": int(scored.sum()),
        "failed": dict(report.failed),
        "spent_usd": report.spent_usd,
        "mean_score": float(results.quality[scored].mean()),
        "expected_quality": float(predicted.quality[:, place].mean()),
        "quality_std": float(predicted.quality_std[:, place].mean()),
        "share_of_queries_it_is_best_at": float((predicted.quality.argmax(axis=1) == place).mean()),
        "known_arms": {arm: float(predicted.quality[:, i].mean()) for i, arm in enumerate(router.arms) if i != place},
    }


def _kept(path: Path, arm: Arm, count: int, seed: int, encoder: str) -> Plan | None:
    try:
        plan = msgspec.json.decode(path.read_bytes(), type=Plan)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
    same = (plan.arm, plan.count, plan.seed, plan.encoder) == (arm.id, count, seed, encoder)
    return plan if same else None


def _file_name(arm: str) -> str:
    """A plain file name; two arms never share one, since what is replaced is written as its code point."""
    return re.sub(r"[^A-Za-z0-9.-]", lambda found: f"_{ord(found[0]):x}_", arm)
