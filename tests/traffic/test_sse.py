"""Streamed answers put together: what upstreams really send, and any way of cutting it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from traffic.sse import ChatAssembly, answer_object, answer_text, assemble, events


def event(payload: Any, end: str = "\n") -> bytes:
    return f"data: {json.dumps(payload, ensure_ascii=False)}{end}{end}".encode()


def chunk(*choices: dict[str, Any], **top: Any) -> dict[str, Any]:
    return {
        "id": "chatcmpl-1", "object": "chat.completion.chunk", "created": 1, "model": "m",
        "choices": list(choices), **top,
    }  # fmt: skip


def delta(index: int = 0, finish: str | None = None, logprobs: Any = None, **fields: Any) -> dict[str, Any]:
    return {"index": index, "delta": fields, "finish_reason": finish, "logprobs": logprobs}


def stream(*payloads: Any, end: str = "\n") -> bytes:
    return b"".join(event(payload, end) for payload in payloads) + f"data: [DONE]{end}{end}".encode()


HELLO = (
    chunk(delta(role="assistant", content="")),
    chunk(delta(content="Grüße")),
    chunk(delta(content=", 世界")),
    chunk(delta(finish="stop")),
    chunk(usage={"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5}),
)


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"])
def test_text_finish_reason_and_usage(end: str) -> None:
    assert assemble(stream(*HELLO, end=end)) == {
        "id": "chatcmpl-1",
        "object": "chat.completion",
        "created": 1,
        "model": "m",
        "choices": [
            {
                "index": 0,
                "finish_reason": "stop",
                "logprobs": None,
                "message": {"role": "assistant", "content": "Grüße, 世界"},
            }
        ],
        "usage": {"prompt_tokens": 3, "completion_tokens": 2, "total_tokens": 5},
    }


def test_tool_calls_are_joined_by_their_index() -> None:
    def call(index: int, **fields: Any) -> dict[str, Any]:
        return delta(tool_calls=[{"index": index, **fields}])

    whole = assemble(
        stream(
            chunk(call(0, id="call_a", type="function", function={"name": "add", "arguments": ""})),
            chunk(call(0, function={"arguments": '{"a":'})),
            chunk(call(1, id="call_b", type="function", function={"name": "sub", "arguments": "{}"})),
            chunk(call(0, id="call_a", type="function", function={"name": "add", "arguments": " 1}"})),
            chunk(delta(finish="tool_calls")),
        )
    )
    assert whole is not None
    (choice,) = whole["choices"]
    assert choice["finish_reason"] == "tool_calls"
    assert choice["message"] == {
        "role": "assistant",
        "content": None,
        "tool_calls": [
            {"id": "call_a", "type": "function", "function": {"name": "add", "arguments": '{"a": 1}'}},
            {"id": "call_b", "type": "function", "function": {"name": "sub", "arguments": "{}"}},
        ],
    }


def test_several_choices_come_apart_and_logprobs_are_kept() -> None:
    def token(text: str) -> dict[str, Any]:
        return {"content": [{"token": text, "logprob": -0.5, "bytes": None, "top_logprobs": []}], "refusal": None}

    whole = assemble(
        stream(
            chunk(delta(1, content="B1", logprobs=token("B1"))),
            chunk(delta(0, content="A1", logprobs=token("A1")), delta(1, content="B2", logprobs=token("B2"))),
            chunk(delta(0, finish="stop"), delta(1, finish="length")),
        )
    )
    assert whole is not None
    assert [(c["message"]["content"], c["finish_reason"]) for c in whole["choices"]] == [
        ("A1", "stop"),
        ("B1B2", "length"),
    ]
    assert [entry["token"] for entry in whole["choices"][1]["logprobs"]["content"]] == ["B1", "B2"]


def test_reasoning_refusals_and_unknown_fields_are_kept() -> None:
    whole = assemble(
        stream(
            chunk(delta(reasoning_content="first ", novelty={"x": "a"}), system_fingerprint="fp", service_tier=None),
            chunk(delta(reasoning_content="second", novelty={"x": "b", "y": 1}), service_tier="flex"),
            chunk(delta(refusal="no"), citations=["u"]),
        )
    )
    assert whole is not None
    assert whole["choices"][0]["message"] == {
        "role": "assistant", "content": None, "reasoning_content": "first second", "novelty": {"x": "ab", "y": 1},
        "refusal": "no",
    }  # fmt: skip
    assert (whole["system_fingerprint"], whole["service_tier"], whole["citations"]) == ("fp", "flex", ["u"])


def test_comments_other_fields_and_garbage_are_passed_over() -> None:
    raw = (
        b"\xef\xbb\xbf: keep-alive\n\nevent: message\nid: 7\nretry: 10\n"
        + event(HELLO[1])
        + b"data: not json\n\ndata: \xff\xfe\n\ndata: 17\n\ndatax: {}\n\ndata: {\ndata: \"extra\": \"n\"}\n\n"
        + b"data: " + b"[" * 100_000 + b"\n\n"
        + event(HELLO[2])
    )  # fmt: skip
    whole = assemble(raw)
    assert whole is not None
    assert whole["extra"] == "n"
    assert whole["choices"][0]["message"]["content"] == "Grüße, 世界"


def test_an_error_event_is_kept_and_the_text_before_it_too() -> None:
    assembly = ChatAssembly()
    error = {"message": "overloaded", "type": "api_error", "param": None, "code": None}
    for data in events([event(HELLO[1]), event({"error": error})]):
        assembly.take(data)
    whole = assembly.completion()
    assert assembly.error == error
    assert assembly.done is False
    assert whole is not None
    assert "error" not in whole
    assert whole["choices"][0]["message"]["content"] == "Grüße"
    assert whole["choices"][0]["finish_reason"] is None


def test_an_answer_that_breaks_off_in_the_middle_of_an_event_keeps_what_came_whole() -> None:
    assert answer_text(event(HELLO[1]) + event(HELLO[2])[:-20], stream=True) == "Grüße"
    assert answer_text(event(HELLO[1]) + event(HELLO[2]).rstrip(), stream=True) == "Grüße, 世界"


def test_a_stream_without_an_answer_is_none() -> None:
    assert assemble(b"") is None
    assert assemble(b": ping\n\ndata: [DONE]\n\n") is None
    assert answer_text(event({"error": {"message": "x"}}), stream=True) is None


@pytest.mark.parametrize(
    ("body", "text"),
    [
        ({"choices": [{"message": {"role": "assistant", "content": "yes"}}]}, "yes"),
        ({"choices": [{"text": "completed"}]}, "completed"),
        ({"choices": [{"message": {"content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]}}]}, "ab"),
        ({"choices": [{"message": {"content": ""}}]}, ""),
        ({"choices": [{"message": {"content": None, "tool_calls": [{}]}}]}, None),
        ({"choices": []}, None),
        ({"error": {"message": "x"}}, None),
        ([1, 2], None),
    ],
)
def test_the_text_of_a_whole_answer(body: Any, text: str | None) -> None:
    assert answer_text(json.dumps(body).encode(), stream=False) == text


def test_an_answer_that_is_not_json_has_no_text() -> None:
    assert answer_text(b"<html>bad gateway</html>", stream=False) is None
    assert answer_text(b"", stream=False) is None


def test_a_whole_answer_to_a_streamed_request_is_read_as_it_is() -> None:
    body = {"choices": [{"message": {"content": "whole"}}]}
    assert answer_object(json.dumps(body).encode(), stream=True) == body


def test_streamed_text_completions_are_joined() -> None:
    raw = stream(
        {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "one ", "finish_reason": None}]},
        {"id": "c", "object": "text_completion", "choices": [{"index": 0, "text": "two", "finish_reason": "stop"}]},
    )
    assert assemble(raw) == {
        "id": "c",
        "object": "text_completion",
        "choices": [{"index": 0, "text": "one two", "finish_reason": "stop"}],
    }
    assert answer_text(raw, stream=True) == "one two"


def cut(raw: bytes, places: Sequence[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(raw) + 1) for place in places), len(raw)]
    return [raw[start:end] for start, end in pairwise(edges)]


lines = st.sampled_from(
    [
        event(HELLO[1]).strip(), b"data:x", b"data", b"", b"", b": c", b"event: e", b"data: [DONE]",
        b"\xef\xbb\xbfdata: y",
    ]
)  # fmt: skip
endings = st.sampled_from([b"\n", b"\r\n", b"\r"])
streams = st.lists(st.tuples(lines, endings), max_size=12).map(lambda rows: b"".join(a + b for a, b in rows))


@given(raw=streams | st.binary(max_size=60), places=st.lists(st.integers(0, 400), max_size=12))
def test_any_cutting_into_chunks_gives_the_same_events(raw: bytes, places: list[int]) -> None:
    assert list(events(cut(raw, places))) == list(events([raw]))


@given(pieces=st.lists(st.text(max_size=5), max_size=8), end=endings)
def test_the_pieces_of_a_text_add_up(pieces: list[str], end: bytes) -> None:
    raw = stream(*(chunk(delta(content=piece)) for piece in ["", *pieces]), end=end.decode())
    assert answer_text(raw, stream=True) == "".join(pieces)
