"""Budgets in USD per day, of keys and of routes. Per process: with N replicas give each its share.

A request reserves its expected cost when its arm is known and is trued up when it is over. An answer whose cost is not
known (no usage came, the client left) is charged what was expected of it. What is spent today, the price of money and
the learned shape of the traffic are written to `budgets.json` in the data folder every few seconds and at shutdown, so
they survive a restart; a crash forgets the last few seconds.
"""

from __future__ import annotations

import json
import logging
import os
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from registry.api_key_table import ApiKey
from registry.arms import Arm
from registry.atomic_files import LEFTOVER
from registry.config import Config, RouteConfig
from routers.policy.pacer import DAY_S, Pacer
from service.errors import ApiError
from service.limits import TYPICAL_ANSWER_TOKENS, Key

logger = logging.getLogger("tokamak.budgets")

FILE = "budgets.json"
OVER_DAY = "expected cost over what is left of the day's budget"
SAVE_S = 5.0


class Bill:
    """The budgets that one request draws on, and what it has reserved of them."""

    __slots__ = ("_budgets", "cheapest", "owners", "pacers", "reserved_usd")

    def __init__(self, budgets: Budgets, pacers: Sequence[tuple[str, Pacer]], cheapest: bool) -> None:
        self._budgets = budgets
        self.owners = tuple(owner for owner, _ in pacers)
        self.pacers = tuple(pacer for _, pacer in pacers)
        self.cheapest = cheapest
        """Whether a request may go on with the cheapest arm once a budget is spent."""
        self.reserved_usd: float | None = None

    def shadow_per_usd(self) -> float:
        """What all budgets together ask for a USD, in quality."""
        now = self._budgets.clock()
        return sum(pacer.price(now) for pacer in self.pacers)

    def left_usd(self) -> float:
        """What is left of the budget that is nearest to its end."""
        now = self._budgets.clock()
        return min(pacer.left(now) for pacer in self.pacers)

    def reserve(self, expected_usd: float, spread_usd: float = 0.0) -> None:
        """Charge the expected cost until the real one is known."""
        now = self._budgets.clock()
        for pacer in self.pacers:
            pacer.reserve(expected_usd, spread_usd, now)
        self.reserved_usd = expected_usd

    def settle(self, cost_usd: float | None, *, answered: bool) -> None:
        """The request is over. `answered`: an answer began, so an unknown cost is taken to be the expected one."""
        if self.reserved_usd is None:
            return
        if cost_usd is None:
            cost_usd = self.reserved_usd if answered else 0.0
        now = self._budgets.clock()
        for pacer in self.pacers:
            pacer.settle(self.reserved_usd, cost_usd, now)
        self.reserved_usd = None
        self._budgets.save_soon()

    def spent(self) -> ApiError:
        """The error once nothing is left, or not enough for any arm."""
        return ApiError(
            429, "rate_limit_error", "budget_exceeded",
            f"The budget of {' and '.join(self.owners)} for today (UTC) is used up, or too little of it is left for "
            "this request.", retry_after_s=DAY_S - self._budgets.clock() % DAY_S,
        )  # fmt: skip


