"""Records as the gateway makes them, for the tests of the log."""

from __future__ import annotations

from typing import Any

from traffic.records import Attempt, Candidate, Cascade, Decision, Feedback, Interaction, Score, Usage

VECTOR = bytes(range(256)) * 4


CASCADE = Cascade(signal="logprob", first="small", then="large", threshold=-0.5, value=-0.2)


def decision(arm: str = "small", cascade: Cascade | None = None) -> Decision:
    return Decision(
        id="d-1",
        route="auto",
        router="cluster@3",
        encoder="static-1",
        preference=0.5,
        exploration=0.1,
        arm=arm,
        propensity=0.95,
        explored=False,
        candidates=(
            Candidate(
                arm=arm, quality=0.7, quality_std=0.1, cost_usd=1e-5, latency_s=0.2, utility=0.6, propensity=0.95
            ),
            Candidate(arm="large", quality=0.8, propensity=0.05),
            Candidate(arm="blind", eliminated="vision"),
        ),
        lambda_per_usd=2.5,
        affinity="retain",
        previous_arm=arm,
        cascade=cascade,
    )


def interaction(number: int, **changes: Any) -> Interaction:
    """A complete interaction; `number` makes its id and its time."""
    fields: dict[str, Any] = {
        "id": f"chatcmpl-{number:06d}",
        "created_at": 1_000.0 + number,
        "endpoint": "/v1/chat/completions",
        "outcome": "ok",
        "http_status": 200,
        "answer_id": f"cmpl-upstream-{number}",
        "client_request_id": f"client-{number}",
        "key_id": "team-a",
        "user": "u-1",
        "requested_model": "auto",
        "route": "auto",
        "arm": "small",
        "model": "small",
        "decision": decision(),
        "attempts": (
            Attempt(ordinal=0, arm="large", endpoint="up/large", outcome="timeout", started_at=1.5, latency_s=0.5),
            Attempt(
                ordinal=1,
                arm="small",
                endpoint="up/small",
                outcome="ok",
                started_at=2.0,
                latency_s=0.2,
                http_status=200,
                usage=Usage(prompt_tokens=11, completion_tokens=7),
                cost_usd=1.5e-5,
            ),
        ),
        "usage": Usage(prompt_tokens=11, completion_tokens=7),
        "cost_usd": 1.5e-5,
        "latency_s": 0.7,
        "template_ids": ("t-1", "t-2"),
        "retrieved": (("t-1", 0.91), ("t-2", 0.84)),
        "withheld": True,
        "query_text": f"question {number}",
        "encoder": "static-1",
        "vector": VECTOR,
        "feature_set": "features-1",
        "features": VECTOR[:96],
        "request": b'{"model":"auto","messages":[{"role":"user","content":"question"}]}',
        "response": b'{"choices":[{"index":0,"message":{"role":"assistant","content":"answer"}}]}',
    }
    return Interaction(**(fields | changes))


def bare(number: int, **changes: Any) -> Interaction:
    """The least an interaction can be: a rejected request."""
    fields: dict[str, Any] = {
        "id": f"chatcmpl-{number:06d}",
        "created_at": 1_000.0 + number,
        "endpoint": "/v1/chat/completions",
        "outcome": "rejected",
        "http_status": 400,
    }
    return Interaction(**(fields | changes))


def feedback(number: int, **changes: Any) -> Feedback:
    fields: dict[str, Any] = {
        "id": f"fb-{number:06d}",
        "interaction_id": f"chatcmpl-{number:06d}",
        "created_at": 1_000.0 + number,
        "metric": "helpful",
        "value": 1.0,
    }
    return Feedback(**(fields | changes))


def score(number: int, **changes: Any) -> Score:
    fields: dict[str, Any] = {
        "interaction_id": f"chatcmpl-{number:06d}",
        "source": "exact_match",
        "value": 1.0,
        "created_at": 1_000.0 + number,
        "scorer": "checker@1",
    }
    return Score(**(fields | changes))
