"""The demo's client of the gateway: asks, gives feedback, and reads the headers that explain an answer."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from typing import Any, NamedTuple

import aiohttp
import orjson

from demo.workload import Question

CONCURRENCY = 32
TIMEOUT_S = 600.0
PACE_EVERY = 200
PACE_S = 0.1
MAX_LOG_QUEUE = 4000
"""Records; a fifth of what the gateway's log holds before it drops any."""


class TrafficError(RuntimeError):
    """A request failed that had to succeed. The message quotes the status and the gateway's own message."""


class Answer(NamedTuple):
    """One answer through the gateway. `arm` is the one that gave it; `cost_usd` is None where no price is known.

    `templates` are the ids of the thought templates that stood in its prompt.
    """

    question: Question
    arm: str
    text: str
    cost_usd: float | None
    request_id: str
    router: str | None
    templates: tuple[str, ...] = ()

    @property
    def model(self) -> str:
        """The model of the arm, without its way of asking."""
        return self.arm.split("#", 1)[0]


class Pace:
    """Holds requests back while the gateway's log has much to write: a record that finds no room there is lost.

    `metrics_url` is the Prometheus endpoint of the gateway. It is asked once in `PACE_EVERY` requests.
    """

    def __init__(self, session: aiohttp.ClientSession, metrics_url: str) -> None:
        self._session = session
        self._metrics_url = metrics_url
        self._sent = 0
        self._free = asyncio.Event()
        self._free.set()

    async def wait(self) -> None:
        """Return when the next request may be sent. Raises TrafficError if the log has lost a record."""
        await self._free.wait()
        self._sent += 1
        if self._sent % PACE_EVERY:
            return
        self._free.clear()
        try:
            while True:
                if await self._depth() <= MAX_LOG_QUEUE:
                    return
                await asyncio.sleep(PACE_S)
        finally:
            self._free.set()

    async def _depth(self) -> float:
        try:
            async with self._session.get(self._metrics_url) as response:
                lines = (await response.text()).splitlines()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TrafficError(f"GET {self._metrics_url} broke off: {error!r}") from error
        values = dict(line.rsplit(" ", 1) for line in lines if line.startswith("tokamak_log_"))
        if float(values["tokamak_log_dropped_total"]) > 0:
            raise TrafficError("the gateway's log lost records: its disk is slower than the traffic; use fewer queries")
        return float(values["tokamak_log_queue_depth"])


class GatewayClient:
    """Speaks to one gateway at `base_url` (ending in `/v1`) over one pool of connections, at the given pace."""

    def __init__(self, session: aiohttp.ClientSession, base_url: str, pace: Pace | None = None) -> None:
        self._session = session
        self._base_url = base_url
        self._pace = pace

    async def ask(
        self,
        question: Question,
        model: str,
        *,
        store: bool = True,
        only: tuple[str, ...] | None = None,
        max_tokens: int | None = None,
    ) -> Answer:
        """Ask `model`, a name or a route; of `only` these models, if given. Without `store` nothing of it is learned.

        Raises TrafficError for any answer but a complete one.
        """
        if self._pace is not None:
            await self._pace.wait()
        body: dict[str, Any] = {"model": model, "messages": [{"role": "user", "content": question.text}]}
        if not store:
            body["store"] = False
        if max_tokens is not None:
            body["max_tokens"] = max_tokens
        if only is not None:
            body["routing"] = {"models": only}
        headers, answer = await self._post("/chat/completions", body)
        cost = headers.get("x-tokamak-cost-usd")
        try:
            return Answer(
                question=question,
                arm=headers["x-tokamak-model"],
                text=answer["choices"][0]["message"]["content"],
                cost_usd=None if cost is None else float(cost),
                request_id=headers["x-request-id"],
                router=headers.get("x-tokamak-router"),
                templates=tuple(filter(None, headers.get("x-tokamak-template", "").split(","))),
            )
        except (KeyError, IndexError, TypeError) as error:
            raise TrafficError(f"the answer to {question.id} lacks {error}: {str(answer)[:200]}") from error

    async def give_feedback(self, request_id: str, score: float) -> None:
        """Tell the gateway how good an answer was, in [0, 1]. Raises TrafficError if it does not take it."""
        await self._post("/feedback", {"request_id": request_id, "metric": "exact_match", "value": score})

    async def router(self, route: str = "auto") -> str:
        """The version of the router that would decide a request now, by a dry run. Raises TrafficError."""
        _, explanation = await self._post(
            "/route", {"model": route, "messages": [{"role": "user", "content": "hello"}]}
        )
        return str(explanation["router"])

    async def _post(self, path: str, body: dict[str, Any]) -> tuple[Any, Any]:
        """Headers and decoded body of a 2xx answer."""
        headers = {"content-type": "application/json"}
        try:
            async with self._session.post(self._base_url + path, data=orjson.dumps(body), headers=headers) as response:
                raw = await response.read()
        except (aiohttp.ClientError, TimeoutError) as error:
            raise TrafficError(f"POST {path} for {body.get('model')!r} broke off: {error!r}") from error
        if response.status // 100 != 2:
            raise TrafficError(f"POST {path} for {body.get('model')!r} got {response.status}: {raw[:300]!r}")
        return response.headers, orjson.loads(raw)


@asynccontextmanager
async def gateway_client(base_url: str, metrics_url: str | None = None) -> AsyncIterator[GatewayClient]:
    """A client whose connections are closed at the end; it keeps pace with the gateway's log if it can see it."""
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), timeout=timeout) as session:
        yield GatewayClient(session, base_url, None if metrics_url is None else Pace(session, metrics_url))


async def at_once(jobs: Iterable[Callable[[], Any]], concurrency: int = CONCURRENCY) -> None:
    """Run the jobs (functions that return a coroutine), `concurrency` at a time; the first error stops all."""
    waiting = iter(jobs)

    async def work() -> None:
        for job in waiting:
            await job()

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
