"""Can the official client chat through the gateway, streamed or not, with `auto`, its presets and concrete models?"""

from __future__ import annotations

import openai
import pytest

from tests.gateway.live import HI, Fleet, payloads, streamed_text
from tests.upstream import answer


@pytest.mark.parametrize("model", ["auto", "auto:cheap", "auto:balanced", "auto:best", "alpha", "beta", "gamma"])
def test_a_chat_answer(abc: Fleet, model: str) -> None:
    completion = abc.client.chat.completions.create(model=model, messages=HI)
    assert completion.choices[0].message.content == "Hello there."
    assert completion.choices[0].finish_reason == "stop"
    assert completion.usage is not None
    assert completion.usage.total_tokens == 18
    assert abc.called() == [completion.model]


@pytest.mark.parametrize("model", ["auto", "auto:best", "beta"])
def test_a_streamed_chat_answer(abc: Fleet, model: str) -> None:
    with abc.client.chat.completions.create(model=model, messages=HI, stream=True) as stream:
        chunks = list(stream)
    assert "".join(chunk.choices[0].delta.content or "" for chunk in chunks) == "Hello there."
    assert chunks[-1].choices[0].finish_reason == "stop"
    assert len(abc.called()) == 1


async def test_the_asynchronous_client(abc: Fleet) -> None:
    async with openai.AsyncOpenAI(base_url=abc.gateway.url, api_key="any", max_retries=0) as client:
        completion = await client.chat.completions.create(model="auto", messages=HI)
        assert completion.choices[0].message.content == "Hello there."
        stream = await client.chat.completions.create(model="auto", messages=HI, stream=True)
        text = "".join([chunk.choices[0].delta.content or "" async for chunk in stream])
    assert text == "Hello there."


async def test_the_clients_stream_helper_collects_the_final_completion(abc: Fleet) -> None:
    async with (
        openai.AsyncOpenAI(base_url=abc.gateway.url, api_key="any", max_retries=0) as client,
        client.chat.completions.stream(model="auto", messages=HI, stream_options={"include_usage": True}) as stream,
    ):
        final = await stream.get_final_completion()
    assert final.choices[0].message.content == "Hello there."
    assert final.usage is not None
    assert final.usage.completion_tokens == 7


def test_the_model_of_the_answer_is_what_the_upstream_sent(abc: Fleet) -> None:
    abc["beta"].script(answer("x", model="beta-2026-11-01"))
    assert abc.chat("beta").json()["model"] == "beta-2026-11-01"


@pytest.mark.parametrize("stream", [False, True])
def test_the_headers_name_the_request_and_the_decision(abc: Fleet, stream: bool) -> None:
    response = abc.chat("auto:best", stream=stream)
    ours = {name: value for name, value in response.headers.items() if name.startswith("x-tokamak-")}
    assert len(ours) <= 10
    assert response.headers["x-request-id"]
    assert ours["x-tokamak-schema"] == "1"
    assert ours["x-tokamak-model"] == "gamma"
    assert ours["x-tokamak-route"] == "single"
    assert ours["x-tokamak-attempts"] == "1"
    assert "@" in ours["x-tokamak-router"]
    assert float(ours["x-tokamak-overhead-ms"]) > 0
    assert ours["x-tokamak-decision-id"]
    assert ("x-tokamak-cost-usd" in ours) is not stream


def test_a_concrete_model_is_pinned(abc: Fleet) -> None:
    response = abc.chat("alpha")
    assert response.headers["x-tokamak-route"] == "pinned"
    assert "x-tokamak-router" not in response.headers
    assert float(response.headers["x-tokamak-cost-usd"]) == pytest.approx((11 * 0.1 + 7 * 0.4) / 1e6, abs=1e-8)


def test_a_request_id_is_echoed_or_made(abc: Fleet) -> None:
    assert abc.chat(headers={"x-request-id": "mine-17"}).headers["x-request-id"] == "mine-17"
    made = {abc.chat().headers["x-request-id"] for _ in range(3)}
    assert len(made) == 3


def test_headers_of_the_upstream_connection_do_not_reach_the_client(abc: Fleet) -> None:
    stream = abc.chat(stream=True)
    assert stream.headers["content-type"].startswith("text/event-stream")
    assert streamed_text(payloads(stream)) == "Hello there."
    assert payloads(stream)[-1] == "[DONE]"


def test_the_clients_key_does_not_reach_the_upstream(abc: Fleet) -> None:
    abc.chat("alpha", headers={"authorization": "Bearer sk-the-clients-own", "x-tokamak-routing-explain": "true"})
    assert b"sk-the-clients-own" not in abc["alpha"].last.raw
    assert b"x-tokamak" not in abc["alpha"].last.raw.lower()
