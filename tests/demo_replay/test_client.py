"""The client of the demo: failures stop it, and it never takes one model's answer for another's."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from demo.client import MAX_LOG_QUEUE, PACE_EVERY, GatewayClient, TrafficError, at_once, gateway_client
from demo.workload import Question

QUESTION = Question("q1", "t", "Which letter?")


async def answers(request: web.Request) -> web.Response:
    body = await request.json()
    if body["model"] == "refused":
        return web.json_response({"error": {"message": "no such model"}}, status=404)
    headers = {"x-request-id": "r1", "x-tokamak-router": "prior@0"}
    if body["model"] != "unnamed":
        headers |= {"x-tokamak-model": "small#think"}
    if body["model"] == "priced":
        headers |= {"x-tokamak-cost-usd": "0.00012"}
    text = f"store={body.get('store', True)} only={body.get('routing', {}).get('models')}"
    return web.json_response({"choices": [{"message": {"content": text}}]}, headers=headers)


@pytest.fixture
async def client() -> AsyncIterator[GatewayClient]:
    """A client of a real HTTP server that answers as the gateway's contract says."""
    app = web.Application()
    app.router.add_post("/v1/chat/completions", answers)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    async with gateway_client(f"http://127.0.0.1:{port}/v1") as made:
        yield made
    await runner.cleanup()


async def test_answer_carries_who_gave_it_and_what_it_cost(client: GatewayClient) -> None:
    answer = await client.ask(QUESTION, "priced", store=False, only=("small",))
    assert (answer.model, answer.arm, answer.cost_usd) == ("small", "small#think", 0.00012)
    assert (answer.request_id, answer.router) == ("r1", "prior@0")
    assert answer.text == "store=False only=['small']"
    assert (await client.ask(QUESTION, "unpriced")).cost_usd is None


async def test_every_failure_is_an_error(client: GatewayClient) -> None:
    with pytest.raises(TrafficError, match=r"404.*no such model"):
        await client.ask(QUESTION, "refused")
    with pytest.raises(TrafficError, match="x-tokamak-model"):
        await client.ask(QUESTION, "unnamed")
    with pytest.raises(TrafficError, match="404"):
        await client.give_feedback("r1", 1.0)


async def test_nobody_listening_is_an_error() -> None:
    async with gateway_client("http://127.0.0.1:1/v1") as client:
        with pytest.raises(TrafficError, match="broke off"):
            await client.ask(QUESTION, "any")


async def test_at_once_runs_every_job_and_no_more_than_allowed() -> None:
    running, most, done = 0, 0, 0

    async def job() -> None:
        nonlocal running, most, done
        running += 1
        most = max(most, running)
        await asyncio.sleep(0)
        running -= 1
        done += 1

    await at_once((job for _ in range(50)), concurrency=4)
    assert (done, most) == (50, 4)


async def test_the_first_error_stops_all_jobs() -> None:
    async def fail() -> None:
        raise TrafficError("broken")

    with pytest.raises(ExceptionGroup) as caught:
        await at_once((fail for _ in range(100)), concurrency=3)
    assert all(isinstance(error, TrafficError) for error in caught.value.exceptions)
    assert len(caught.value.exceptions) <= 3


@pytest.mark.parametrize(("dropped", "fails"), [(0, False), (3, True)])
async def test_requests_wait_while_the_log_is_behind_and_fail_when_it_lost_records(dropped: int, fails: bool) -> None:
    depths = [MAX_LOG_QUEUE + 1.0, MAX_LOG_QUEUE + 1.0, 5.0]
    asked: list[float] = []

    async def metrics(_: web.Request) -> web.Response:
        asked.append(depths[len(asked)])
        return web.Response(text=f"tokamak_log_queue_depth {asked[-1]}\ntokamak_log_dropped_total {dropped}\n")

    app = web.Application()
    app.router.add_get("/metrics", metrics)
    app.router.add_post("/v1/chat/completions", answers)
    runner = web.AppRunner(app)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    base = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with gateway_client(f"{base}/v1", f"{base}/metrics") as client:
            for _ in range(PACE_EVERY - 1):
                await client.ask(QUESTION, "priced")
            assert asked == []
            if fails:
                with pytest.raises(TrafficError, match="lost records"):
                    await client.ask(QUESTION, "priced")
            else:
                await client.ask(QUESTION, "priced")
                assert asked == depths
    finally:
        await runner.cleanup()
