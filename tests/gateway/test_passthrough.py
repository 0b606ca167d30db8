"""Does everything that is not ours to read pass byte for byte, in both directions?"""

from __future__ import annotations

import itertools

import httpx
import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.gateway.live import Fleet, Gateway, configured, payloads
from tests.upstream import ScriptedUpstream, answer, fixed, raw_stream, tool_call
from tests.upstream.answers import DONE, chat_events

ODD_FIELDS = {
    "messages": rb'[ {"role":"user","content":"caf\u00e9 \ud83d\ude00 \/ \u0000"} ,{"role":"assistant","content":null,'
    rb'"tool_calls":[{"id":"c1","type":"function","function":{"name":"f","arguments":"{\"x\": 1.0}"}}]},'
    rb'{"role":"tool","tool_call_id":"c1","content":"ok"},{"role":"user","content":[{"type":"text","text":"go on"}]}]',
    "temperature": b"1.0e0",
    "top_p": b"0.10",
    "seed": b"123456789012345678901234567890",
    "logit_bias": b'{"50256": -100.00}',
    "tools": rb'[{"type":"function","function":{"name":"f","strict":true,"parameters":{"type":"object","$defs":{}}}}]',
    "tool_choice": b'{"type":"function","function":{"name":"f"}}',
    "parallel_tool_calls": b"false",
    "response_format": b'{"type":"json_schema","json_schema":{"name":"x","strict":true,"schema":{"const":1E+2}}}',
    "logprobs": b"true",
    "top_logprobs": b"5",
    "n": b"2",
    "stop": b'["\\n\\n", "END"]',
    "metadata": b'{"a" : "b"}',
    "guided_regex": rb'"[a-z]+\\d{3}"',
    "chat_template_kwargs": b'{"enable_thinking": false}',
    "min_p": b"-0.0",
    "repetition_penalty": b"1.1000000000000000888",
    "reasoning_effort": b'"high"',
    "a_field_of_tomorrow": b'{"deep":[[[{"er":[1,2.50,null,true]}]]],"big":1e400}',
    "\\u00e9t\\u00e9": b'"an escaped key"',
}

ODD_ANSWER = (
    rb'{"id":"chatcmpl-odd","object":"chat.completion","created":1.7e9, "model":"x","choices":[{"index":0,'
    rb'"message":{"role":"assistant","content":"\u00e9 \/ \ud83d\ude00","refusal":null,"reasoning_content":"hm"},'
    rb'"logprobs":{"content":[{"token":"\u00e9","logprob":-0.10000000000000001,"bytes":[195,169],"top_logprobs":[]}]},'
    rb'"finish_reason":"stop","stop_reason":null}],"usage":{"prompt_tokens":3,"completion_tokens":2,"total_tokens":5,'
    rb'"odd":1E2},"huge":123456789012345678901234567890,"tomorrow":{"x":[1.0,2.50]}, "kv_transfer_params":null }'
    + b"\n"
)

ODD_STREAM = (
    b": a comment first\n\n",
    b'data: {"id":"c","object":"chat.completion.chunk","choices":[{"index":0,"delta":{"role":"assistant"}}]}\n\n',
    b'data: {"id":"c","choices":[{"index":0,"delta":{"content":"\\u00e9 \\ud83d\\ude00"}}],"n":1.50}\r\n\r\n',
    b"event: message\nid: 7\nretry: 10\n"
    b'data: {"id":"c","choices":[{"index":0,"delta":{"reasoning_content":"\xf0\x9f\x98\x80"}}],"big":1e400}\n\n',
    b": keep-alive\n\n",
    b'data: {"id":"c","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],"usage":null}\n\n',
    b"data: [DONE]\n\n",
)


def body_of(fields: dict[str, bytes], model: str) -> bytes:
    pairs = [b'"model":"%b"' % model.encode(), *(b'"%b": %b' % (k.encode(), v) for k, v in fields.items())]
    return b"{" + b",\n ".join(pairs) + b"}"


def raw_fields(body: bytes) -> dict[str, bytes]:
    """Each top-level field with the bytes of its value."""
    return {name: bytes(raw) for name, raw in msgspec.json.decode(body, type=dict[str, msgspec.Raw]).items()}


def test_a_pinned_model_gets_the_very_bytes_that_came(abc: Fleet) -> None:
    body = body_of(ODD_FIELDS, "alpha")
    assert abc.post("/v1/chat/completions", body).status_code == 200
    assert abc["alpha"].last.body == body


