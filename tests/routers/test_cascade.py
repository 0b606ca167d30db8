from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from routers.policy.cascade import Escalations, holds_json, matches, mean_logprob, pays

SCHEMA = {
    "type": "object", "required": ["name", "age"], "additionalProperties": False,
    "properties": {
        "name": {"type": "string"}, "age": {"type": "integer"}, "kind": {"enum": ["a", "b"]},
        "tags": {"type": "array", "items": {"type": "string"}},
    },
}  # fmt: skip


def test_the_break_even_by_hand() -> None:
    # Quality worth 0.10 USD: a gain of 0.05 is worth 0.005 USD; half the calls waste 0.004 USD.
    assert pays(0.05, 0.10, 0.5, 0.004)
    assert not pays(0.05, 0.10, 0.5, 0.011)
    assert not pays(0.05, 0.10, 0.5, 0.004, latency_price_usd=0.007)
    assert not pays(0.0, 100.0, 0.1, 0.0)
    assert not pays(0.5, 100.0, 0.1, math.nan)
    assert pays(0.01, math.inf, 1.0, 1.0)


def test_the_share_of_escalations_follows_what_is_seen() -> None:
    seen = Escalations()
    assert seen.share == 0.5
    for _ in range(1_000):
        seen.note(False)
    assert seen.share < 0.01
    for _ in range(1_000):
        seen.note(True)
    assert seen.share > 0.99


@given(st.lists(st.floats(-50, 0), min_size=1, max_size=50))
def test_the_mean_logprob_lies_between_the_tokens(logprobs: list[float]) -> None:
    mean = mean_logprob(logprobs)
    assert mean is not None
    assert min(logprobs) - 1e-9 <= mean <= max(logprobs) + 1e-9


@pytest.mark.parametrize("logprobs", [[], [math.nan], [-1.0, -math.inf]])
def test_no_logprob_is_none_and_not_a_number(logprobs: list[float]) -> None:
    assert mean_logprob(logprobs) is None


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ('{"name": "x", "age": 3}', True),
        ('{"name": "x", "age": 3.0, "kind": "a", "tags": ["t"]}', True),
        ('{"name": "x"}', False),
        ('{"name": "x", "age": "3"}', False),
        ('{"name": "x", "age": true}', False),
        ('{"name": "x", "age": 3, "kind": "c"}', False),
        ('{"name": "x", "age": 3, "tags": [1]}', False),
        ('{"name": "x", "age": 3, "more": 1}', False),
        ("[]", False),
        ("Here you are: {}", False),
        ("", False),
    ],
)
def test_json_is_held_against_its_schema(text: str, fits: bool) -> None:
    assert holds_json(text, SCHEMA) == float(fits)


def test_any_json_will_do_without_a_schema() -> None:
    assert holds_json(' {"a": 1}\n') == 1.0
    assert holds_json("{a: 1}") == 0.0


def test_patterns() -> None:
    assert matches("The answer is 42.", r"\b42\b") == 1.0
    assert matches("I cannot tell.", r"\b42\b") == 0.0
