"""Outcomes to learn from: what the traffic log observed, as the masked matrices of `routers.protocol.Outcomes`.

The quality of an answer is the mean of everything said about it: scores, and numeric or yes/no feedback. An answer
counts for the arm that really gave it. It is left out, and counted, if that is not the arm that was drawn (after a
fallback the logged propensity is another arm's), or if it is the first answer of a cascade that was let pass: that it
passed depends on the answer, so such answers are better than the arm's others. Answers to the same query text are one
row, whoever asked.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import nan
from typing import Any

import msgspec
import numpy as np

from encoders.features import FEATURE_SET, PLAIN, Features, query_features
from encoders.half_surrogates import repaired
from encoders.protocol import Encoder
from encoders.request_shape import request_shape
from offline.left_out import why_left_out
from routers.protocol import F32, Outcomes, TrainingError
from traffic.log import TrafficLog
from traffic.records import Feedback, Interaction, Score, ScoreSource
from traffic.said import ScoreOutOfRange, said_about

CHAT = "/chat/completions"
ENCODE_BATCH = 512
UNLABELLED = "unlabelled"
"""Task of a query that names none, where others do."""


@dataclass(frozen=True, slots=True)
class LoggedOutcomes:
    """Outcomes from a log, and how many interactions were read, used, and left out for which reason."""

    outcomes: Outcomes
    counts: dict[str, int]


@dataclass(slots=True)
class Cell:
    """Everything observed of one arm's answers to one query."""

    quality: list[float] = field(default_factory=list)
    cost_usd: list[float] = field(default_factory=list)
    latency_s: list[float] = field(default_factory=list)
    propensity: list[float] = field(default_factory=list)


class OutcomeTable:
    """Collects observations in any order, and turns them into matrices. A repeated observation enters as a mean."""

    def __init__(self) -> None:
        self._rows: dict[str, int] = {}
        self._tasks: list[str | None] = []
        self._vectors: list[F32 | None] = []
        self._texts: list[str | None] = []
        self._blocks: list[Features | None] = []
        self._cells: dict[tuple[int, str], Cell] = {}

    def add(
        self,
        query_id: str,
        arm: str,
        quality: float,
        *,
        text: str | None = None,
        vector: F32 | None = None,
        features: Features | None = None,
        cost_usd: float | None = None,
        latency_s: float | None = None,
        propensity: float = 1.0,
        task: str | None = None,
    ) -> None:
        """One scored answer. The first vector, text and feature block given for a query are kept."""
        row = self._rows.setdefault(query_id, len(self._rows))
        if row == len(self._tasks):
            self._tasks.append(task)
            self._vectors.append(vector)
            self._texts.append(text)
            self._blocks.append(features)
        else:
            if self._vectors[row] is None:
                self._vectors[row] = vector
            if self._blocks[row] is None:
                self._blocks[row] = features
        cell = self._cells.setdefault((row, arm), Cell())
        cell.quality.append(quality)
        cell.propensity.append(propensity)
        if cost_usd is not None:
            cell.cost_usd.append(cost_usd)
        if latency_s is not None:
            cell.latency_s.append(latency_s)

    def outcomes(self, encoder_hash: str, encoder: Encoder | None, *, tags: bool = False) -> Outcomes:
        """The matrices. Queries without a vector are encoded from their text. With `tags` a query's task is its tag,
        which is right only where the gateway will be told it too.

        Raises
        ------
        TrainingError: nothing was collected.
        """
        if not self._rows:
            raise TrainingError("no scored answer was found; send feedback on answers, or score them, and try again")
        arms = tuple(sorted({arm for _, arm in self._cells}))
        column = {arm: index for index, arm in enumerate(arms)}
        shape = (len(self._rows), len(arms))
        quality, cost, latency, propensity = (np.full(shape, np.nan, dtype=np.float32) for _ in range(4))
        for (row, arm), cell in self._cells.items():
            at = (row, column[arm])
            quality[at] = _mean(cell.quality)
            cost[at] = _mean(cell.cost_usd)
            latency[at] = _mean(cell.latency_s)
            propensity[at] = _mean(cell.propensity)
        labelled = any(task is not None for task in self._tasks)
        return Outcomes(
            vectors=self._matrix(encoder),
            arms=arms,
            quality=quality,
            cost_usd=cost,
            latency_s=latency,
            propensity=propensity,
            encoder=encoder_hash,
            query_ids=tuple(self._rows),
            tasks=tuple(task or UNLABELLED for task in self._tasks) if labelled else None,
            features=self._features(tags),
            feature_set=FEATURE_SET,
            texts=tuple(self._texts),
        )

    def _features(self, tags: bool) -> F32:
        """The feature blocks as given; else of the text, which counts as empty where it was not kept."""
        tag_of = self._tasks if tags else [None] * len(self._tasks)
        return np.stack(
            [
                query_features(text or "", PLAIN, tag) if block is None else block
                for block, text, tag in zip(self._blocks, self._texts, tag_of, strict=True)
            ]
        )

    def _matrix(self, encoder: Encoder | None) -> F32:
        missing = [row for row, vector in enumerate(self._vectors) if vector is None]
        if missing:
            if encoder is None:
                raise TrainingError(f"{len(missing)} queries have no vector; name the encoder to encode them with")
            fresh = encoded(encoder, [self._texts[row] or "" for row in missing])
            for row, vector in zip(missing, fresh, strict=True):
                self._vectors[row] = vector
        return np.stack([vector for vector in self._vectors if vector is not None])


