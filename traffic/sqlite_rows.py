"""Records as rows of the embedded log, and back. Column lists stand beside the functions that fill them.

Nested parts are MessagePack. A feedback value is MessagePack too, because SQLite does not tell 1.0 from true.
"""

from __future__ import annotations

from typing import Any, cast

import msgspec

from traffic.records import Attempt, Decision, Feedback, Interaction, Outcome, Score, ScoreSource, Usage

Row = tuple[Any, ...]

INTERACTION_COLUMNS = (
    "seq", "id", "created_at", "endpoint", "outcome", "http_status", "answer_id", "client_request_id", "key_id", "user",
    "session", "workload", "requested_model", "route", "arm", "model", "stream", "stored", "error_code", "router",
    "propensity", "explored", "prompt_tokens", "completion_tokens", "cached_tokens", "reasoning_tokens", "cost_usd",
    "overhead_s", "ttft_s", "latency_s", "attempts_count", "encoder", "schema", "template_ids", "attempts", "decision",
    "vector", "feature_set", "features", "retrieved", "withheld", "cached_from",
)  # fmt: skip
FEEDBACK_COLUMNS = (
    "id", "interaction_id", "created_at", "metric", "value", "verdict", "demonstration", "episode_id", "tags",
    "idempotency_key", "key_id",
)  # fmt: skip
SCORE_COLUMNS = ("interaction_id", "source", "value", "created_at", "scorer")

NULL = bytearray()
"""Stands for None in a row of `interactions`; the statement turns it into NULL. The driver binds None, bool and bytes
through a slow adapter look-up, a bytearray directly: a third of the cost of an insert."""
_NEVER_NULL = frozenset({"seq", "id", "created_at", "endpoint", "outcome", "http_status", "stream", "stored", "schema"})

_pack = msgspec.msgpack.Encoder().encode
_unpack_decision = msgspec.msgpack.Decoder(Decision).decode
_unpack_attempts = msgspec.msgpack.Decoder(tuple[Attempt, ...]).decode
_unpack_strings = msgspec.msgpack.Decoder(tuple[str, ...]).decode
_unpack_retrieved = msgspec.msgpack.Decoder(tuple[tuple[str, float], ...]).decode
_unpack_tags = msgspec.msgpack.Decoder(dict[str, str]).decode
_unpack_value = msgspec.msgpack.Decoder(float | bool | str | None).decode
_NO_USAGE = Usage()


def interaction_row(seq: int, record: Interaction) -> Row:
    """One row of `interactions`, in the order of `INTERACTION_COLUMNS`, with `NULL` for None."""
    decision, usage = record.decision, record.usage
    if decision is None:
        router, propensity, explored, packed = None, None, None, None
    else:
        router, propensity = decision.router, decision.propensity
        explored, packed = int(decision.explored), bytearray(_pack(decision))
    counts = usage or _NO_USAGE
    values = (
        seq, record.id, record.created_at, record.endpoint, record.outcome, record.http_status, record.answer_id,
        record.client_request_id, record.key_id, record.user, record.session, record.workload,
        record.requested_model, record.route, record.arm, record.model,
        int(record.stream), int(record.stored), record.error_code, router, propensity, explored,
        counts.prompt_tokens, counts.completion_tokens, counts.cached_tokens, counts.reasoning_tokens,
        record.cost_usd, record.overhead_s, record.ttft_s, record.latency_s, len(record.attempts), record.encoder,
        record.schema, _pack(record.template_ids) if record.template_ids else None,
        bytearray(_pack(record.attempts)) if record.attempts else None, packed,
        None if record.vector is None else bytearray(record.vector), record.feature_set,
        None if record.features is None else bytearray(record.features),
        bytearray(_pack(record.retrieved)) if record.retrieved else None, 1 if record.withheld else None,
        record.cached_from,
    )  # fmt: skip
    return tuple([NULL if value is None else value for value in values])


def content_row(seq: int, record: Interaction) -> Row | None:
    """One row of `contents`; None where there is no content or it must not be kept."""
    if not record.stored or (record.query_text is None and record.request is None and record.response is None):
        return None
    return (seq, record.query_text, record.request, record.response)


