"""The records of the traffic log. One `Interaction` per request, whatever became of it.

A failure is never encoded as a value: an unknown token count, cost or score is None, never 0.
Times are Unix seconds (`*_at`) or durations in seconds (`*_s`); money is USD; qualities and scores lie in [0, 1].
"""

from __future__ import annotations

from typing import Literal

import msgspec

SCHEMA_VERSION = 1
"""Version of the record layout, written with every record."""

Outcome = Literal["ok", "failed", "aborted", "rejected"]
"""`ok`: a complete answer. `failed`: no arm answered, or the answer broke off. `aborted`: the client left.
`rejected`: refused before any arm was called (bad input, no eligible arm, limits)."""

AttemptOutcome = Literal["ok", "connect_error", "timeout", "http_error", "bad_answer", "broken_stream", "aborted"]

Affinity = Literal["init", "retain", "switch"]
"""A conversation's first routed turn; its arm was kept; another arm took over."""

ScoreSource = Literal["exact_match", "judge", "feedback", "verifier"]


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """Token counts as the upstream reported them; None where it reported nothing."""

    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    cached_tokens: int | None = None
    reasoning_tokens: int | None = None


class Candidate(msgspec.Struct, frozen=True, array_like=True):
    """One arm as the policy saw it. `eliminated` names the reason if a hard filter removed it.

    Stored by position, not by name: a record holds one of these per arm, and names were most of its bytes.
    """

    arm: str
    quality: float | None = None
    quality_std: float | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    utility: float | None = None
    propensity: float = 0.0
    eliminated: str | None = None


class Cascade(msgspec.Struct, frozen=True, kw_only=True):
    """A cheap arm answered first. `value` is what its answer's signal was, None if it gave none or failed.

    `escalated`: the answer was not good enough and `then` was asked.
    """

    signal: Literal["logprob", "verifier"]
    first: str
    then: str
    threshold: float | None = None
    value: float | None = None
    escalated: bool = False


class Shadow(msgspec.Struct, frozen=True, kw_only=True):
    """What a router in shadow would have done with the same request: the arm that it finds best.

    `propensity` is the probability with which it would have drawn the arm that was drawn. Both are None if it has
    failed, and `error` says how.
    """

    router: str
    arm: str | None = None
    propensity: float | None = None
    error: str | None = None


class Decision(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Why an arm was chosen. `propensity` is the exact probability with which `arm` was drawn, in (0, 1].

    `router` is the version that decided: the champion's, or the canary's of the conversations dealt to it; while there
    is a canary, `conversation` is a digest of what the request was dealt by. `shadow` is the version in shadow, if any.
    `lambda_per_usd` is the price of money, in quality per USD, that was weighed beside `preference` (the whole of it,
    and `preference` has no part, if `by_lambda`). `affinity` says what became of the conversation's `previous_arm`.
    `win_probability` and `threshold` are those of a choice between a strong and a weak arm. `withheld_from` is set on a
    control request: the policy drew that arm, and its model was asked without templates, as `arm`, to see what they do.
    All propensities are those of what is really asked, the control share included.
    """

    id: str
    route: str
    router: str
    encoder: str
    preference: float
    exploration: float
    arm: str
    propensity: float
    explored: bool
    candidates: tuple[Candidate, ...]
    shadow: Shadow | None = None
    conversation: str | None = None
    lambda_per_usd: float | None = None
    by_lambda: bool = False
    affinity: Affinity | None = None
    previous_arm: str | None = None
    win_probability: float | None = None
    threshold: float | None = None
    cascade: Cascade | None = None
    withheld_from: str | None = None


class Attempt(msgspec.Struct, frozen=True, kw_only=True):
    """One call of one arm's endpoint. Retries, fallbacks and the stages of a cascade are attempts of their own.

    `usage` and `cost_usd` are those of this call alone, None where it was not answered or nothing was reported.
    """

    ordinal: int
    arm: str
    endpoint: str
    outcome: AttemptOutcome
    started_at: float
    latency_s: float
    ttft_s: float | None = None
    http_status: int | None = None
    error: str | None = None
    usage: Usage | None = None
    cost_usd: float | None = None


class Interaction(msgspec.Struct, frozen=True, kw_only=True):
    """One request with its decision, answer, usage, cost and timings.

    `arm` is the arm whose answer the client got (the last attempted one if none answered), which after a fallback
    differs from `decision.arm`. `request` and `response` are the raw bytes as they crossed the wire (a streamed
    response is its SSE bytes), None with `store: false`; `query_text` is the text that was encoded, also None then.
    `vector` is float32 little-endian, unit norm, of the encoder whose hash is `encoder`; `features` is the float32
    little-endian block whose definition is `feature_set`, in older records only: of `query_text`, `request` and
    `workload` it can be made anew (`encoders.features`). Of a cascade `usage` and `cost_usd` are the sums over its
    stages, None if one of them is not known. `template_ids` are the templates in the prompt; `retrieved` those that are
    or would be in it if a `thought` arm is asked, with their similarities; `withheld` says that a `thought` arm was
    drawn and asked without them, as a control. `answer_id` is the id inside
    the upstream's answer (`chatcmpl-...`) and `client_request_id` the `x-request-id` that the client sent: feedback may
    name either. `cached_from` is the id of the earlier interaction whose answer the client got from the cache: no arm
    was called, `arm` and `usage` are those of that answer, and `cost_usd` is 0.
    """

    id: str
    created_at: float
    endpoint: str
    outcome: Outcome
    http_status: int
    answer_id: str | None = None
    client_request_id: str | None = None
    key_id: str | None = None
    user: str | None = None
    session: str | None = None
    workload: str | None = None
    requested_model: str | None = None
    route: str | None = None
    arm: str | None = None
    model: str | None = None
    stream: bool = False
    stored: bool = True
    error_code: str | None = None
    decision: Decision | None = None
    attempts: tuple[Attempt, ...] = ()
    usage: Usage | None = None
    cost_usd: float | None = None
    overhead_s: float | None = None
    ttft_s: float | None = None
    latency_s: float | None = None
    template_ids: tuple[str, ...] = ()
    retrieved: tuple[tuple[str, float], ...] = ()
    withheld: bool = False
    query_text: str | None = None
    encoder: str | None = None
    vector: bytes | None = None
    feature_set: str | None = None
    features: bytes | None = None
    request: bytes | None = None
    response: bytes | None = None
    cached_from: str | None = None
    schema: int = SCHEMA_VERSION


class Feedback(msgspec.Struct, frozen=True, kw_only=True):
    """One statement about a logged interaction, as it was given. `value` is a number in [0, 1], a bool or a text."""

    id: str
    interaction_id: str
    created_at: float
    metric: str
    value: float | bool | str | None = None
    verdict: str | None = None
    demonstration: bytes | None = None
    episode_id: str | None = None
    tags: dict[str, str] = {}
    idempotency_key: str | None = None
    key_id: str | None = None


class Score(msgspec.Struct, frozen=True, kw_only=True):
    """A number in [0, 1] on an interaction's answer, with its source. Derived from feedback, a checker or a judge."""

    interaction_id: str
    source: ScoreSource
    value: float
    created_at: float
    scorer: str
