"""The relay of a stream: what the client gets and what is known at its end, however the bytes are cut."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from service.backends.stream import StreamEnd, StreamTap

ROLE = b'data: {"id":"c1","choices":[{"index":0,"delta":{"role":"assistant","content":""},"finish_reason":null}]}\n\n'
WORD = b'data: {"id":"c1","choices":[{"index":0,"delta":{"content":"its \\"usage\\""},"finish_reason":null}]}\n\n'
STOP = b'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n'
USAGE = b'data: {"id":"c1","choices":[],"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
LAST_WITH_USAGE = (
    b'data: {"id":"c1","choices":[{"index":0,"delta":{},"finish_reason":"stop"}],'
    b'"usage":{"prompt_tokens":7,"completion_tokens":3}}\n\n'
)
DONE = b"data: [DONE]\n\n"
COMMENT = b": keep-alive\n\n"
ANSWER = ROLE + WORD + COMMENT + WORD + STOP


def cut(data: bytes, places: list[int]) -> list[bytes]:
    """The bytes in pieces, cut at these places (taken modulo the length)."""
    at = sorted({place % len(data) for place in places} | {0, len(data)})
    return [data[a:b] for a, b in pairwise(at)]


def through(tap: StreamTap, pieces: list[bytes]) -> bytes:
    return b"".join(tap.feed(piece) for piece in pieces) + tap.finish()


cuts = st.lists(st.integers(0, 10_000), max_size=30)


@given(cuts)
def test_a_stream_passes_unchanged_when_nothing_is_hidden(places: list[int]) -> None:
    tap = StreamTap(hide_usage=False, hold_done=False, keep_bytes=10_000)
    data = ANSWER + USAGE + DONE
    assert through(tap, cut(data, places)) == data
    assert tap.raw() == data


@given(cuts)
def test_the_usage_event_that_the_client_did_not_ask_for_is_hidden_and_nothing_else(places: list[int]) -> None:
    tap = StreamTap(hide_usage=True, hold_done=False, keep_bytes=10_000)
    assert through(tap, cut(ANSWER + USAGE + DONE, places)) == ANSWER + DONE
    assert tap.raw() == ANSWER + USAGE + DONE


@given(cuts)
def test_usage_in_an_event_with_choices_is_never_hidden(places: list[int]) -> None:
    tap = StreamTap(hide_usage=True, hold_done=False, keep_bytes=10_000)
    data = ROLE + WORD + LAST_WITH_USAGE + DONE
    assert through(tap, cut(data, places)) == data


@given(cuts, st.sampled_from([USAGE, b""]))
def test_done_is_held_back_to_put_an_event_before_it(places: list[int], usage: bytes) -> None:
    tap = StreamTap(hide_usage=False, hold_done=True, keep_bytes=10_000)
    assert through(tap, cut(ANSWER + usage + DONE, places)) == ANSWER + usage
    assert StreamEnd(tap).done


@given(cuts)
def test_lines_may_end_in_crlf(places: list[int]) -> None:
    tap = StreamTap(hide_usage=True, hold_done=False, keep_bytes=10_000)
    crlf = (ANSWER + USAGE + DONE).replace(b"\n", b"\r\n")
    assert through(tap, cut(crlf, places)) == (ANSWER + DONE).replace(b"\n", b"\r\n")


@given(cuts, st.sampled_from([ANSWER + USAGE + DONE, ROLE + WORD + LAST_WITH_USAGE + DONE, ANSWER + USAGE]))
def test_usage_is_found_wherever_it_stands_and_however_the_stream_is_cut(places: list[int], data: bytes) -> None:
    tap = StreamTap(hide_usage=True, hold_done=False, keep_bytes=10_000)
    through(tap, cut(data, places))
    usage = StreamEnd(tap).usage
    assert usage is not None
    assert (usage.prompt_tokens, usage.completion_tokens) == (7, 3)


def test_no_usage_is_none_not_zero() -> None:
    tap = StreamTap(hide_usage=True, hold_done=False, keep_bytes=10_000)
    through(tap, [ANSWER + DONE])
    assert StreamEnd(tap).usage is None


def test_null_usage_in_every_chunk_is_not_usage_and_passes() -> None:
    chunk = WORD.replace(b'"id":"c1"', b'"id":"c1","usage":null')
    tap = StreamTap(hide_usage=True, hold_done=False, keep_bytes=10_000)
    assert through(tap, [chunk, chunk, USAGE, DONE]) == chunk + chunk + DONE
    end = StreamEnd(tap)
    assert end.usage is not None
    assert end.usage.completion_tokens == 3


@given(cuts)
def test_a_stream_longer_than_the_limit_keeps_its_usage_but_not_its_text(places: list[int]) -> None:
    tap = StreamTap(hide_usage=True, hold_done=False, keep_bytes=100)
    through(tap, cut(ANSWER * 50 + USAGE + DONE, places))
    assert tap.raw() is None
    end = StreamEnd(tap)
    assert end.finished
    assert end.usage is not None


def test_a_stream_without_done_is_finished_only_by_a_finish_reason() -> None:
    finished, cut_off = (StreamTap(hide_usage=True, hold_done=False, keep_bytes=10_000) for _ in range(2))
    through(finished, [ROLE, WORD, STOP])
    through(cut_off, [ROLE, WORD])
    assert StreamEnd(finished).finished
    assert not StreamEnd(cut_off).finished


def test_an_error_event_is_seen_at_the_end() -> None:
    tap = StreamTap(hide_usage=True, hold_done=False, keep_bytes=10_000)
    through(tap, [ROLE, WORD, b'data: {"error":{"message":"out of memory","code":500}}\n\n'])
    assert StreamEnd(tap).error == "out of memory"
