"""A budget per day, kept by a price on money instead of a switch at noon. Pure: time comes in, nothing is read.

The dual form of "as much quality as this budget buys": every request maximises quality - lambda * cost, and lambda
follows what is spent,

    lambda <- [lambda + eta * (cost - allowance)]_+,

where the allowance of a stretch of time is what is left of the budget times that stretch's share of the traffic that is
still to come. So a busy morning raises the price early, a quiet one lowers it, and what was not spent is spent later.
The traffic's shape over the day is declared or learned hour by hour from the days before.

The price is soft. The hard end is `left`: what is neither spent nor reserved. A request reserves its expected cost when
it is admitted and is trued up when its real cost is known, so requests under way cannot spend the same money twice.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

DAY_S = 86_400.0
HOURS = 24
GAIN = 15.0
"""Eta in natural units: an error of one part in `GAIN` of the day's budget moves lambda by one quality per spread of
costs, which is more than any real difference in quality."""
HIGHEST = 5.0
"""Lambda times the spread of costs never exceeds this: the cheapest arm wins anyway, and the way down is not long."""
MEMORY = 0.02
"""Weight of a request in the running mean of the spread of costs."""
DAYS_MEMORY = 0.3
"""Weight of the last day in the learned shape."""
EVEN_SHARE = 0.25
"""Share of the learned shape that is spread evenly, so that an hour without traffic yesterday has money today."""


def cumulative(shape: Sequence[float], second: float) -> float:
    """Share of a day's traffic that comes before `second` of the day, for 24 hourly weights; in [0, 1]."""
    position = min(max(second, 0.0), DAY_S) / DAY_S * len(shape)
    hour = min(int(position), len(shape) - 1)
    return (sum(shape[:hour]) + (position - hour) * shape[hour]) / sum(shape)


@dataclass(slots=True)
class Pacer:
    """The state of one budget in one process. Times are Unix seconds; days are those of UTC.

    `shape` is the declared traffic, 24 weights of which one is above 0; None learns it from `requests`, the counts by
    hour of the current day, and `learned`, their running mean over the days before.
    """

    usd_per_day: float
    shape: tuple[float, ...] | None = None
    day: int = -1
    spent_usd: float = 0.0
    reserved_usd: float = 0.0
    lambda_per_usd: float = 0.0
    spread_usd: float = 0.0
    paced_at: float = 0.0
    """Second of the day up to which the allowance was given out."""
    requests: list[float] = field(default_factory=lambda: [0.0] * HOURS)
    learned: list[float] = field(default_factory=list)

    def turn(self, now: float) -> None:
        """Begin a new day if there is one. What is under way is charged to the day in which it ends."""
        day = int(now // DAY_S)
        if day <= self.day:
            return
        if self.day >= 0 and sum(self.requests) > 0:
            old = self.learned or self.requests
            self.learned = [
                (1 - DAYS_MEMORY) * before + DAYS_MEMORY * seen for before, seen in zip(old, self.requests, strict=True)
            ]
        self.day, self.spent_usd, self.requests = day, 0.0, [0.0] * HOURS
        # On the first day of a process that starts at noon the morning's traffic was somebody else's.
        self.paced_at = now % DAY_S

    def left(self, now: float) -> float:
        """USD of today that are neither spent nor reserved; not negative."""
        self.turn(now)
        return max(self.usd_per_day - self.spent_usd - self.reserved_usd, 0.0)

    def price(self, now: float) -> float:
        """Lambda now, in quality per USD; time that passed without requests has lowered it."""
        self.turn(now)
        self._pace(0.0, now)
        return self.lambda_per_usd

    def reserve(self, expected_usd: float, spread_usd: float, now: float) -> None:
        """Admit a request. `spread_usd`: by how much the dearest of its arms exceeds the cheapest; 0 if not known."""
        self.turn(now)
        self.requests[min(int(now % DAY_S / DAY_S * HOURS), HOURS - 1)] += 1
        self.reserved_usd += expected_usd
        if spread_usd > 0:
            old = self.spread_usd or spread_usd
            self.spread_usd = old + MEMORY * (spread_usd - old)

    def settle(self, reserved_usd: float, cost_usd: float, now: float) -> None:
        """A request is over: its reservation is replaced by what it cost."""
        self.turn(now)
        self.reserved_usd = max(self.reserved_usd - reserved_usd, 0.0)
        self._pace(cost_usd, now)
        self.spent_usd += cost_usd

    def _pace(self, cost_usd: float, now: float) -> None:
        """The dual step for a cost, and for the allowance of the time since the last step."""
        second = max(now % DAY_S, self.paced_at) if now // DAY_S == self.day else DAY_S
        shape = self.shape or self._learned_shape()
        before, here = cumulative(shape, self.paced_at), cumulative(shape, second)
        left = max(self.usd_per_day - self.spent_usd, 0.0)
        allowance = left * (here - before) / (1.0 - before) if before < 1.0 else 0.0
        self.paced_at = second
        if self.spread_usd > 0:
            step = GAIN * (cost_usd - allowance) / (self.usd_per_day * self.spread_usd)
            self.lambda_per_usd = min(max(self.lambda_per_usd + step, 0.0), HIGHEST / self.spread_usd)

    def _learned_shape(self) -> Sequence[float]:
        total = sum(self.learned)
        if total <= 0:
            return _EVEN
        return [EVEN_SHARE / HOURS + (1 - EVEN_SHARE) * count / total for count in self.learned]

    def state(self) -> dict[str, Any]:
        """What outlives the process, as JSON holds it. Reservations do not: their requests died with it."""
        return {
            "day": self.day, "spent_usd": self.spent_usd, "lambda_per_usd": self.lambda_per_usd,
            "spread_usd": self.spread_usd, "paced_at": self.paced_at, "requests": self.requests,
            "learned": self.learned,
        }  # fmt: skip

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take over what `state` gave. Raises KeyError, TypeError or ValueError if it is not that."""
        requests, learned = ([float(count) for count in state[name]] for name in ("requests", "learned"))
        if len(requests) != HOURS or len(learned) not in (0, HOURS):
            raise ValueError(f"expected {HOURS} counts by hour, got {len(requests)} and {len(learned)}")
        self.day, self.requests, self.learned = int(state["day"]), requests, learned
        self.spent_usd, self.lambda_per_usd = float(state["spent_usd"]), float(state["lambda_per_usd"])
        self.spread_usd, self.paced_at = float(state["spread_usd"]), float(state["paced_at"])


_EVEN = (1.0 / HOURS,) * HOURS
