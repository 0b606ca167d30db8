"""Which endpoints are up: a circuit breaker per endpoint, fed by what calls showed.

After `failures` failures in a row an endpoint is left out for `cooldown_s`; then one call at a time tries it again
until one succeeds.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from registry.arms import Endpoint, Model


@dataclass(slots=True)
class Breaker:
    failures: int = 0
    closed_until: float = 0.0
    """While open: the time at which the next trial is due."""


class Health:
    """The breakers of one process. They outlive reloads of the config: state is kept by endpoint id."""

    def __init__(self, failures: int, cooldown_s: float, clock: Callable[[], float] = time.monotonic) -> None:
        self._limit = failures
        self._cooldown_s = cooldown_s
        self._clock = clock
        self._breakers: dict[str, Breaker] = {}

    def is_up(self, endpoint: Endpoint) -> bool:
        """Whether a call may go there now; changes nothing."""
        breaker = self._breakers.get(endpoint.id)
        return breaker is None or breaker.failures < self._limit or self._clock() >= breaker.closed_until

    def any_failed(self) -> bool:
        """Whether any endpoint has failed since it last answered."""
        return bool(self._breakers)

    def model_is_up(self, model: Model) -> bool:
        if not self._breakers:
            return True
        return any(self.is_up(endpoint) for endpoint in model.endpoints)

    def starts(self, endpoint: Endpoint) -> None:
        """A call goes there. If this is the trial after a cool-down, others wait another cool-down for its result."""
        breaker = self._breakers.get(endpoint.id)
        if breaker is not None and breaker.failures >= self._limit:
            breaker.closed_until = self._clock() + self._cooldown_s

    def succeeded(self, endpoint: Endpoint) -> None:
        if self._breakers:
            self._breakers.pop(endpoint.id, None)

    def failed(self, endpoint: Endpoint) -> None:
        breaker = self._breakers.setdefault(endpoint.id, Breaker())
        breaker.failures += 1
        if breaker.failures >= self._limit:
            breaker.closed_until = self._clock() + self._cooldown_s

    def down(self) -> list[str]:
        """Ids of the endpoints that are left out now."""
        now = self._clock()
        return [
            name for name, breaker in self._breakers.items()
            if breaker.failures >= self._limit and now < breaker.closed_until
        ]  # fmt: skip
