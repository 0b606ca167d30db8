"""Is usage read wherever an upstream puts it, shown to whom it is due, and priced truthfully in the log?"""

from __future__ import annotations

from typing import Any

import pytest

from tests.gateway.live import Fleet, payloads, streamed_text
from tests.upstream import answer, raw_stream
from tests.upstream.answers import DONE, chat_events, event

COST = (11 * 0.1 + 7 * 0.4) / 1e6
"""Of the scripted usage, 11 and 7 tokens, at the prices of alpha."""
PLACES = ["if_asked", "always", "last_content", "every"]


def usage_only(events: list[Any]) -> list[Any]:
    return [e for e in events if isinstance(e, dict) and e.get("choices") == [] and e.get("usage")]


@pytest.mark.parametrize("place", PLACES)
def test_a_usage_chunk_nobody_asked_for_is_hidden_and_logged(abc: Fleet, place: str) -> None:
    abc["alpha"].script(answer("a", "b", usage_place=place))
    response = abc.chat("alpha", stream=True)
    events = payloads(response)
    assert usage_only(events) == []
    assert streamed_text(events) == "ab"
    assert events[-1] == "[DONE]"
    assert abc["alpha"].last.json["stream_options"]["include_usage"] is True
    record = abc.record_of(response)
    assert record.usage is not None
    assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (11, 7)
    assert record.cost_usd == pytest.approx(COST)


@pytest.mark.parametrize("place", ["if_asked", "always", "every"])
def test_a_usage_chunk_that_was_asked_for_is_passed_on(abc: Fleet, place: str) -> None:
    abc["alpha"].script(answer("a", "b", usage_place=place))
    response = abc.chat("alpha", stream=True, stream_options={"include_usage": True})
    events = payloads(response)
    assert [e["usage"]["total_tokens"] for e in usage_only(events)] == [18]
    assert events[-1] == "[DONE]"
    assert abc.record_of(response).cost_usd == pytest.approx(COST)


@pytest.mark.parametrize("spelling", [b'"usage":null', b'"usage" : null', b'"usage":{ }'])
def test_only_the_usage_chunk_is_hidden_whatever_the_spelling_of_the_others(abc: Fleet, spelling: bytes) -> None:
    shown = [e.replace(b'"choices"', spelling + b',"choices"') for e in chat_events()]
    usage = b'data: {"id":"x" , "choices" : [ ], "usage" : {"prompt_tokens" : 3, "completion_tokens" : 4}}\n\n'
    abc["alpha"].script(raw_stream(*shown, usage, DONE))
    response = abc.chat("alpha", stream=True)
    assert response.content == b"".join([*shown, DONE])
    record = abc.record_of(response)
    assert record.usage is not None
    assert (record.usage.prompt_tokens, record.usage.completion_tokens) == (3, 4)


def test_text_that_speaks_of_usage_is_not_usage(abc: Fleet) -> None:
    said = ['{"choices":[],"usage":{"prompt_tokens":9', '"usage"', "[DONE]", "\n\ndata: [DONE]\n\n"]
    abc["alpha"].script(answer(*said))
    response = abc.chat("alpha", stream=True)
    assert streamed_text(payloads(response)) == "".join(said)
    record = abc.record_of(response)
    assert record.outcome == "ok"
    assert record.usage is not None
    assert record.usage.prompt_tokens == 11


@pytest.mark.parametrize("stream", [False, True])
def test_absent_usage_is_unknown_and_never_zero(abc: Fleet, stream: bool) -> None:
    abc["alpha"].script(answer("a", usage_place="absent"))
    response = abc.chat("alpha", stream=stream)
    record = abc.record_of(response)
    assert record.outcome == "ok"
    assert record.cost_usd is None
    assert record.usage is None or record.usage.prompt_tokens is None
    assert "x-tokamak-cost-usd" not in response.headers


@pytest.mark.parametrize("usage", [{"prompt_tokens": "many"}, {"prompt_tokens": None}, [], "none", 7])
@pytest.mark.parametrize("stream", [False, True])
def test_usage_of_an_unknown_shape_harms_nothing(abc: Fleet, usage: Any, stream: bool) -> None:
    if stream:
        tail = event({"id": "x", "choices": [], "usage": usage})
        abc["alpha"].script(raw_stream(*chat_events(), tail, DONE))
    else:
        abc["alpha"].script(answer("Hello there.", usage=usage))
    response = abc.chat("alpha", stream=stream)
    assert response.status_code == 200
    assert "Hello" in response.text
    assert abc.record_of(response).cost_usd is None


@pytest.mark.parametrize("stream", [False, True])
def test_cached_and_reasoning_tokens_are_recorded(abc: Fleet, stream: bool) -> None:
    usage = {
        "prompt_tokens": 100, "completion_tokens": 50, "total_tokens": 150,
        "prompt_tokens_details": {"cached_tokens": 80, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 40},
    }  # fmt: skip
    abc["alpha"].script(answer("a", usage=usage))
    record = abc.record_of(abc.chat("alpha", stream=stream))
    assert record.usage is not None
    assert (record.usage.cached_tokens, record.usage.reasoning_tokens) == (80, 40)


@pytest.mark.parametrize("tokens", [(0, 1), (1, 0), (999_999, 31_337)])
def test_the_same_answer_costs_the_same_streamed_or_not(abc: Fleet, tokens: tuple[int, int]) -> None:
    usage = {"prompt_tokens": tokens[0], "completion_tokens": tokens[1], "total_tokens": sum(tokens)}
    costs = []
    for stream, place in [(False, "if_asked"), *((True, place) for place in PLACES)]:
        abc["alpha"].script(answer("a", usage=usage, usage_place=place))
        record = abc.record_of(abc.chat("alpha", stream=stream))
        assert record.usage is not None
        assert (record.usage.prompt_tokens, record.usage.completion_tokens) == tokens
        costs.append(record.cost_usd)
    assert costs == [pytest.approx((tokens[0] * 0.1 + tokens[1] * 0.4) / 1e6)] * 5
