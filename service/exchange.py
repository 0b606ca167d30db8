"""One request on its way: what is known of it so far, and the log record that it becomes, whatever happens to it."""

from __future__ import annotations

import os
import re
import time
from collections.abc import Callable, Hashable
from typing import Any

from msgspec.structs import replace

from registry.arms import Arm
from service.backends.chain import Trail
from service.budgets import Bill
from service.cache.use import CacheUse
from service.errors import ApiError
from service.limits import Key
from service.openai_api.requests import ModelRequest
from service.wire import UsageFields
from templates_store.choosing import NOTHING, Selection
from traffic.records import Attempt, Decision, Interaction, Outcome, Usage

MAX_HEADER_ID = 128
SESSION_HEADERS = (b"x-session-id", b"x-conversation-id", b"x-claude-code-session-id")
_NAMING = frozenset(("metadata", "prompt_cache_key"))
"""The fields of a body that may name a session."""
_STORE_FALSE = re.compile(rb'"store"\s*:\s*false')


class Exchange:
    """The mutable state of one request. Every field is truthful at every moment, so it can be logged at any time."""

    __slots__ = (
        "answer_cost_usd", "answer_id", "answer_usage", "bill", "cache", "client_request_id", "conversation",
        "cost_usd", "created_at", "decision", "encoder", "endpoint", "error",
        "headers", "http_status", "id", "key", "on_trial", "outcome", "query_text", "raw", "request",
        "reserved_tokens", "response", "route", "selection", "staged", "started", "template_ids", "trail", "ttft_s",
        "usage", "vector", "withheld_from",
    )  # fmt: skip

    def __init__(self, endpoint: str, headers: list[tuple[bytes, bytes]]) -> None:
        self.started = time.perf_counter()
        self.created_at = time.time()
        self.id = new_id(self.created_at)
        self.endpoint = endpoint
        self.headers: dict[bytes, bytes] = dict(headers)
        sent_id = self.headers.get(b"x-request-id", b"")[:MAX_HEADER_ID]
        self.client_request_id = sent_id.decode("latin-1") if sent_id and _is_plain(sent_id) else None
        self.outcome: Outcome = "rejected"
        self.http_status = 500
        self.error: ApiError | None = None
        self.raw: bytes | None = None
        self.request: ModelRequest | None = None
        self.key: Key | None = None
        self.route: str | None = None
        self.decision: Decision | Callable[[], Decision] | None = None
        self.on_trial: Callable[[Decision], Decision] | None = None
        self.trail = Trail()
        self.usage: Usage | None = None
        self.answer_usage: Usage | None = None
        self.answer_cost_usd: float | None = None
        self.staged = False
        self.conversation: tuple[Hashable, Hashable] | None = None
        """Its key, and the caller's wish about quality and cost."""
        self.bill: Bill | None = None
        self.cache: CacheUse | None = None
        """What the cache is for it; None if there is none, or the request did not come so far."""
        self.reserved_tokens: int | None = None
        """What it has reserved of its key's tokens a minute."""
        self.cost_usd: float | None = None
        self.ttft_s: float | None = None
        self.answer_id: str | None = None
        self.template_ids: tuple[str, ...] = ()
        self.selection: Selection = NOTHING
        """The templates that a `thought` arm is to get."""
        self.withheld_from: str | None = None
        """The `thought` arm that was drawn, where this request is a control: asked without templates."""
        self.query_text: str | None = None
        self.encoder: str | None = None
        self.vector: bytes | None = None
        self.response: bytes | None = None

    @property
    def arm(self) -> Arm | None:
        """The arm that answers or was tried last."""
        return self.trail.arm

    def workload(self) -> str | None:
        """The task that the caller names in `metadata.workload`."""
        return _metadata(self.request).get("workload")

    def session(self) -> str | None:
        """The conversation that the caller names, in the body or in a header of the usual harnesses."""
        if self.request is not None and not _NAMING.isdisjoint(self.request.body.fields):
            named = _metadata(self.request).get("session_id") or _text(self.request, "prompt_cache_key")
            if named:
                return named
        for name in SESSION_HEADERS:
            value = self.headers.get(name)
            if value:
                return value[:MAX_HEADER_ID].decode("latin-1")
        return None

    def overhead_s(self) -> float:
        """Time spent in this service so far: all of it less the time in which an upstream was at work."""
        spent = time.perf_counter() - self.started
        waited = sum(attempt.latency_s for attempt in self.trail.attempts)
        if self.trail.running is not None:
            waited += time.perf_counter() - self.trail.running.started
        return max(spent - waited, 0.0)

    def tokens_used(self, *, answered: bool) -> int:
        """Tokens to count against the key: as reported, as expected if an answer began without a report, else none."""
        if self.cache is not None and self.cache.answer is not None:
            return 0
        usage = self.usage
        if usage is not None and usage.prompt_tokens is not None and usage.completion_tokens is not None:
            return usage.prompt_tokens + usage.completion_tokens
        return (self.reserved_tokens or 0) if answered else 0

    def reports(self, fields: UsageFields | None) -> None:
        """Take over the usage that the upstream reported, and what it cost."""
        if fields is None:
            self.usage, self.cost_usd = None, None
            return
        prompt, completion = fields.prompt_tokens_details, fields.completion_tokens_details
        usage = Usage(
            prompt_tokens=fields.prompt_tokens,
            completion_tokens=fields.completion_tokens,
            cached_tokens=None if prompt is None else prompt.cached_tokens,
            reasoning_tokens=None if completion is None else completion.reasoning_tokens,
        )
        cost = None
        if self.arm is not None:
            cost = self.arm.model.prices.cost(usage.prompt_tokens, usage.completion_tokens, usage.cached_tokens)
        self.answer_usage, self.answer_cost_usd = usage, cost
        if not self.staged:
            self.usage, self.cost_usd = usage, cost
            return
        # Of several stages the bill is their sum, and not known if one of them is not.
        self.usage = None if self.usage is None else summed(self.usage, usage)
        self.cost_usd = None if self.cost_usd is None or cost is None else self.cost_usd + cost

    def _declines_storage(self) -> bool:
        """Whether the caller said `store: false`, also in a body that could not be parsed."""
        if self.request is not None:
            return self.request.body.peek("store") is False
        return self.raw is not None and _STORE_FALSE.search(self.raw) is not None

    def _attempts(self, stored: bool) -> tuple[Attempt, ...]:
        """The attempts; without content their errors lose the upstream's own words, which may quote the prompt."""
        if stored:
            return tuple(self.trail.attempts)
        return tuple(
            attempt if attempt.error is None else replace(attempt, error=attempt.error.partition(":")[0])
            for attempt in self.trail.attempts
        )

    def record(self, *, keep_content: bool) -> Interaction:
        """The log record. With `store: false`, or content off by config, it holds no text and no vector."""
        request, arm, error = self.request, self.arm, self.error
        stored = keep_content and not self._declines_storage()
        metadata = _metadata(request)
        decision = self.decision() if callable(self.decision) else self.decision
        if decision is not None and self.on_trial is not None:
            decision = self.on_trial(decision)
        return Interaction(
            id=self.id, created_at=self.created_at, endpoint=self.endpoint, outcome=self.outcome,
            http_status=self.http_status, answer_id=self.answer_id, client_request_id=self.client_request_id,
            key_id=None if self.key is None else self.key.id,
            user=_text(request, "user") or _text(request, "safety_identifier"),
            session=self.session(),
            workload=metadata.get("workload"),
            requested_model=None if request is None else request.model, route=self.route,
            arm=None if arm is None else arm.id, model=None if arm is None else arm.model.name,
            stream=request is not None and request.stream, stored=stored,
            error_code=None if error is None else error.code or error.type,
            decision=decision, attempts=self._attempts(stored), usage=self.usage, cost_usd=self.cost_usd,
            overhead_s=self.overhead_s(), ttft_s=self.ttft_s, latency_s=time.perf_counter() - self.started,
            template_ids=self.template_ids, retrieved=self.selection.retrieved,
            withheld=self.withheld_from is not None and not self.template_ids,
            query_text=self.query_text if stored else None,
            encoder=self.encoder if stored else None, vector=self.vector if stored else None,
            request=self.raw if stored else None, response=self.response if stored else None,
            cached_from=None if self.cache is None or self.cache.answer is None else self.cache.answer.id,
        )  # fmt: skip


def summed(first: Usage, second: Usage) -> Usage:
    """The tokens of two calls together; a count that one of them lacks is not known."""
    counts = {}
    for name in Usage.__struct_fields__:
        one, other = getattr(first, name), getattr(second, name)
        counts[name] = None if one is None or other is None else one + other
    return Usage(**counts)


def _metadata(request: ModelRequest | None) -> dict[str, Any]:
    if request is None or "metadata" not in request.body.fields:
        return {}
    metadata = request.body.peek("metadata")
    return {k: v for k, v in metadata.items() if isinstance(v, str)} if isinstance(metadata, dict) else {}


def _text(request: ModelRequest | None, name: str) -> str | None:
    if request is None or name not in request.body.fields:
        return None
    value = request.body.peek(name)
    return value if isinstance(value, str) else None


def new_id(now: float) -> str:
    """A unique id that sorts by time: 12 hex digits of milliseconds, 16 of chance. Ordered ids keep indexes compact."""
    return f"req_{int(now * 1e3):012x}{os.urandom(8).hex()}"


def _is_plain(value: bytes) -> bool:
    """Printable ASCII without spaces: safe to send back in a header."""
    return value.isalnum() or all(33 <= byte <= 126 for byte in value)