def interaction_from_row(row: Row, content: Row | None) -> Interaction:
    """The record of a row of `interactions` and of its row of `contents` (without `seq`), if it has one."""
    (
        _, id_, created_at, endpoint, outcome, http_status, answer_id, client_request_id, key_id, user, session,
        workload, requested_model, route,
        arm, model, stream, stored, error_code, _, _, _, prompt, completion, cached, reasoning, cost_usd, overhead_s,
        ttft_s, latency_s, _, encoder, schema, template_ids, attempts, decision, vector,
        feature_set, features, retrieved, withheld, cached_from,
    ) = row  # fmt: skip
    usage = Usage(prompt_tokens=prompt, completion_tokens=completion, cached_tokens=cached, reasoning_tokens=reasoning)
    query_text, request, response = content or (None, None, None)
    return Interaction(
        id=id_, created_at=created_at, endpoint=endpoint, outcome=cast(Outcome, outcome), http_status=http_status,
        answer_id=answer_id, client_request_id=client_request_id, key_id=key_id, user=user, session=session,
        workload=workload, requested_model=requested_model, route=route, arm=arm, model=model, stream=bool(stream),
        stored=bool(stored), error_code=error_code, decision=None if decision is None else _unpack_decision(decision),
        attempts=() if attempts is None else _unpack_attempts(attempts),
        usage=None if usage == _NO_USAGE else usage, cost_usd=cost_usd, overhead_s=overhead_s, ttft_s=ttft_s,
        latency_s=latency_s, template_ids=() if template_ids is None else _unpack_strings(template_ids),
        retrieved=() if retrieved is None else _unpack_retrieved(retrieved), withheld=bool(withheld),
        query_text=query_text, encoder=encoder, vector=vector, feature_set=feature_set, features=features,
        request=request, response=response, cached_from=cached_from, schema=schema,
    )  # fmt: skip


def feedback_row(record: Feedback) -> Row:
    return (
        record.id, record.interaction_id, record.created_at, record.metric, _pack(record.value), record.verdict,
        record.demonstration, record.episode_id, _pack(record.tags), record.idempotency_key, record.key_id,
    )  # fmt: skip


def feedback_from_row(row: Row) -> Feedback:
    (
        id_, interaction_id, created_at, metric, value, verdict, demonstration, episode_id, tags, idempotency_key,
        key_id,
    ) = row  # fmt: skip
    return Feedback(
        id=id_, interaction_id=interaction_id, created_at=created_at, metric=metric, value=_unpack_value(value),
        verdict=verdict, demonstration=demonstration, episode_id=episode_id, tags=_unpack_tags(tags),
        idempotency_key=idempotency_key, key_id=key_id,
    )  # fmt: skip


def score_row(record: Score) -> Row:
    return (record.interaction_id, record.source, record.value, record.created_at, record.scorer)


def score_from_row(row: Row) -> Score:
    interaction_id, source, value, created_at, scorer = row
    return Score(
        interaction_id=interaction_id, source=cast(ScoreSource, source), value=value, created_at=created_at,
        scorer=scorer,
    )  # fmt: skip


INSERT_INTERACTION = (
    f"INSERT INTO interactions ({', '.join(INTERACTION_COLUMNS)}) VALUES ("
    + ", ".join("?" if name in _NEVER_NULL else "nullif(?, x'')" for name in INTERACTION_COLUMNS)
    + ") ON CONFLICT (id) DO NOTHING"
)
INSERT_CONTENT = "INSERT OR REPLACE INTO contents (seq, query_text, request, response) VALUES (?, ?, ?, ?)"
INSERT_FEEDBACK = (
    f"INSERT INTO feedback ({', '.join(FEEDBACK_COLUMNS)}) VALUES ({', '.join('?' * len(FEEDBACK_COLUMNS))}) "
    "ON CONFLICT (id) DO NOTHING"
)
INSERT_SCORE = f"INSERT INTO scores ({', '.join(SCORE_COLUMNS)}) VALUES (?, ?, ?, ?, ?)"
