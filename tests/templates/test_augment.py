from __future__ import annotations

import copy
from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from templates_store.augment import augment, estimate_tokens, render
from templates_store.sanitize import TAG_WORD
from templates_store.template import Hit
from tests.templates.words import PLAN, hit, template

IMAGE = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AAAA"}}
TEXTS = st.text(alphabet=st.sampled_from(f"<>/_ \n‹{TAG_WORD}ＲＥreference plans"), max_size=60)


def raw_hit(text: str) -> Hit:
    """A hit whose text did not go through the store, so nothing has made it safe."""
    return Hit(msgspec.structs.replace(template(), text=text), 0.9)


def test_the_block_stands_before_the_users_own_text() -> None:
    messages = [
        {"role": "system", "content": "be brief"},
        {"role": "user", "content": "first"},
        {"role": "assistant", "content": "yes"},
        {"role": "user", "content": "how long?", "name": "ann"},
    ]
    before = copy.deepcopy(messages)
    augmented = augment(messages, [hit()])
    assert messages == before
    assert augmented.template_ids == (hit().template.id,)
    assert all(new is old for new, old in zip(augmented.messages[:3], messages[:3], strict=True))
    last = augmented.messages[3]
    assert last["name"] == "ann"
    assert last["content"].startswith(f"<{TAG_WORD}>\n")
    assert last["content"].endswith(f"1. {PLAN}\n</{TAG_WORD}>\n\nhow long?")


def test_nothing_found_changes_nothing() -> None:
    messages = [{"role": "user", "content": "hello"}]
    assert augment(messages, []).messages is messages
    assert augment(messages, [hit()], max_tokens=20) == (messages, ())


def test_parts_keep_their_order_and_their_identity() -> None:
    text = {"type": "text", "text": "what is this?", "cache_control": {"type": "ephemeral"}}
    messages: list[dict[str, Any]] = [{"role": "user", "content": [IMAGE, text, IMAGE]}]
    content = augment(messages, [hit()]).messages[0]["content"]
    assert [part["type"] for part in content] == ["image_url", "text", "text", "image_url"]
    assert content[2] is text
    assert PLAN in content[1]["text"]
    only_image = augment([{"role": "user", "content": [IMAGE]}], [hit()]).messages[0]["content"]
    assert [part["type"] for part in only_image] == ["text", "image_url"]


def test_a_tool_result_after_the_user_message_stays_where_it_is() -> None:
    messages = [
        {"role": "user", "content": "weather?"},
        {"role": "assistant", "content": None, "tool_calls": [{"id": "c1"}]},
        {"role": "tool", "tool_call_id": "c1", "content": "rain"},
    ]
    augmented = augment(messages, [hit()])
    assert augmented.messages[0]["content"].endswith("weather?")
    assert augmented.messages[1:] == messages[1:]


def test_a_conversation_with_no_place_for_it_is_left_alone() -> None:
    for messages in ([], [{"role": "system", "content": "x"}], [{"role": "user"}], [{"role": "user", "content": ""}]):
        assert augment(messages, [hit()]).messages is messages


def test_the_budget_holds_for_the_whole_block_and_passes_over_what_is_too_long() -> None:
    long = raw_hit("word " * 400)
    short = raw_hit("Add the numbers.")
    block, ids = render([long, short, hit()], 120)
    assert ids == (short.template.id, hit().template.id)
    assert "1. Add the numbers.\n2. Problem" in block
    assert estimate_tokens(block) <= 120


@settings(deadline=None)
@given(st.lists(st.text(max_size=300), max_size=6), st.integers(0, 300))
def test_the_budget_is_never_exceeded(texts: list[str], budget: int) -> None:
    block, ids = render([raw_hit(text) for text in texts], budget)
    assert estimate_tokens(block) <= budget
    assert bool(block) == bool(ids)


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4), st.text(max_size=20))
def test_no_template_can_open_or_close_the_block(texts: list[str], own: str) -> None:
    messages = [{"role": "user", "content": "Q" + own}]
    content = augment(messages, [raw_hit(text) for text in texts], 10_000).messages[0]["content"]
    block = content[: len(content) - len(own) - 1]
    assert content == block + "Q" + own
    lowered = block.lower()
    assert lowered.count(f"<{TAG_WORD}") == 1
    assert lowered.count(f"/{TAG_WORD}>") - lowered.count(f"‹/{TAG_WORD}>") == 1
    assert block.endswith(f"\n</{TAG_WORD}>\n\n")


@settings(deadline=None)
@given(st.lists(TEXTS, min_size=1, max_size=4))
def test_every_template_stays_on_its_line(texts: list[str]) -> None:
    block, ids = render([raw_hit(text) for text in texts], 10_000)
    assert len(ids) == len(texts)
    assert len(block.split("\n")) == 2 + len(texts) + 3
