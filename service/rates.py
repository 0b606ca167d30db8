"""Token buckets: so much a minute, saved up for one minute at most; and how rates are told in response headers."""

from __future__ import annotations

import time
from collections.abc import Callable

MINUTE_S = 60.0


class Bucket:
    """Holds at most `capacity`, one minute's allowance if not said, and fills evenly from full.

    It may be overdrawn, and then has to fill up first. If no more is taken than `wait_s` allows, then in any stretch of
    time what was taken less what was given back is at most `capacity + per_minute * minutes`.
    """

    __slots__ = ("_clock", "_filled_at", "_level", "capacity", "per_minute")

    def __init__(
        self, per_minute: int, capacity: int | None = None, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.per_minute = per_minute
        self.capacity = per_minute if capacity is None else capacity
        self._clock = clock
        self._level = float(self.capacity)
        self._filled_at = clock()

    def level(self) -> float:
        """What may be taken now; negative while overdrawn."""
        now = self._clock()
        filled = self._level + (now - self._filled_at) * self.per_minute / MINUTE_S
        self._level, self._filled_at = min(float(self.capacity), filled), now
        return self._level

    def wait_s(self, amount: float) -> float:
        """Seconds until `amount` may be taken; 0.0 if it may be now. What does not fit in waits until it is full."""
        lacking = min(amount, float(self.capacity)) - self.level()
        return max(lacking, 0.0) * MINUTE_S / self.per_minute

    def take(self, amount: float) -> None:
        self._level = self.level() - amount

    def give_back(self, amount: float) -> None:
        self._level = min(float(self.capacity), self.level() + amount)

    def resize(self, per_minute: int) -> None:
        """Another allowance from now on; what was saved up beyond it is lost."""
        self.level()
        self.per_minute = self.capacity = per_minute
        self._level = min(self._level, float(per_minute))

    def headers(self, of: bytes) -> list[tuple[bytes, bytes]]:
        """OpenAI's `x-ratelimit-*` headers of what is counted: `requests` or `tokens`."""
        level = self.level()
        full_in_s = (self.capacity - level) * MINUTE_S / self.per_minute
        return [
            (b"x-ratelimit-limit-" + of, b"%d" % self.per_minute),
            (b"x-ratelimit-remaining-" + of, b"%d" % max(level, 0.0)),
            (b"x-ratelimit-reset-" + of, duration(full_in_s)),
        ]


def duration(seconds: float) -> bytes:
    """A time as OpenAI writes it: `0s`, `120ms`, `6m3s`. Rounded up, so that nobody comes too early."""
    ms = int(-(-seconds * 1e3 // 1))
    if ms < 1_000:
        return b"%dms" % ms if ms else b"0s"
    minutes, rest = divmod(-(-ms // 1_000), 60)
    return b"%dm%ds" % (minutes, rest) if minutes else b"%ds" % rest
