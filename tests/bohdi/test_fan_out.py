"""Calls are made here or over Ray, and a round comes to the same."""

from __future__ import annotations

import asyncio
import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from offline.bohdi.calls import Call
from offline.bohdi.fan_out import FanOutUnavailable, Team, fan_out
from offline.bohdi.log import StoredReply
from registry.arms import Arm, Endpoint, Model, Upstream
from tests.bohdi.speakers import world_of
from tests.upstream import ScriptedUpstream, answer, failing
from tests.upstream.script import (
    Gate,
    Script,
    close_before_headers,
    fixed,
    gated,
    reset_before_headers,
    truncated,
)


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream(default=failing(500, "nothing is scripted")) as server:
        yield server


def team(url: str, **options: int) -> Team:
    model = Model("m", (Endpoint(Upstream("up", url, api_key="secret", total_timeout_s=5.0), "m"),))
    return Team(arms={"m": Arm("m", model, "direct")}, first_wait_s=0.0, **options)


def call(number: int) -> Call:
    return Call(step=f"r1/p{number}/answer/m/0", arm="m", prompt=f"question {number}", max_tokens=9, seed=number)


async def made(team: Team, count: int, kind: str = "asyncio") -> dict[str, StoredReply]:
    found: dict[str, StoredReply] = {}

    async def keep(made: Call, reply: StoredReply) -> None:
        found[made.step] = reply

    async with fan_out("ray" if kind == "ray" else "asyncio", team) as line:
        await line.run([call(i) for i in range(count)], keep)
    return found


async def test_a_call_carries_what_it_is_asked_with(upstream: ScriptedUpstream) -> None:
    upstream.default = answer("fine", usage={"prompt_tokens": 7, "completion_tokens": 3})
    found = await made(team(upstream.url), 3)
    assert {reply.text for reply in found.values()} == {"fine"}
    assert (found["r1/p0/answer/m/0"].prompt_tokens, found["r1/p0/answer/m/0"].tokens) == (7, 3)
    body = upstream.requests[0].json
    assert (body["max_tokens"], body["seed"]) in {(9, 0), (9, 1), (9, 2)}
    assert "temperature" not in body
    assert upstream.requests[0].header("authorization") == "Bearer secret"


async def test_an_arm_is_sent_no_more_calls_at_a_time_than_the_settings_say(upstream: ScriptedUpstream) -> None:
    gate = Gate()
    upstream.default = gated(answer("fine"), gate, after=-1)
    limited = team(upstream.url, concurrency=2)

    running = asyncio.create_task(made(limited, 6))
    try:
        while len(upstream.requests) < 2:  # noqa: ASYNC110  The server is another thread's.
            await asyncio.sleep(0.01)
        await asyncio.sleep(0.1)
        assert len(upstream.requests) == 2
    finally:
        gate.open()
    await running
    assert len(upstream.requests) == 6


async def test_a_failure_is_a_reply_that_says_why_and_what_it_cost(upstream: ScriptedUpstream) -> None:
    upstream.default = failing(401, "bad key")
    (reply,) = (await made(team(upstream.url), 1)).values()
    assert (reply.text, reply.failure, reply.cost_usd) == (None, "HTTP 401", 0.0)
    upstream.default = answer("   ")
    (reply,) = (await made(team(upstream.url), 1)).values()
    assert (reply.text, reply.failure, reply.cost_usd) == (None, "no text in the answer", None)


@pytest.mark.parametrize(
    "body",
    [
        b"null", b"[]", b"{}", b'{"choices": []}', b'{"choices": [{"message": null}]}', b"<html>", b"\xff\xfe",
        b'{"choices": [{"message": {"content": null}}]}', b'{"choices": [{"message": {"content": 5}}]}',
    ],
)  # fmt: skip
async def test_a_body_without_an_answer_is_a_failure(upstream: ScriptedUpstream, body: bytes) -> None:
    upstream.default = fixed(200, body)
    (reply,) = (await made(team(upstream.url), 1)).values()
    assert (reply.text, reply.failure, reply.tokens) == (None, "no text in the answer", None)