def _mean(values: list[float]) -> float:
    return sum(values) / len(values) if values else nan


def encoded(encoder: Encoder, texts: Sequence[str]) -> F32:
    """Vectors of many texts, float32 [n, d], made in batches that bound memory."""
    parts = [encoder.encode(texts[start : start + ENCODE_BATCH]) for start in range(0, len(texts), ENCODE_BATCH)]
    return np.concatenate(parts) if parts else np.zeros((0, encoder.dim), dtype=np.float32)


def content_id(content: str | bytes) -> str:
    """The id of a query: a digest of its text, or of its vector where the text was not stored."""
    data = content.encode() if isinstance(content, str) else content
    return hashlib.sha256(data).hexdigest()[:32]


def outcomes_from_log(
    log: TrafficLog,
    encoder: Encoder | None = None,
    since: float = 0.0,
    until: float | None = None,
    *,
    sources: Collection[ScoreSource] | None = None,
    said_until: float | None = None,
    since_by_arm: Mapping[str, float] | None = None,
) -> LoggedOutcomes:
    """Join the interactions of a log with their scores and feedback.

    With an `encoder`, its vectors are used: those in the log that it made, and fresh ones where another encoder (or
    none) was used and the text is there; the rest is left out and counted. Without one, all vectors must be of one
    encoder. `counts` has the keys `read`, `used`, `unscored`, `unanswered`, `fell_back`, `cascaded`, `no_text` (neither
    a fitting vector nor a text). `sources` and `said_until` limit the scores: where they come from, and when they were
    given. What an arm of `since_by_arm` answered before that time is left out as `drifted`: it has changed since then.

    Raises
    ------
    TrainingError: nothing is scored, a score is out of range, or encoders are mixed; says what to do.
    """
    values = said_values(log.read_scores(since), log.read_feedback(since), sources, said_until)
    table = OutcomeTable()
    counts = Counter(read=0, used=0, unscored=0, unanswered=0, fell_back=0, cascaded=0, no_text=0)
    hashes: Counter[str] = Counter()
    for interaction in log.read_interactions(since, until):
        counts["read"] += 1
        said = values.get(interaction.id)
        reason = _left_out(interaction, said, encoder)
        if reason is None and interaction.created_at < (since_by_arm or {}).get(interaction.arm or "", 0.0):
            reason = "drifted"
        if reason is not None or said is None or interaction.arm is None:
            counts[reason or "unscored"] += 1
            continue
        fitting = interaction.vector is not None and (encoder is None or interaction.encoder == encoder.hash)
        if fitting:
            hashes[interaction.encoder or "unknown"] += 1
        raw = interaction.vector if fitting else None
        content = interaction.query_text if interaction.query_text is not None else raw
        counts["used"] += 1
        table.add(
            content_id(content or ""),
            interaction.arm,
            _mean(said),
            text=interaction.query_text,
            vector=None if raw is None else np.frombuffer(raw, dtype="<f4").astype(np.float32),
            features=logged_features(interaction),
            cost_usd=interaction.cost_usd,
            latency_s=interaction.latency_s,
            propensity=1.0 if interaction.decision is None else interaction.decision.propensity,
            task=interaction.workload,
        )
    if encoder is None and len(hashes) > 1:
        seen = ", ".join(f"{name} ({count})" for name, count in hashes.most_common())
        raise TrainingError(f"the log holds vectors of several encoders: {seen}; name the one to learn for")
    encoder_hash = encoder.hash if encoder is not None else next(iter(hashes), "")
    return LoggedOutcomes(table.outcomes(encoder_hash, encoder, tags=True), dict(counts))


def logged_features(interaction: Interaction) -> Features | None:
    """The feature block of a request as the gateway saw it, made anew of what was logged.

    Older records hold the block itself, which is taken if it is of this program's definition. None if nothing was
    logged of which it could be made.
    """
    if interaction.features is not None and interaction.feature_set == FEATURE_SET:
        return np.frombuffer(interaction.features, dtype="<f4").astype(np.float32)
    if interaction.query_text is None:
        return None
    body = _request(interaction.request) if interaction.endpoint.endswith(CHAT) else None
    return query_features(interaction.query_text, PLAIN if body is None else request_shape(body), interaction.workload)


def _request(raw: bytes | None) -> dict[str, Any] | None:
    try:
        body = None if raw is None else msgspec.json.decode(repaired(raw))
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return body if isinstance(body, dict) else None


def _left_out(interaction: Interaction, said: list[float] | None, encoder: Encoder | None) -> str | None:
    """Why nothing can be learned from this interaction, as a key of the counts; None if something can."""
    reason = why_left_out(interaction, said, drawn=False)
    if reason is not None:
        return reason
    if encoder is None:
        return "no_text" if interaction.vector is None else None
    if interaction.encoder == encoder.hash and interaction.vector is not None:
        return None
    return "no_text" if interaction.query_text is None else None


def said_values(
    scores: Iterable[Score],
    feedback: Iterable[Feedback],
    sources: Collection[ScoreSource] | None = None,
    until: float | None = None,
) -> dict[str, list[float]]:
    """Everything said about each interaction, as numbers in [0, 1]; see `traffic.said.said_about`."""
    try:
        return said_about(scores, feedback, sources, until)
    except ScoreOutOfRange as error:
        raise TrainingError(str(error)) from error
