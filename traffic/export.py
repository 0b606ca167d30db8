"""The log for other tools: JSON lines in the shape of the data flywheel, and scored answers as a training file.

The flywheel's five keys (`timestamp, workload_id, client_id, request, response`, with the exact OpenAI objects) come
first, so that its tools read the lines; ours follow. Nothing sent with `store: false` is exported.
"""

from __future__ import annotations

import gzip
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from traffic.log import TrafficLog
from traffic.parquet_tables import Columns, record_file
from traffic.records import Decision, Interaction
from traffic.snapshot import new_file
from traffic.sse import answer_object, answer_text

TRAINING: Columns = {
    "dataset": "string", "task": "string", "query_id": "string", "query": "string", "model": "string",
    "score": "double", "score_kind": "string", "response": "string", "response_chars": "int64",
    "prompt_tokens": "int64", "completion_tokens": "int64", "cost_usd": "double", "latency_s": "double",
    "reference": "string", "split": "string", "propensity": "double", "created_at": "double",
}  # fmt: skip
"""Columns of a training file; the last two are ours, the others are those of any file that `tokamak train` reads."""
DATASET = "traffic"
UNLABELLED = "unlabelled"
MAX_RESPONSE_CHARS = 4_000
"""Answers are cut to this length in a training file; `response_chars` is the length before."""

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Export(msgspec.Struct, frozen=True, kw_only=True):
    """How many interactions were written, and how many were left out."""

    written: int
    left_out: int


def export_jsonl(log: TrafficLog, out: Path, since: float = 0.0, until: float | None = None) -> Export:
    """Write one line per stored interaction with a readable request; `response` is null where there was no answer.

    A name that ends in `.gz` makes a gzipped file.
    """
    written = left_out = 0
    with new_file(out) as partial, gzip.open(partial, "wb") if out.suffix == ".gz" else partial.open("wb") as lines:
        for record in log.read_interactions(since, until):
            line = flywheel_line(record)
            if line is None:
                left_out += 1
                continue
            lines.write(_encode(line) + b"\n")
            written += 1
    return Export(written=written, left_out=left_out)


def flywheel_line(record: Interaction) -> dict[str, Any] | None:
    """The object of one line; None if the interaction was not to be stored or its request is no JSON object."""
    request = _object(record.request) if record.stored else None
    if request is None:
        return None
    return {
        "timestamp": int(record.created_at),
        "workload_id": record.workload or record.route or record.requested_model,
        "client_id": record.key_id,
        "request": request,
        "response": None if record.response is None else answer_object(record.response, record.stream),
        "id": record.id,
        "created_at": record.created_at,
        "endpoint": record.endpoint,
        "outcome": record.outcome,
        "http_status": record.http_status,
        "error_code": record.error_code,
        "arm": record.arm,
        "model": record.model,
        "decision": None if record.decision is None else _decision(record.decision),
        "attempts": record.attempts,
        "usage": record.usage,
        "cost_usd": record.cost_usd,
        "timings": {"overhead_s": record.overhead_s, "ttft_s": record.ttft_s, "latency_s": record.latency_s},
        "template_ids": record.template_ids,
        "retrieved": record.retrieved,
        "withheld": record.withheld,
        "cached_from": record.cached_from,
        "user": record.user,
        "session": record.session,
        "schema": record.schema,
    }


def _decision(decision: Decision) -> dict[str, Any]:
    """The decision with its candidates by name, as people and programs read them."""
    candidates = [msgspec.structs.asdict(candidate) for candidate in decision.candidates]
    return {**msgspec.structs.asdict(decision), "candidates": candidates}


def write_training_rows(log: TrafficLog, out: Path, since: float = 0.0, until: float | None = None) -> Export:
    """Write every complete, scored answer as a row of a Parquet file that `tokamak train` reads.

    The score is the mean of everything said of the answer: its scores, and numeric or yes/no feedback. `query_id` is
    the interaction's id, `model` its arm, `task` its workload. All scores of the log are held in memory, no text is.

    Raises
    ------
    LogError: pyarrow is missing or the log cannot be read.
    """
    said = _said(log)
    left_out = 0
    with new_file(out) as partial:
        file = record_file(partial, TRAINING)
        for record in log.read_interactions(since, until):
            row = training_row(record, said.get(record.id, []))
            if row is None:
                left_out += 1
            else:
                file.add(row, len(row["query"]) + len(row["response"] or ""))
        file.close()
    return Export(written=file.rows, left_out=left_out)


def training_row(record: Interaction, said: list[tuple[str, float]]) -> dict[str, Any] | None:
    """A row of `TRAINING`; None for what is not stored, not complete, of no arm, or not scored.

    An answer of another arm than the one that was drawn (a fallback) is left out too, and so is what a cascade let
    pass: no propensity is known for it. What came from the cache is one earlier answer told again.
    """
    if record.cached_from is not None:
        return None
    if not record.stored or record.outcome != "ok" or not record.query_text or record.arm is None or not said:
        return None
    if record.decision is not None and (record.decision.arm != record.arm or record.decision.cascade is not None):
        return None
    text = None if record.response is None else answer_text(record.response, record.stream)
    usage, decision = record.usage, record.decision
    return {
        "dataset": DATASET,
        "task": record.workload or UNLABELLED,
        "query_id": record.id,
        "query": record.query_text,
        "model": record.arm,
        "score": fmean(value for _, value in said),
        "score_kind": "+".join(sorted({kind for kind, _ in said})),
        "response": None if text is None else text[:MAX_RESPONSE_CHARS],
        "response_chars": None if text is None else len(text),
        "prompt_tokens": None if usage is None else usage.prompt_tokens,
        "completion_tokens": None if usage is None else usage.completion_tokens,
        "cost_usd": record.cost_usd,
        "latency_s": record.latency_s,
        # A model that the client named was asked for sure.
        "propensity": 1.0 if decision is None else decision.propensity,
        "created_at": record.created_at,
    }


def _said(log: TrafficLog) -> dict[str, list[tuple[str, float]]]:
    """What was said of each interaction, by its id: the kind and the value of each score and numeric feedback.

    Of all times, because an answer is often scored long after it was given. Feedback that was turned into a score
    counts once.
    """
    said: dict[str, list[tuple[str, float]]] = {}
    for score in log.read_scores():
        said.setdefault(score.interaction_id, []).append((score.source, score.value))
    derived = {name for name, values in said.items() if any(kind == "feedback" for kind, _ in values)}
    for feedback in log.read_feedback():
        value = feedback.value
        if feedback.interaction_id not in derived and isinstance(value, bool | float | int) and 0 <= value <= 1:
            said.setdefault(feedback.interaction_id, []).append(("feedback", float(value)))
    return said


def _object(raw: bytes | None) -> dict[str, Any] | None:
    if raw is None:
        return None
    try:
        whole = _decode(raw)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
    return whole if isinstance(whole, dict) else None