class Budgets:
    """All budgets of one process."""

    def __init__(self, config: Config, folder: Path, clock: Callable[[], float] = time.time) -> None:
        self.clock = clock
        self._path = folder / FILE
        self._mark = os.urandom(4).hex()
        self._saved_at = clock()
        shape = None if config.limits.traffic_shape is None else tuple(config.limits.traffic_shape)
        keys = {key.id: key for key in config.limits.keys if key.usd_per_day is not None}
        routes = {name: route for name, route in config.routes.items() if route.usd_per_day is not None}
        self._keys = {name: Pacer(key.usd_per_day or 0.0, shape) for name, key in keys.items()}
        self._routes = {name: Pacer(route.usd_per_day or 0.0, shape) for name, route in routes.items()}
        self._cheapest_keys = {name for name, key in keys.items() if key.when_spent == "cheapest"}
        self._shape = shape
        self._configured = frozenset(key.id for key in config.limits.keys)
        self._asleep: dict[str, Any] = {}
        """The states, by owner, of budgets that nobody has now; whoever gets one again finds today's spending in it."""

    def take_in(self, keys: Iterable[ApiKey]) -> None:
        """Keep the budgets of these created keys from now on; what is spent today stays spent."""
        wanted = {key.id: key.settings for key in keys if key.settings.usd_per_day is not None}
        for key_id in self._keys.keys() - wanted.keys() - self._configured:
            self._asleep[f"key:{key_id}"] = self._keys.pop(key_id).state()
            self._cheapest_keys.discard(key_id)
        for key_id, settings in wanted.items():
            usd = settings.usd_per_day or 0.0
            pacer = self._keys.get(key_id)
            if pacer is None:
                pacer = self._keys[key_id] = Pacer(usd, self._shape)
                self._restore(f"key:{key_id}", pacer)
            pacer.usd_per_day = usd
            cheapest = settings.when_spent == "cheapest"
            (self._cheapest_keys.add if cheapest else self._cheapest_keys.discard)(key_id)

    def _restore(self, owner: str, pacer: Pacer) -> None:
        state = self._asleep.pop(owner, None)
        if state is None:
            return
        try:
            pacer.restore(state)
        except (ValueError, KeyError, TypeError) as error:
            logger.error("the budget of %s cannot be read (%r), so its day begins anew", owner, error)

    def bill(self, key: Key, route_name: str, route: RouteConfig | None) -> Bill | None:
        """The budgets of a request; None if it has none. `route` None: a model was asked for by name.

        A model that was asked for by name is never exchanged for a cheaper one, so it is refused once nothing is left.
        """
        if not self._keys and not self._routes:
            return None
        pacers: list[tuple[str, Pacer]] = []
        cheapest = True
        if key.id in self._keys:
            pacers.append((f"key {key.id!r}", self._keys[key.id]))
            cheapest &= key.id in self._cheapest_keys
        name = route_name.partition(":")[0]
        if route is not None and name in self._routes:
            pacers.append((f"route {name!r}", self._routes[name]))
            cheapest &= route.when_spent == "cheapest"
        return Bill(self, pacers, cheapest and route is not None) if pacers else None

    def reserved_for(self, arm: Arm, key: Key, prompt_tokens: int, answer_tokens: int | None) -> Bill | None:
        """The bill of an arm that was asked for by name, with its estimated cost reserved.

        Raises
        ------
        ApiError: 429, the key's budget is used up.
        """
        bill = self.bill(key, arm.id, None)
        if bill is not None:
            if bill.left_usd() <= 0.0:
                raise bill.spent()
            bill.reserve(arm.model.prices.cost(prompt_tokens, answer_tokens or TYPICAL_ANSWER_TOKENS) or 0.0)
        return bill

    def load(self) -> None:
        """Take over what an earlier process left; what cannot be read is reported and begun anew."""
        if not self._path.exists():
            return
        try:
            states = dict(json.loads(self._path.read_text()))
            for owner, pacer in self._named():
                if owner in states:
                    pacer.restore(states.pop(owner))
            self._asleep = states
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            logger.error("%s cannot be read (%r), so today's budgets begin anew", self._path, error)

    def save(self) -> None:
        """Write the state of all budgets."""
        if not self._keys and not self._routes and not self._asleep:
            return
        self._saved_at = self.clock()
        states = {**self._asleep, **{owner: pacer.state() for owner, pacer in self._named()}}
        try:
            # Not synced: a crash of the process loses nothing of it, and the event loop does not wait for the disk.
            # Of a name of its own: replicas that share the folder write at the same time.
            partial = self._path.with_name(f"{LEFTOVER}{self._mark}-{FILE}")
            partial.write_text(json.dumps(states))
            partial.replace(self._path)
        except OSError as error:
            logger.error("the budgets cannot be written to %s: %s", self._path, error)

    def save_soon(self) -> None:
        """Write the state if that was not done for a few seconds."""
        if abs(self.clock() - self._saved_at) > SAVE_S:
            self.save()

    def _named(self) -> list[tuple[str, Pacer]]:
        keys = [(f"key:{name}", pacer) for name, pacer in self._keys.items()]
        return [*keys, *((f"route:{name}", pacer) for name, pacer in self._routes.items())]
