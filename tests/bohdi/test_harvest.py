"""Questions and answers: what can be used, and what disqualifies a reply before anybody judges it."""

from __future__ import annotations

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.bohdi.checkers import arithmetic, checked, number_facts
from offline.bohdi.harvest import (
    CUT_OFF,
    LOOPS,
    OTHER_SCRIPT,
    UnusableQuestion,
    ask_call,
    contestants,
    plain,
    question_in,
    spot,
)
from offline.bohdi.log import StoredReply
from offline.bohdi.prompts import read_prompts
from offline.bohdi.reply_faults import loops, refuses, script_of, without_thinking

STANDARD, TINY = read_prompts("standard"), read_prompts("tiny")
ASK, ANSWER = STANDARD.reading.ask, STANDARD.reading.answer
CODE = "Fix:\n\n```python\ndef f(x):\n    return x +\n```\n\n| a | b |\n|---|---|\n| 1 | {2} |\n\nWhat does f(1) give?"


def test_a_question_of_many_lines_with_code_and_a_table_is_kept_as_it_is() -> None:
    assert question_in(StoredReply(text=f"Sure!\n<problem>\n{CODE}\n</problem>\nGood luck."), ASK) == CODE


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (StoredReply(failure="HTTP 500"), "HTTP 500"),
        (StoredReply(text="I'm sorry, but I can't help with that."), "refused"),
        (StoredReply(text="Here is a question about it, but without marks."), "nothing between the marks"),
        (StoredReply(text="<problem>Why?</problem>"), "4 characters, it should have 30 to 8000"),
        (StoredReply(text="<problem>A long question that nev", finish="length"), CUT_OFF),
        (StoredReply(text=f"<problem>{'And why is that so? ' * 30}</problem>"), LOOPS),
    ],
)
def test_what_is_no_question_says_why(reply: StoredReply, why: str) -> None:
    with pytest.raises(UnusableQuestion, match=why):
        question_in(reply, ASK)


def test_without_marks_the_whole_reply_is_the_question_unless_it_was_cut_off() -> None:
    assert question_in(StoredReply(text=" add 12 and 30 ", finish="stop"), TINY.reading.ask) == "add 12 and 30"
    with pytest.raises(UnusableQuestion, match=CUT_OFF):
        question_in(StoredReply(text="add 12 and", finish="length"), TINY.reading.ask)


def test_questions_are_compared_without_case_and_spaces() -> None:
    assert plain(" What  IS\nit? ") == plain("what is it?")


def test_a_spot_has_a_style_drawn_by_the_seed() -> None:
    styles = {spot(f"r1/p{i}", ("x",), ("Law",), STANDARD, 3).style for i in range(60)}
    assert styles == set(STANDARD.reading.styles)
    place = spot("r1/p0", ("x", "y"), ("Law", "Torts"), STANDARD, 3)
    call = ask_call(place, 0, "alpha", STANDARD, {"alpha": 0.4}, 3)
    assert "masters this field: Law > Torts" in call.prompt
    assert place.style in call.prompt
    assert (call.step, call.temperature) == ("r1/p0/ask/alpha/0", 0.4)


def answered(question: str, *replies: StoredReply) -> list[tuple[str, str]]:
    """Model and failure of each contestant; the first is the target."""
    models = ["pupil", "alpha", "beta", "gamma"][: len(replies)]
    return [(reply.model, reply.failure) for reply in contestants(question, models, replies, "pupil", ANSWER)]


def test_a_source_has_to_answer_whole_the_target_only_has_to_answer() -> None:
    cut = StoredReply(text="Well, first", finish="length")
    looping = StoredReply(text="I add one. " * 40)
    assert answered("Why?", cut, cut) == [("pupil", ""), ("alpha", CUT_OFF)]
    assert answered("Why?", looping, looping) == [("pupil", ""), ("alpha", LOOPS)]
    refused = StoredReply(text="I cannot help with that.")
    assert answered("Why?", refused, refused) == [("pupil", "refused"), ("alpha", "refused")]


def test_a_failed_contestant_has_no_text_but_its_bill() -> None:
    reply = StoredReply(text="I cannot help with that.", tokens=7, cost_usd=0.5, model_version="v2")
    (target,) = contestants("Why?", ["pupil"], [reply], "pupil", ANSWER)
    assert (target.text, target.tokens, target.cost_usd, target.model_version) == (None, 7, 0.5, "v2")


def test_an_ending_without_a_full_stop_is_no_fault() -> None:
    for ending in ("```\nx = 1\n```", "| 1 | 2 |", "\\boxed{4}", "Really?", "Yes!"):
        assert answered("Why?", StoredReply(text=ending), StoredReply(text=ending)) == [("pupil", ""), ("alpha", "")]