@pytest.mark.parametrize("stream", [False, True])
def test_through_auto_every_other_field_keeps_its_bytes_and_its_place(abc: Fleet, stream: bool) -> None:
    fields = {**ODD_FIELDS, **({"stream": b"true"} if stream else {})}
    sent = body_of({**fields, "routing": b'{"models":["beta"]}'}, "auto")
    assert abc.post("/v1/chat/completions", sent).status_code == 200
    expected, got = raw_fields(body_of(fields, "beta")), raw_fields(abc["beta"].last.body)
    injected = got.pop("stream_options", None)
    assert got == expected
    assert list(got) == list(expected)
    assert (injected is not None) is stream


def test_existing_stream_options_are_kept_when_usage_is_asked_for(abc: Fleet) -> None:
    abc.chat("alpha", stream=True, stream_options={"include_obfuscation": False, "tomorrow": [1]})
    assert abc["alpha"].last.json["stream_options"] == {
        "include_obfuscation": False, "tomorrow": [1], "include_usage": True,
    }  # fmt: skip


def test_a_stream_that_asks_for_usage_is_passed_on_as_it_came(abc: Fleet) -> None:
    fields = {**ODD_FIELDS, "stream": b"true", "stream_options": b'{"include_usage": true}'}
    body = body_of(fields, "alpha")
    abc.post("/v1/chat/completions", body)
    assert abc["alpha"].last.body == body


@pytest.mark.parametrize("model", ["alpha", "auto"])
def test_an_answer_comes_back_byte_for_byte(abc: Fleet, model: str) -> None:
    for upstream in abc.upstreams.values():
        upstream.default = fixed(200, ODD_ANSWER)
    assert abc.chat(model).content == ODD_ANSWER


@pytest.mark.parametrize("model", ["alpha", "auto"])
def test_a_stream_comes_back_byte_for_byte(abc: Fleet, model: str) -> None:
    for upstream in abc.upstreams.values():
        upstream.default = raw_stream(*ODD_STREAM)
    assert abc.chat(model, stream=True).content == b"".join(ODD_STREAM)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cuts=st.sets(st.integers(1, len(b"".join(ODD_STREAM)) - 1), max_size=12), asked=st.booleans())
def test_a_stream_comes_back_byte_for_byte_however_the_network_cuts_it(abc: Fleet, cuts: set[int], asked: bool) -> None:
    whole = b"".join(ODD_STREAM)
    edges = [0, *sorted(cuts), len(whole)]
    pieces = [whole[a:b] for a, b in itertools.pairwise(edges)]
    abc["alpha"].script(raw_stream(*pieces))
    response = abc.chat("alpha", stream=True, stream_options={"include_usage": asked})
    assert response.content == whole


def test_an_explained_answer_keeps_the_bytes_of_all_other_fields(abc: Fleet) -> None:
    abc["beta"].script(fixed(200, ODD_ANSWER))
    body = abc.chat(routing={"explain": True, "models": ["beta"]}).content
    fields = raw_fields(body)
    fields.pop("route")
    assert fields == raw_fields(ODD_ANSWER)


def test_tool_calls_and_tool_choice_reach_the_client(abc: Fleet) -> None:
    calls = (tool_call("get_weather", '{"city": "Z\\u00fcrich", "days": 3.0}'), tool_call("now", "{}", "call_2"))
    abc["alpha"].script(answer(tool_calls=calls), answer(tool_calls=calls))
    said = abc.chat("alpha").json()["choices"][0]
    assert said["message"]["tool_calls"] == list(calls)
    assert said["finish_reason"] == "tool_calls"
    events = payloads(abc.chat("alpha", stream=True))
    parts = [
        call for event in events[:-1] for choice in event["choices"] for call in choice["delta"].get("tool_calls", ())
    ]
    arguments = "".join(part["function"]["arguments"] for part in parts if part["index"] == 0)
    assert arguments == calls[0]["function"]["arguments"]


def test_several_choices_reach_the_client(abc: Fleet) -> None:
    abc["alpha"].script(answer("x", n=3))
    assert [choice["index"] for choice in abc.chat("alpha", n=3).json()["choices"]] == [0, 1, 2]


def test_the_model_may_have_another_name_at_its_endpoint(tmp_path_factory: pytest.TempPathFactory) -> None:
    with ScriptedUpstream() as upstream:
        models = {"ours": {"endpoints": [{"upstream": "up", "model": "vendor/theirs-v2"}]}}
        config = configured(tmp_path_factory.mktemp("named"), {"up": upstream.url}, models)
        with Gateway(config) as gateway:
            body = body_of(ODD_FIELDS, "ours")
            assert httpx.post(f"{gateway.url}/chat/completions", content=body).status_code == 200
            got = raw_fields(upstream.last.body)
            assert got == {**raw_fields(body), "model": b'"vendor/theirs-v2"'}


def test_a_long_stream_is_not_changed(abc: Fleet) -> None:
    events = [*chat_events([f"piece {i} " for i in range(3000)]), DONE]
    abc["alpha"].script(raw_stream(*events))
    assert abc.chat("alpha", stream=True).content == b"".join(events)
