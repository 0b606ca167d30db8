from __future__ import annotations

import copy
from typing import Any

import pytest

from templates_store.ways import FORMAT_BOUND_CUE, THINK_CUE, ask, format_bound, think
from tests.templates.words import hit

IMAGE = {"type": "image_url", "image_url": {"url": "https://example.com/a.png"}}


def test_the_cue_follows_the_last_user_message() -> None:
    messages: list[dict[str, Any]] = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "user", "content": "three"},
    ]
    before = copy.deepcopy(messages)
    changed = think(messages)
    assert messages == before
    assert changed[:2] == messages[:2]
    assert changed[2] == {"role": "user", "content": f"three\n\n{THINK_CUE}"}


def test_the_cue_is_a_part_of_its_own_after_parts() -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "what?"}, IMAGE]}]
    parts = think(messages)[0]["content"]
    assert parts[:2] == messages[0]["content"]
    assert parts[2] == {"type": "text", "text": f"\n\n{THINK_CUE}"}


def test_without_a_user_message_nothing_is_asked() -> None:
    messages = [{"role": "system", "content": "x"}]
    assert think(messages) is messages


@pytest.mark.parametrize(
    ("body", "bound"),
    [
        ({}, False),
        ({"response_format": {"type": "text"}}, False),
        ({"response_format": {"type": "json_object"}}, True),
        ({"response_format": {"type": "json_schema", "json_schema": {}}}, True),
        ({"response_format": None, "tools": []}, False),
        ({"tools": [{"type": "function"}]}, True),
        ({"tools": [{"type": "function"}], "tool_choice": "none"}, False),
        ({"tools": [{"type": "function"}], "tool_choice": "auto"}, True),
        ({"functions": [{"name": "f"}]}, True),
        ({"guided_json": {"type": "object"}}, True),
        ({"structured_outputs": {"regex": "a+"}}, True),
    ],
)
def test_what_binds_the_form_of_the_answer(body: dict[str, Any], bound: bool) -> None:
    assert format_bound(body) is bound


def test_where_a_program_reads_the_answer_the_steps_stay_silent() -> None:
    content = ask("think", [{"role": "user", "content": "x"}], bound=True).messages[0]["content"]
    assert content == f"x\n\n{FORMAT_BOUND_CUE}"
    assert THINK_CUE not in content


def test_each_way_does_its_own_thing() -> None:
    messages: list[dict[str, Any]] = [{"role": "user", "content": "how long?"}]
    assert ask("direct", messages, [hit()]) == (messages, ())
    assert ask("direct", messages, [hit()]).messages is messages
    assert ask("think", messages, [hit()]) == (think(messages), ())
    asked = ask("thought", messages, [hit()], max_tokens=600)
    assert asked.template_ids == (hit().template.id,)
    assert asked.messages[0]["content"].endswith("how long?")
    assert ask("thought", messages, [hit()], max_tokens=5).messages is messages
