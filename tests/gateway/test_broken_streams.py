"""After the first byte nothing is retried: a stream that breaks says so, has no `[DONE]`, and is logged as failed."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest

from tests.gateway.live import ERROR_FIELDS, HI, Fleet, fleet, payloads, streamed_text
from tests.upstream import Close, Reset, Script, Stall, answer, cut, raw_stream, tool_call
from tests.upstream.answers import DONE, chat_events, error_object, event
from tests.upstream.script import Step

ANSWERS: dict[str, Script] = {
    "text": answer("one", " two", " three"),
    "tools": answer(tool_calls=(tool_call("get_weather", '{"city": "Paris"}'),)),
    "json": answer('{"a"', ": [1, 2", "]}"),
    "usage in every chunk": answer("one", " two", " three", usage_place="every"),
}
FAULTS: dict[str, Step] = {"reset": Reset(), "close": Close(), "stall": Stall()}


@pytest.fixture(scope="module")
def hasty(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    short = {"first_byte_timeout_s": 0.5, "total_timeout_s": 0.7}
    with fleet(tmp_path_factory.mktemp("broken"), upstream_settings=short) as live:
        yield live


def check_broken(live: Fleet, events: list[object], request_id: str) -> None:
    assert "[DONE]" not in events
    last = events[-1]
    assert isinstance(last, dict)
    assert set(last["error"]) == ERROR_FIELDS
    assert last["error"]["message"]
    assert live.calls() == {"alpha": 0, "beta": 0, "gamma": 1}
    record = live.gateway.record(request_id)
    assert (record.outcome, record.http_status, record.arm) == ("failed", 200, "gamma")
    assert [attempt.outcome for attempt in record.attempts] in (["broken_stream"], ["timeout"])
    assert record.error_code
    assert record.response is not None


@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("after", [1, 3])
def test_a_stream_that_breaks_is_told_and_never_continued(hasty: Fleet, kind: str, after: int, fault: str) -> None:
    hasty.forget()
    hasty["gamma"].script(cut(ANSWERS[kind], after, FAULTS[fault]))
    response = hasty.chat("auto:best", stream=True)
    assert response.status_code == 200
    events = payloads(response)
    assert len(events) == after + 1
    check_broken(hasty, list(events), response.headers["x-request-id"])


def test_a_stream_without_its_end_mark_is_complete_if_it_was_finished(hasty: Fleet) -> None:
    hasty.forget()
    hasty["gamma"].script(raw_stream(*chat_events()))
    response = hasty.chat("auto:best", stream=True)
    assert "error" not in response.text
    assert hasty.record_of(response).outcome == "ok"


def test_a_break_after_the_last_content_but_before_the_end_is_a_break(hasty: Fleet) -> None:
    hasty.forget()
    *content, _ = chat_events()
    hasty["gamma"].script(raw_stream(*content))
    response = hasty.chat("auto:best", stream=True)
    check_broken(hasty, list(payloads(response)), response.headers["x-request-id"])


@pytest.mark.parametrize("ending", [(), (DONE,)])
def test_an_error_event_of_the_upstream_in_the_middle_ends_the_stream(hasty: Fleet, ending: tuple[bytes, ...]) -> None:
    hasty.forget()
    events = chat_events()
    hasty["gamma"].script(raw_stream(*events[:2], event(error_object("out of memory", "server_error")), *ending))
    response = hasty.chat("auto:best", stream=True)
    got = payloads(response)
    check_broken(hasty, list(got), response.headers["x-request-id"])
    assert "out of memory" in str(got[-1])
    assert sum("error" in e for e in got) == 1


@pytest.mark.parametrize("odd", [b'data: {"error":"boom"}\n\n', b'data: {"error":{"message":"boom","code":500}}\n\n'])
def test_an_error_event_of_an_odd_shape_reaches_the_client_in_the_right_one(hasty: Fleet, odd: bytes) -> None:
    hasty.forget()
    hasty["gamma"].script(raw_stream(*chat_events()[:2], odd))
    response = hasty.chat("auto:best", stream=True)
    got = payloads(response)
    check_broken(hasty, list(got), response.headers["x-request-id"])
    assert "boom" in str(got[-1])


def test_the_official_client_raises_in_the_middle_of_the_stream(hasty: Fleet) -> None:
    hasty.forget()
    hasty["gamma"].script(cut(answer("one", " two", " three"), 3))
    stream = hasty.client.chat.completions.create(model="auto:best", messages=HI, stream=True)
    text = ""
    with pytest.raises(openai.APIError) as raised:  # noqa: PT012  The loop is what raises, after its first rounds.
        for chunk in stream:
            text += chunk.choices[0].delta.content or ""
    assert text == "one two"
    assert not isinstance(raised.value, openai.APIConnectionError)


@pytest.mark.parametrize("asked", [False, True])
def test_half_an_event_is_dropped(hasty: Fleet, asked: bool) -> None:
    hasty.forget()
    half = b'data: {"id":"x","choices":[{"index":0,"delta":{"content":"tw'
    hasty["gamma"].script(cut(raw_stream(*chat_events()[:2], half, b"never"), 3))
    response = hasty.chat("auto:best", stream=True, stream_options={"include_usage": asked})
    events = payloads(response)
    assert len(events) == 3
    check_broken(hasty, list(events), response.headers["x-request-id"])


@pytest.mark.parametrize("said", ["[DONE]", "data: [DONE]", '"finish_reason":"stop"', '{"error":{"message":"x"}}'])
def test_text_that_looks_like_an_end_or_an_error_is_neither(hasty: Fleet, said: str) -> None:
    hasty.forget()
    *content, _ = chat_events(["Hello", said])
    hasty["gamma"].script(raw_stream(*content), answer("Hello", said, " end"))
    response = hasty.chat("auto:best", stream=True)
    check_broken(hasty, list(payloads(response)), response.headers["x-request-id"])
    assert streamed_text(payloads(hasty.chat("auto:best", stream=True))) == f"Hello{said} end"


def test_an_explained_stream_that_breaks_carries_no_route(hasty: Fleet) -> None:
    hasty.forget()
    hasty["gamma"].script(cut(answer("one"), 2))
    response = hasty.chat("auto:best", stream=True, routing={"explain": True})
    assert "error" in payloads(response)[-1]
    assert "[DONE]" not in response.text


def test_usage_so_far_is_logged(hasty: Fleet) -> None:
    hasty.forget()
    hasty["gamma"].script(cut(answer("one", "two", usage_place="every"), 2))
    record = hasty.record_of(hasty.chat("auto:best", stream=True))
    assert record.usage is not None
    assert record.usage.prompt_tokens == 11


def test_the_next_request_is_not_harmed(hasty: Fleet) -> None:
    hasty.forget()
    hasty["gamma"].script(cut(answer("one"), 1))
    hasty.chat("auto:best", stream=True)
    assert hasty.chat("auto:best").json()["choices"][0]["message"]["content"] == "Hello there."
