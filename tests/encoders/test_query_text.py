from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.query_text import MAX_CHARS, STANDS_ALONE_CHARS, follows_up, is_anaphoric, query_text

QUESTION = "Write an LRU cache in Python with a time to live per entry, and test it under threads."
FOLLOW_UPS = [
    "commit it", "yes", "go on", "Now do the same for that file, please.", "And what happens if this fails?", "again",
    "mach weiter", "ja, genau", "Kannst du das noch kürzer schreiben?", "continue", "et maintenant ?",
    "Peux-tu refaire cela en Rust ?", "sí", "Hazlo otra vez con eso.", "isso mesmo", "продолжай", "Переведи это.",
    "继续", "把它翻译成英文",
    "続けて", "それをもっと短くして", "계속", "그것을 번역해 줘", "أكمل", "evet, devam", "फिर से करो",
]  # fmt: skip
STANDALONE = [
    "What is the capital of France and how many people live in Paris?",
    "Please write a poem about autumn in the mountains of Norway.",
    "Wie hoch ist der Eiffelturm in Paris, gemessen in Metern?",
    "Summarise the plot of Hamlet in three sentences for a child of ten years.",
    "请写一首关于秋天和大海的诗,用四行。",
    QUESTION + " Give the full module with docstrings, types, and an explanation of every lock. " * 2,
]


def said(*turns: str) -> list[dict[str, Any]]:
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages += [{"role": "user", "content": turn}, {"role": "assistant", "content": "Done."}]
    return messages[:-1]


@pytest.mark.parametrize("text", FOLLOW_UPS)
def test_a_follow_up_inherits_what_it_goes_back_to(text: str) -> None:
    assert is_anaphoric(text)
    assert query_text(said(QUESTION, text)) == f"{QUESTION}\n{text}"
    assert follows_up(said(QUESTION, text))


@pytest.mark.parametrize("text", STANDALONE)
def test_a_message_that_says_all_itself_stands_alone(text: str) -> None:
    assert not is_anaphoric(text)
    assert not follows_up(said(QUESTION, text))


@pytest.mark.parametrize("text", [s for s in STANDALONE if len(s) >= 48])
def test_the_text_of_a_standalone_message_is_its_own(text: str) -> None:
    assert query_text(said(QUESTION, text)) == text


def test_a_chain_of_follow_ups_goes_back_to_the_question_and_not_further() -> None:
    chain = ("commit it", "yes", "again", "and now push that", "thanks")
    for length in range(1, len(chain) + 1):
        turns = (STANDALONE[0], QUESTION, *chain[:length])
        assert query_text(said(*turns)) == "\n".join((QUESTION, *chain[:length]))


def test_the_first_message_has_nothing_to_inherit() -> None:
    assert query_text(said("commit it")) == "commit it"
    assert not follows_up(said("commit it"))
    assert query_text([]) == ""
    assert query_text([{"role": "assistant", "content": "Hello"}, {"role": "user", "content": None}]) == ""


def test_parts_and_foreign_messages_do_no_harm() -> None:
    parts = [{"type": "text", "text": "again"}, {"type": "image_url", "image_url": {"url": "x"}}]
    assert query_text([*said(QUESTION), {"role": "user", "content": parts}, 7, {}]) == f"{QUESTION}\nagain"


@given(st.lists(st.text(max_size=300), max_size=20))
def test_the_text_is_bounded_and_ends_with_the_last_turn(turns: list[str]) -> None:
    text = query_text(said(*turns)) if turns else query_text([])
    assert len(text) <= MAX_CHARS + 1
    spoken = [turn for turn in turns if turn.strip()]
    assert text.endswith(spoken[-1] if spoken else "")


def test_a_long_message_is_no_follow_up_whatever_it_begins_with() -> None:
    assert not is_anaphoric("and " + "x" * STANDS_ALONE_CHARS)