@pytest.mark.parametrize("fault", [reset_before_headers, close_before_headers, truncated(answer("fine"))])
async def test_a_connection_that_breaks_is_a_failure_of_unknown_cost(upstream: ScriptedUpstream, fault: Script) -> None:
    upstream.default = fault
    (reply,) = (await made(team(upstream.url), 1)).values()
    assert reply.text is None
    assert reply.failure.endswith("Error")
    assert reply.cost_usd is None


async def test_a_refusal_of_the_server_is_one(upstream: ScriptedUpstream) -> None:
    upstream.default = answer("partly", finish_reason="content_filter")
    (reply,) = (await made(team(upstream.url), 1)).values()
    assert (reply.text, reply.failure) == (None, "refused")
    assert len(upstream.requests) == 1, "who refuses is not asked again"


async def test_a_text_that_cannot_be_stored_is_made_storable(upstream: ScriptedUpstream) -> None:
    upstream.default = fixed(200, b'{"choices": [{"message": {"content": "half \\ud83d of \\u0000 it"}}]}')
    (reply,) = (await made(team(upstream.url), 1)).values()
    assert reply.text == "half ? of \x00 it"
    assert msgspec.json.decode(msgspec.json.encode(reply), type=StoredReply) == reply


async def test_what_passes_is_tried_again(upstream: ScriptedUpstream) -> None:
    upstream.script(failing(503), failing(429), answer("at last"))
    (reply,) = (await made(team(upstream.url), 1)).values()
    assert (reply.text, len(upstream.requests)) == ("at last", 3)


async def test_a_field_that_a_server_does_not_take_is_left_out_or_renamed(upstream: ScriptedUpstream) -> None:
    upstream.script(
        failing(400, "Unsupported parameter: 'max_tokens'. Use 'max_completion_tokens' instead."),
        failing(422, "Extra inputs are not permitted: seed"),
        answer("fine"),
    )
    (reply,) = (await made(team(upstream.url), 1)).values()
    assert reply.text == "fine"
    body = upstream.last.json
    assert body["max_completion_tokens"] == 9
    assert not {"seed", "max_tokens"} & set(body)


async def test_an_error_of_the_log_ends_the_batch(upstream: ScriptedUpstream) -> None:
    upstream.default = answer("fine")

    async def full(made: Call, reply: StoredReply) -> None:
        raise OSError("disk full")

    async with fan_out("asyncio", team(upstream.url)) as line:
        with pytest.raises(ExceptionGroup) as caught:
            await line.run([call(0)], full)
    assert caught.group_contains(OSError, match="disk full")


async def test_ray_that_is_not_installed_is_said(monkeypatch: pytest.MonkeyPatch, upstream: ScriptedUpstream) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ray", None)
    with pytest.raises(FanOutUnavailable, match="fan_out: asyncio"):
        await made(team(upstream.url), 1, "ray")


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="needs ray")
async def test_a_round_over_ray_is_the_round_on_this_event_loop(
    upstream: ScriptedUpstream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The cluster's processes unpack the class by its name, so they have to find this checkout.
    monkeypatch.setenv(
        "PYTHONPATH", os.pathsep.join([str(Path(__file__).parents[2]), os.environ.get("PYTHONPATH", "")])
    )
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    world = world_of(upstream, tmp_path)
    logs, requests = [], []
    for kind in ("asyncio", "ray"):
        upstream.requests.clear()
        with world.log(kind) as log:
            await world.meditate(log, msgspec.structs.replace(world.settings, fan_out=kind))
            logs.append([msgspec.structs.replace(event, at=0.0) for _, event in log.events()])
        requests.append(sorted(msgspec.json.encode(request.json, order="sorted") for request in upstream.requests))
    assert logs[0] == logs[1]
    assert requests[0] == requests[1]
