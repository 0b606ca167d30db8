"""Many requests at once, large answers and slow readers: is every byte right and nothing left behind?"""

from __future__ import annotations

import asyncio
from typing import Any

import httpx
import openai

from tests.gateway.live import HI, Fleet, until
from tests.upstream import Received, answer, fixed, paced, raw_stream
from tests.upstream.answers import DONE, Answer, chat_events
from tests.upstream.script import Steps


def echo(request: Received) -> Steps:
    """Says what it was asked, a word at a time."""
    words = str(request.json["messages"][-1]["content"]).split(" ")
    return Answer(tuple(f"{word} " for word in words)).steps(request)


async def test_many_at_once_each_get_their_own_answer(abc: Fleet) -> None:
    for upstream in abc.upstreams.values():
        upstream.default = paced(echo, 0.001)
    async with openai.AsyncOpenAI(base_url=abc.gateway.url, api_key="any", max_retries=0, timeout=60) as client:

        async def ask(number: int) -> bool:
            question = f"question {number} of many " * 3
            model = ("auto", "alpha", "auto:best", "beta")[number % 4]
            messages: Any = [{"role": "user", "content": question.strip()}]
            if number % 2:
                stream: Any = await client.chat.completions.create(model=model, messages=messages, stream=True)
                text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
            else:
                done = await client.chat.completions.create(model=model, messages=messages)
                text = done.choices[0].message.content or ""
            return text.strip() == question.strip()

        assert all(await asyncio.gather(*(ask(number) for number in range(100))))
    until(lambda: len(abc.gateway.interactions()) == 100, "a record for each")
    assert {record.outcome for record in abc.gateway.interactions()} == {"ok"}
    assert "tokamak_requests_running 0" in abc.http.get("/metrics").text


def test_a_large_answer(abc: Fleet) -> None:
    body = b'{"id":"large","choices":[{"message":{"content":"' + b"x" * 20_000_000 + b'"}}]}'
    abc["alpha"].script(fixed(200, body))
    assert abc.chat("alpha").content == body


def test_a_large_event(abc: Fleet) -> None:
    event = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"' + b"x" * 5_000_000 + b'"}}]}\n\n'
    pieces = [event[start : start + 100_000] for start in range(0, len(event), 100_000)]
    first, *_, last = chat_events()
    abc["alpha"].script(raw_stream(first, *pieces, last, DONE))
    assert abc.chat("alpha", stream=True).content == first + event + last + DONE


async def test_a_slow_reader_gets_every_byte(abc: Fleet) -> None:
    events = [*chat_events(["x" * 10_000] * 500), DONE]
    abc["alpha"].script(raw_stream(*events))
    body = {"model": "alpha", "messages": HI, "stream": True}
    seen = b""
    async with (
        httpx.AsyncClient(base_url=abc.gateway.root, timeout=60) as client,
        client.stream("POST", "/v1/chat/completions", json=body) as response,
    ):
        async for piece in response.aiter_raw(chunk_size=500_000):
            seen += piece
            await asyncio.sleep(0.02)
    assert seen == b"".join(events)


def test_connections_to_an_upstream_are_reused(abc: Fleet) -> None:
    abc["alpha"].default = answer("x")
    for stream in (False, True) * 5:
        abc.chat("alpha", stream=stream)
    assert len({request.connection for request in abc["alpha"].requests}) == 1
