"""Does the scripted upstream do what its scripts say? The gateway's tests stand on it."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import openai
import orjson
import pytest

from tests.upstream import (
    Gate,
    ScriptedUpstream,
    Stall,
    answer,
    cut,
    drip,
    error_in_stream,
    failing,
    fixed,
    gated,
    raw_bytes,
    tool_call,
    truncated,
)
from tests.upstream.script import Close, close_before_headers, reset_before_headers, stall_before_headers

ASK = {"model": "m", "messages": [{"role": "user", "content": "hi"}]}
STREAM = {**ASK, "stream": True}


@pytest.fixture
def upstream() -> Iterator[ScriptedUpstream]:
    with ScriptedUpstream() as server:
        yield server


@pytest.fixture
def client(upstream: ScriptedUpstream) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=upstream.url, timeout=5.0) as client:
        yield client


def data_lines(response: httpx.Response) -> list[str]:
    return [line[6:] for line in response.text.split("\n\n") if line]


def test_a_chat_answer_and_what_was_received(upstream: ScriptedUpstream, client: httpx.Client) -> None:
    response = client.post("/chat/completions", content=b'{"model":"m", "messages":[]}', headers={"X-Odd-Case": "Yes"})
    assert response.json()["choices"][0]["message"]["content"] == "Hello there."
    received = upstream.last
    assert received.body == b'{"model":"m", "messages":[]}'
    assert received.raw.endswith(received.body)
    assert ("X-Odd-Case", "Yes") in received.headers
    assert received.path == "/v1/chat/completions"


def test_connections_are_reused(upstream: ScriptedUpstream, client: httpx.Client) -> None:
    for _ in range(3):
        client.post("/chat/completions", json=ASK)
    assert [request.connection for request in upstream.requests] == [1, 1, 1]


def test_a_chunked_request_body_is_put_together(upstream: ScriptedUpstream, client: httpx.Client) -> None:
    client.post("/chat/completions", content=iter([b'{"model":', b'"m"}']))
    assert upstream.last.body == b'{"model":"m"}'
    assert upstream.last.header("transfer-encoding") == "chunked"


@pytest.mark.parametrize(
    ("place", "asked", "usages"),
    [("if_asked", False, 0), ("if_asked", True, 1), ("always", False, 1), ("last_content", False, 1), ("every", 0, 5)],
)
def test_usage_stands_where_the_script_says(
    upstream: ScriptedUpstream, client: httpx.Client, place: str, asked: bool, usages: int
) -> None:
    upstream.script(answer("a", "b", usage_place=place))
    options = {"stream_options": {"include_usage": True}} if asked else {}
    lines = data_lines(client.post("/chat/completions", json={**STREAM, **options}))
    assert lines[-1] == "[DONE]"
    chunks = [orjson.loads(line) for line in lines[:-1]]
    assert sum("usage" in chunk for chunk in chunks) == usages
    assert "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks if c["choices"]) == "ab"


def test_the_official_client_reads_streamed_tool_calls(upstream: ScriptedUpstream) -> None:
    upstream.script(answer(tool_calls=(tool_call("f", '{"x": 12345}'), tool_call("g", "{}", "call_2"))))
    client = openai.OpenAI(base_url=upstream.url, api_key="k", max_retries=0)
    arguments: dict[int, str] = {}
    for part in client.chat.completions.create(model="m", messages=[], stream=True):
        for call in part.choices[0].delta.tool_calls or []:
            assert call.function is not None
            arguments[call.index] = arguments.get(call.index, "") + (call.function.arguments or "")
    assert arguments == {0: '{"x": 12345}', 1: "{}"}


def test_completions_embeddings_and_models(upstream: ScriptedUpstream) -> None:
    client = openai.OpenAI(base_url=upstream.url, api_key="k", max_retries=0)
    assert client.completions.create(model="m", prompt="x").choices[0].text == "Hello there."
    assert len(client.embeddings.create(model="m", input=["a", "b"], encoding_format="float").data) == 2
    assert [model.id for model in client.models.list()] == ["m"]
    assert len(upstream.requests) == 2
    assert len(upstream.probes) == 1


@pytest.mark.parametrize("script", [reset_before_headers, close_before_headers, raw_bytes(b"not http at all\r\n\r\n")])
def test_no_answer_at_all(upstream: ScriptedUpstream, client: httpx.Client, script: object) -> None:
    upstream.script(script)  # type: ignore[arg-type]
    with pytest.raises(httpx.TransportError):
        client.post("/chat/completions", json=ASK)


def test_a_stalled_request_notes_when_the_client_left(upstream: ScriptedUpstream, client: httpx.Client) -> None:
    upstream.script(stall_before_headers)
    with pytest.raises(httpx.ReadTimeout):
        client.post("/chat/completions", json=ASK, timeout=0.1)
    assert upstream.last.client_closed()
    assert upstream.last.client_closed_at is not None
    assert upstream.last.client_closed_at >= upstream.last.at


@pytest.mark.parametrize("fault", [None, Close(), Stall()])
@pytest.mark.parametrize("events", [0, 1, 3])
def test_a_stream_is_cut_after_exactly_so_many_events(
    upstream: ScriptedUpstream, client: httpx.Client, events: int, fault: Close | Stall | None
) -> None:
    upstream.script(cut(answer("a", "b", "c"), events, fault))
    seen = b""

    def read() -> None:
        nonlocal seen
        with client.stream("POST", "/chat/completions", json=STREAM, timeout=0.3) as response:
            for piece in response.iter_raw():
                seen += piece

    with pytest.raises(httpx.TransportError):
        read()
    assert seen.count(b"data: ") == events


def test_a_truncated_body(upstream: ScriptedUpstream, client: httpx.Client) -> None:
    upstream.script(truncated(answer("a long enough answer")))
    with pytest.raises(httpx.RemoteProtocolError):
        client.post("/chat/completions", json=ASK)


def test_a_dripping_stream_is_the_same_stream(upstream: ScriptedUpstream, client: httpx.Client) -> None:
    upstream.script(answer("a", "b"), drip(answer("a", "b")))
    whole, dripped = (client.post("/chat/completions", json=STREAM).content for _ in range(2))
    assert whole == dripped


def test_a_gate_holds_the_stream_until_the_test_opens_it(upstream: ScriptedUpstream, client: httpx.Client) -> None:
    gate = Gate()
    upstream.script(gated(answer("a", "b"), gate, after=2))
    seen = b""
    with client.stream("POST", "/chat/completions", json=STREAM) as response:
        for piece in response.iter_raw():
            seen += piece
            if seen.count(b"data: ") == 2:
                assert b"DONE" not in seen
                gate.open()
    assert seen.endswith(b"data: [DONE]\n\n")


def test_errors_and_headers(upstream: ScriptedUpstream, client: httpx.Client) -> None:
    upstream.script(failing(429, code="rate_limit_exceeded", retry_after="7"), fixed(200, b"<html>"), error_in_stream())
    first, second, third = (client.post("/chat/completions", json=STREAM) for _ in range(3))
    assert (first.status_code, first.headers["retry-after"]) == (429, "7")
    assert set(first.json()["error"]) == {"message", "type", "param", "code"}
    assert second.content == b"<html>"
    assert "error" in orjson.loads(data_lines(third)[0])


def test_refusing_and_listening_again(upstream: ScriptedUpstream) -> None:
    url = upstream.url + "/chat/completions"
    upstream.refuse()
    with pytest.raises(httpx.ConnectError):
        httpx.post(url, json=ASK)
    upstream.listen()
    assert httpx.post(url, json=ASK).status_code == 200


def test_scripts_queue_before_models_before_the_default(upstream: ScriptedUpstream, client: httpx.Client) -> None:
    upstream.for_model("m", answer("by model"))
    upstream.script(answer("queued"))
    texts = [
        client.post("/chat/completions", json={**ASK, "model": model}).json()["choices"][0]["message"]["content"]
        for model in ("m", "m", "other")
    ]
    assert texts == ["queued", "by model", "Hello there."]
