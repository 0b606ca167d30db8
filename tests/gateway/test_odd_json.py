"""JSON that is legal but cannot be decoded into numbers and texts: does it pass, and is it logged, all the same?"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.gateway.live import Fleet, fleet
from tests.upstream import fixed, raw_stream
from tests.upstream.answers import DONE

ODD = [b"1e400", b'{"a":-1e999}', b'"\\ud800"', b"123456789012345678901234567890", b'{"a":"\\udfff"}', b"[[[1e400]]]"]
"""Values that JSON allows and that have no place in a double or in UTF-8."""
FIELDS = [
    "metadata",
    "user",
    "safety_identifier",
    "prompt_cache_key",
    "store",
    "x",
    "tool_choice",
    "guided_json",
    "seed",
]


@pytest.fixture(scope="module")
def _three_ways(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("odd"), {"alpha": {"ways": ["direct", "think"]}}) as live:
        yield live


@pytest.fixture
def live(_three_ways: Fleet) -> Fleet:
    _three_ways.forget()
    return _three_ways


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize("model", ["alpha", "auto", "alpha#think"])
def test_odd_values_in_fields_that_are_not_ours_to_judge(live: Fleet, model: str, value: bytes) -> None:
    odd = b",".join(b'"%b":%b' % (field.encode(), value) for field in FIELDS)
    body = b'{"model":"%b","messages":[{"role":"user","content":"x"}],%b}' % (model.encode(), odd)
    live["alpha"].script(fixed(200, b'{"id":"a","choices":[]}'))
    response = live.post("/v1/chat/completions", body)
    assert response.status_code == 200, response.text
    if model != "alpha":  # Where the body has to be edited, half a surrogate pair becomes U+FFFD.
        odd = odd.replace(b"\\ud800", b"\\ufffd").replace(b"\\udfff", b"\\ufffd")
    assert odd in live["alpha"].last.body
    assert live.record_of(response).outcome == "ok"


@pytest.mark.parametrize("value", ODD)
def test_an_odd_value_in_a_field_that_routing_reads_is_refused_and_logged(live: Fleet, value: bytes) -> None:
    for field in (b"messages", b"stream", b"n", b"routing", b"tools"):
        body = b'{"model":"auto","messages":[{"role":"user","content":"x"}],"%b":%b}' % (field, value)
        response = live.post("/v1/chat/completions", body)
        assert response.status_code == 400, response.text
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}
        assert live.record_of(response).outcome == "rejected"
    assert live.called() == []


@pytest.mark.parametrize("value", ODD)
@pytest.mark.parametrize(
    "place", [b'"x":%b', b'"usage":{"prompt_tokens":3,"x":%b}', b'"usage":%b', b'"id":%b', b'"choices":[%b]']
)
def test_an_odd_value_in_an_answer(live: Fleet, place: bytes, value: bytes) -> None:
    whole = b"{" + place % value + b"}"
    stream = [
        b"data: " + whole + b"\n\n",
        b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"stop"}]}\n\n',
        DONE,
    ]
    live["alpha"].script(fixed(200, whole), raw_stream(*stream))
    first, second = live.chat("auto"), live.chat("auto", stream=True)
    assert first.content == whole
    assert second.content == b"".join(stream)
    assert {live.record_of(response).outcome for response in (first, second)} == {"ok"}


@pytest.mark.parametrize("value", ODD)
def test_an_explanation_is_added_to_an_odd_answer(live: Fleet, value: bytes) -> None:
    live["alpha"].script(fixed(200, b'{"id":"a","choices":[%b]}' % value))
    response = live.chat("auto", routing={"explain": True})
    assert response.content.startswith(b'{"id":"a","choices":[%b],"route":{' % value)
