"""The exact cache: whether a request may be answered from it, and whether its answer may be kept.

Nothing is read or kept of requests with `store: false`, of those that ask to have their decision explained, and of
those whose body two readers may understand differently. Kept are answers that came to their end; they are never shown
to another tenant. A store that cannot be asked is no error: the request goes on without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from registry.config import Config, ExactCacheConfig
from service.cache.fingerprint import Ambiguous, fingerprint, is_repeatable, read_fields, version_of
from service.cache.kept import KeptAnswer, is_whole
from service.cache.stores import AnswerStore, MemoryStore, StoreAway
from service.cache.use import CacheResult, CacheUse

if TYPE_CHECKING:
    from registry.arms import Arm
    from service.exchange import Exchange
    from service.limits import Key
    from service.routing_options import RoutingOptions
    from service.serving import Serving, Target


class ExactCache:
    """The cache of one process; with `url` its answers are shared by all replicas of the same config."""

    def __init__(self, config: Config, settings: ExactCacheConfig, clock: Callable[[], float] = time.time) -> None:
        self.settings = settings
        self.store: AnswerStore = _store(settings, clock)
        self.results: dict[CacheResult, int] = {"hit": 0, "miss": 0, "bypass": 0}
        self.failures = 0
        self.saved_usd = 0.0
        self._clock = clock
        self._version = version_of(config)

    async def look_up(
        self, exchange: Exchange, key: Key, target: Target, options: RoutingOptions, serving: Serving
    ) -> Arm | None:
        """The arm whose kept answer fits, with `exchange.cache` saying which one; None if an arm must be asked."""
        exchange.cache = use = CacheUse()
        slot = self._slot(exchange, key, target, options, serving)
        if slot is None:
            return None
        use.key = slot
        now = self._clock()
        ttl_s = self._ttl_s(options)
        use.until = now + ttl_s
        if options.cache == "refresh":
            return None
        try:
            found = await self.store.get(slot)
        except StoreAway:
            self.failures += 1
            return None
        use.result = "miss"
        arm = None if found is None else serving.pool.arms.get(found.arm)
        if found is None or arm is None or now - found.kept_at >= ttl_s:
            return None
        use.result, use.answer = "hit", found
        return arm

    async def keep(self, exchange: Exchange) -> None:
        """Keep the answer of a request that is over, if it may be."""
        use, request, arm, body = exchange.cache, exchange.request, exchange.arm, exchange.response
        if use is None or use.key is None or use.answer is not None or exchange.outcome != "ok":
            return
        # A control is asked in another way than was drawn, on purpose and for once.
        if request is None or arm is None or body is None or exchange.withheld_from is not None:
            return
        choices = request.body.peek("n")
        if not is_whole(exchange.endpoint, body, stream=request.stream, choices=choices or 1):
            return
        answer = KeptAnswer(
            key=use.key, id=exchange.id, kept_at=self._clock(), until=use.until, arm=arm.id, stream=request.stream,
            body=body, usage=exchange.usage, cost_usd=exchange.cost_usd,
        )  # fmt: skip
        try:
            await self.store.put(answer)
        except StoreAway:
            self.failures += 1

    async def close(self) -> None:
        await self.store.close()

    def count(self, use: CacheUse) -> None:
        """Count a request that is over."""
        self.results[use.result] += 1
        if use.answer is not None and use.answer.cost_usd is not None:
            self.saved_usd += use.answer.cost_usd

    def metrics(self) -> bytes:
        """The counters in Prometheus' text format."""
        return ("\n".join(self._lines()) + "\n").encode()

    def _lines(self) -> Iterator[str]:
        yield "# TYPE tokamak_cache_requests_total counter"
        for result, count in self.results.items():
            yield f'tokamak_cache_requests_total{{result="{result}"}} {count}'
        yield from _counter("tokamak_cache_saved_usd_total", self.saved_usd)
        yield from _counter("tokamak_cache_failures_total", self.failures)
        if isinstance(self.store, MemoryStore):
            yield from _counter("tokamak_cache_evicted_total", self.store.evicted)
            yield "# TYPE tokamak_cache_bytes gauge"
            yield f"tokamak_cache_bytes {self.store.bytes}"

    def _slot(
        self, exchange: Exchange, key: Key, target: Target, options: RoutingOptions, serving: Serving
    ) -> bytes | None:
        """What the answer is kept under; None if the cache has no part in this request."""
        request, raw = exchange.request, exchange.raw
        if request is None or raw is None or options.explain or options.cache == "no-store":
            return None
        if request.body.peek("store") is False:
            return None
        if target.pinned is None and serving.trial is not None and serving.trial.stage == "canary":
            # Both versions are to be judged on all that comes, and neither by the other's answers.
            return None
        try:
            fields = read_fields(raw)
            if options.cache is None and not is_repeatable(exchange.endpoint, fields):
                return None
            people = [fields.get(name) for name in PEOPLE] if self.settings.per_user else []
            tenant = [people, key.id, sorted(key.models)]
            router = serving.router if target.pinned is None else ""
            return fingerprint(exchange.endpoint, fields, tenant, options, f"{self._version}{router}")
        except Ambiguous:
            return None

    def _ttl_s(self, options: RoutingOptions) -> float:
        wished = options.cache_ttl_s
        return self.settings.ttl_s if wished is None else min(wished, self.settings.ttl_s)


PEOPLE = ("user", "safety_identifier")
"""The fields that name for whom a tenant asks."""


def _counter(name: str, value: float) -> Iterator[str]:
    yield f"# TYPE {name} counter"
    yield f"{name} {value:.17g}"


def _store(settings: ExactCacheConfig, clock: Callable[[], float]) -> AnswerStore:
    if settings.url is None:
        return MemoryStore(settings.max_bytes, clock)
    from service.cache.redis_store import RedisStore

    return RedisStore(settings.url, clock)
