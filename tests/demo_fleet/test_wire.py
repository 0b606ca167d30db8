"""Requests in, responses out: the shapes of the light server, without a model."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.fleet.wire import ApiError, Token, Writer, parse_chat, parse_text, sampling_of, text_logprobs


def chat(**fields: object) -> bytes:
    return json.dumps({"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}).encode()


@pytest.mark.parametrize(
    ("body", "hint"),
    [
        (b"{", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[]", "expected shape"),
        (b'{"messages": []}', "model"),
        (chat(messages=[]), "at least one message"),
        (chat(messages="hi"), "messages"),
        (chat(messages=[{"content": "hi"}]), "role"),
        (chat(messages=[{"role": "user", "content": 5}]), "content"),
        (chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]), "only read text"),
        (chat(tools=[{"type": "function"}]), "tools"),
        (chat(response_format={"type": "json_object"}), "response_format"),
        (chat(top_logprobs=2), "logprobs: true"),
        (chat(max_tokens="many"), "max_tokens"),
    ],
)
def test_wrong_chat_requests_are_refused_with_the_reason(body: bytes, hint: str) -> None:
    with pytest.raises(ApiError) as refused:
        parse_chat(body)
    assert refused.value.status == 400
    assert hint in refused.value.message
    assert set(refused.value.body()["error"]) == {"message", "type", "param", "code"}


@pytest.mark.parametrize(
    ("field", "value"),
    [("temperature", 2.5), ("temperature", -1), ("top_p", 1.5), ("n", 0), ("n", 99), ("max_tokens", 0)],
)
def test_values_out_of_range_are_refused(field: str, value: float) -> None:
    request = parse_chat(chat(**{field: value}))
    with pytest.raises(ApiError, match=field):
        sampling_of(request, 10, 100)


def test_the_context_window_counts_prompt_and_reply() -> None:
    assert sampling_of(parse_chat(chat(max_tokens=20)), 80, 100).max_tokens == 20
    assert sampling_of(parse_chat(chat()), 80, 100).max_tokens == 20
    for fields, prompt in (({"max_tokens": 21}, 80), ({}, 100), ({"max_completion_tokens": 50}, 51)):
        with pytest.raises(ApiError) as refused:
            sampling_of(parse_chat(chat(**fields)), prompt, 100)
        assert (refused.value.status, refused.value.code) == (400, "context_length_exceeded")


def test_fields_become_sampling_settings() -> None:
    body = chat(stop="x", temperature=0.5, seed=3, logprobs=True, top_logprobs=4, max_tokens=9, max_completion_tokens=7)
    sampling = sampling_of(parse_chat(body), 5, 100)
    assert sampling.stop == ("x",)
    assert (sampling.temperature, sampling.seed, sampling.top_logprobs, sampling.max_tokens) == (0.5, 3, 4, 7)
    assert sampling_of(parse_chat(chat()), 5, 100).temperature == 0.0
    assert sampling_of(parse_chat(chat()), 5, 100).top_logprobs is None
    text = parse_text(b'{"model": "m", "prompt": [1, 2], "logprobs": 0}')
    assert sampling_of(text, 2, 100).top_logprobs == 0


def test_unsupported_completions_fields_are_refused() -> None:
    for body in (b'{"model": "m", "prompt": ""}', b'{"model": "m", "prompt": "a", "echo": true}'):
        with pytest.raises(ApiError):
            parse_text(body)


@given(st.lists(st.text(max_size=4), max_size=8), st.integers(0, 50))
def test_text_offsets_point_at_the_tokens(texts: list[str], offset: int) -> None:
    tokens = [Token(text, -0.5, ((text, -0.5),)) for text in texts]
    whole = "." * offset + "".join(texts)
    shown = text_logprobs(tokens, offset)
    for text, start in zip(shown["tokens"], shown["text_offset"], strict=True):
        assert whole[start : start + len(text)] == text


def test_all_chunks_of_a_request_share_their_head() -> None:
    writer = Writer("chat", "m")
    first = writer.chunk([writer.delta(0, "a", None, None, 0, True)])
    last = writer.chunk([writer.delta(0, "", "stop", None, 1, False)])
    assert first["id"] == last["id"]
    assert first["choices"][0]["delta"] == {"role": "assistant", "content": "a"}
    assert last["choices"][0]["delta"] == {}
