"""Requests pass through byte for byte except for what is edited; what is read of answers is read leniently."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import ApiError
from service.wire import Body, read_answer, read_error

json_values: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.text(), json_values, max_size=6))
def test_an_unedited_body_is_the_very_bytes_that_came(fields: dict[str, Any]) -> None:
    fields = {name: value for name, value in fields.items() if name not in ("routing", "plugins", "max_cost")}
    raw = json.dumps(fields, ensure_ascii=False).encode("utf-8", "surrogatepass")
    if b"\xed" in raw:  # A lone surrogate is not UTF-8, and refused.
        return
    assert Body(raw).edited({}) == raw


def test_an_edit_leaves_every_other_value_byte_for_byte() -> None:
    raw = b'{"model": "a", "x": 1.00, "big": 123456789012345678901234567890, "s": "\\u00e9\\/", "routing": {}}'
    assert Body(raw).edited({"model": "b"}) == (
        b'{"model":"b","x":1.00,"big":123456789012345678901234567890,"s":"\\u00e9\\/"}'
    )


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"", "not valid JSON"), (b"{", "not valid JSON"), (b"[]", "not a JSON object"), (b'"a"', "not a JSON object"),
        (b"\xff\xfe", "not valid JSON"), (b'{"a": 1} x', "not valid JSON"),
    ],
)  # fmt: skip
def test_what_is_not_a_json_object_is_refused(raw: bytes, says: str) -> None:
    with pytest.raises(ApiError, match=says) as refused:
        Body(raw)
    assert (refused.value.status, refused.value.code) == (400, "invalid_json")


def test_deep_nesting_is_refused_not_a_crash() -> None:
    raw = b'{"messages": ' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    with pytest.raises(ApiError):
        Body(raw).array("messages")


@pytest.mark.parametrize(
    ("name", "read", "says"),
    [
        ("n", lambda b: b.integer("n", least=1, most=8), "between 1 and 8, got 9"),
        ("flag", lambda b: b.integer("flag", least=1), "must be an integer, got a boolean"),
        ("n", lambda b: b.boolean("n"), "must be true or false, got a number"),
        ("n", lambda b: b.string("n"), "must be a non-empty string, got a number"),
        ("gone", lambda b: b.string("gone", required=True), "got nothing"),
        ("n", lambda b: b.mapping("n"), "must be an object, got a number"),
        ("n", lambda b: b.array("n"), "must be an array, got a number"),
    ],
)
def test_a_wrong_type_names_the_field_and_what_came(name: str, read: Any, says: str) -> None:
    with pytest.raises(ApiError, match=says) as refused:
        read(Body(b'{"n": 9, "flag": true}'))
    assert refused.value.param == name


def test_usage_of_an_unknown_shape_is_no_usage_and_no_failure() -> None:
    answer = read_answer(b'{"id": "x", "usage": ["odd"], "choices": []}')
    assert answer is not None
    assert (answer.id, answer.usage, answer.error) == ("x", None, None)


def test_what_is_not_json_is_no_answer() -> None:
    assert read_answer(b"<html>") is None
    assert read_answer(b"[1]") is None


@pytest.mark.parametrize(
    ("raw", "message", "code", "shaped"),
    [
        (b'{"error": {"message": "no", "type": "t", "param": null, "code": "c"}}', "no", "c", True),
        (b'{"error": {"message": "no", "type": "t", "code": "c"}}', "no", "c", False),
        (b'{"error": "no"}', "no", None, False),
        (b'{"object": "error", "message": "no", "code": 400}', "no", 400, False),
        (b'{"detail": "no"}', "no", None, False),
        (b"bad gateway", "bad gateway", None, False),
        (b"", None, None, False),
    ],
)
def test_errors_are_read_in_every_usual_shape(raw: bytes, message: str | None, code: object, shaped: bool) -> None:
    error = read_error(raw)
    assert (error.message, error.code, error.shaped) == (message, code, shaped)