def test_a_source_that_alone_answers_in_another_script_fails() -> None:
    latin, cyrillic = StoredReply(text="The answer is water."), StoredReply(text="Ответ: это вода.")
    assert answered("What is it?", latin, latin, cyrillic, latin)[2] == ("beta", OTHER_SCRIPT)
    # Where the question asks for it, the others answer in it, too.
    assert answered("Say it in Russian.", latin, cyrillic, cyrillic)[1:] == [("alpha", ""), ("beta", "")]
    assert answered("What is it?", latin, latin, StoredReply(text="42"))[2] == ("beta", "")
    assert answered("What is it?", cyrillic, latin, latin)[0] == ("pupil", ""), "the target is judged"


@pytest.mark.parametrize(
    "text",
    [
        "I'm sorry, but I can't help with that.", "I cannot assist with this request.", "I must decline.",
        "As an AI language model, I cannot do this.", "很抱歉，我无法回答这个问题。",
        "申し訳ありませんが、お答えできません。", "Lo siento, no puedo ayudar con eso.",
        "Es tut mir leid, dabei kann ich nicht helfen.", "Я не могу помочь с этим.",
    ],
)  # fmt: skip
def test_refusals_are_known_in_several_languages(text: str) -> None:
    assert refuses(text)


@pytest.mark.parametrize(
    "text",
    [
        "The function cannot help but diverge, so the answer is 3.", "I can answer that: 4.",
        "You cannot divide by zero.",
        "A cell that cannot divide dies. " + "More is to be said about this. " * 30, "42", "",
    ],
)  # fmt: skip
def test_answers_are_no_refusals(text: str) -> None:
    assert not refuses(text)


def test_what_goes_round_in_circles_is_found() -> None:
    assert loops("Let me see. " + "I add one, then two. " * 20)
    assert loops("ab" * 200)
    assert loops("The start is fine and says a lot.\n" + "- item\n" * 60)
    assert not loops("no " * 10), "too short to tell"
    assert not loops(
        "A table:\n" + "\n".join(f"| {i} | {i * i} | {random.Random(i).random():.4f} |" for i in range(40))
    )
    assert not loops("So the result is 1" + "0" * 60)


@given(st.text(alphabet="abc", min_size=1, max_size=30), st.integers(4, 30), st.text(max_size=20))
def test_a_piece_repeated_to_the_end_is_always_found(piece: str, times: int, start: str) -> None:
    text = piece * times
    if len(text.rstrip()) >= max(80, len(start)) * 1.5:
        assert loops(start + text)


def test_scripts_and_thinking() -> None:
    assert script_of("Hello, мир!") is None
    assert script_of("機械学習とは何ですか") == "CJK"
    assert script_of("12 + 30") is None
    assert without_thinking("<think>no</think> yes") == "yes"


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        ("What is 17 + 25?", "17 + 25 = 42.", True),
        ("What is 17 + 25?", "It is 43", False),
        ("Calculate: 17 × (3 + 4)", "The answer is 119", True),
        ("2^10 = ?", "1,024", True),
        ("What is 7 / 2?", "3.5", True),
        ("Work out 1,000 - 1", "999", True),
        ("What is 0.1 + 0.2?", "0.3", True),
        ("What is -3 * -4?", "12", True),
        ("What is 17 + 25?", "I do not know", False),
        ("What is 1 / 3?", "0.333", None),
        ("What is 1 / 0?", "infinity", None),
        ("What is 9^9999?", "big", None),
        ("What is 42?", "42", None),
        ("How many apples are 3 + 4 pears?", "0", None),
        ("What is 2 + 2 in base 3?", "11", None),
        ("What is 12 34 + 1?", "1235", None),
        ("What is __import__('os')?", "x", None),
    ],
)
def test_sums_are_checked_exactly_and_nothing_else_is(question: str, answer: str, right: bool | None) -> None:
    assert arithmetic(("Mathematics",), question, answer) is right


@pytest.mark.parametrize(
    ("question", "answer", "right"),
    [
        ("What is 15% of 240?", "15 % of 240 is 36.", True),
        ("What is the greatest common divisor of 84 and 36?", "12", True),
        ("Find the least common multiple of 4 and 6.", "24", False),
        ("What is the remainder when 17 is divided by 5?", "The remainder is 2", True),
        ("What is the remainder when 17 is divided by 0?", "0", None),
        ("Compute the square root of 144", "12", True),
        ("What is the square root of 2?", "1.414", None),
        ("What is the factorial of 5?", "120", True),
        ("What is the sum of the integers from 1 to 100?", "5,050", True),
        ("What is 15% of the budget of 240?", "36", None),
        ("What is the greatest common divisor of 84 and 36 in Z[i]?", "12", None),
    ],
)
def test_numbers_of_school_arithmetic_are_checked(question: str, answer: str, right: bool | None) -> None:
    assert number_facts(("Mathematics",), question, answer) is right


def test_the_first_checker_that_applies_speaks() -> None:
    silent = lambda path, question, answer: None  # noqa: E731
    sure = lambda path, question, answer: path == ("Law",)  # noqa: E731
    assert checked([silent, sure, arithmetic], ("Law",), "What is 1 + 1?", "3") is True
    assert checked([silent], ("Law",), "What is 1 + 1?", "3") is None
