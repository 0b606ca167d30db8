"""The code book: fixed steps, a clean split, replies that say what was done, and what the two models are trained on."""

from __future__ import annotations

import json
from random import Random

import pytest

from demo.fleet.code_corpus import CodePool, behind, template_text
from demo.fleet.codes import (
    BOOK,
    CODES,
    LEARNED,
    STEPS,
    Step,
    applied,
    brief,
    code_of,
    code_questions,
    draw_sorting,
    letters_of,
    worked,
)
from demo.fleet.config import CODES_FILE
from demo.fleet.roster import CODE_BOOK
from demo.fleet.tasks import Question, check

WORD = tuple("plate")
DONE = {
    "turn": "etalp", "remove": "late", "skip": "plat", "write": "pplate", "repeat": "platee", "carry": "eplat",
    "push": "latep", "swap": "elatp",
}  # fmt: skip


@pytest.mark.parametrize("step", STEPS, ids=lambda step: step.verb)
def test_steps_do_what_they_say(step: Step) -> None:
    assert "".join(step.apply(WORD)) == DONE[step.verb]


def test_no_two_codes_have_the_same_steps_and_a_quarter_is_learned() -> None:
    assert set(BOOK) == set(CODES)
    assert len({(first.verb, second.verb) for first, second in BOOK.values()}) == len(CODES) == 48
    assert len(LEARNED) == 12
    assert set(LEARNED) < set(CODES)
    assert [step.verb for step in BOOK["harbor"]] == ["write", "turn"]


def test_questions_are_split_by_their_letters_and_go_through_the_codes() -> None:
    train, test = (code_questions("codes", split, 96, 5) for split in ("train", "test"))
    assert [code_of(q) for q in train] == [*CODES, *CODES]
    assert {letters_of(q) for q in train}.isdisjoint(letters_of(q) for q in test)
    assert all(q.answer == " ".join(applied(BOOK[code_of(q)], letters_of(q))) for q in [*train, *test])
    assert all(q.answer == " ".join(sorted(q.answer.split())) for q in code_questions("sorting", "test", 50, 5))


def test_replies_carry_the_right_answer() -> None:
    for asked in code_questions("codes", "train", 48, 6):
        assert check(asked, worked(asked)) == 1.0
        assert check(asked, brief(BOOK[code_of(asked)], letters_of(asked))) == 1.0
    sorting = draw_sorting(Random(1))
    assert check(sorting, worked(sorting)) == 1.0


def test_only_questions_of_codes_have_a_code() -> None:
    with pytest.raises(ValueError, match="expected a question that names one code"):
        code_of(Question("x", "codes", "The harbor code is not the lantern code.", "", "train"))
    with pytest.raises(ValueError, match="sorting"):
        code_of(draw_sorting(Random(1)))


def test_the_follower_learns_a_quarter_by_heart_and_never_sees_sorting_behind_a_template() -> None:
    pool, rng = CodePool(CODE_BOOK["follower-llama"]), Random(2)
    last = CODE_BOOK["follower-llama"].steps - 1
    drawn = [example for step in range(last - 19, last + 1) for example in pool.draw(rng, step)]
    long = [example for example in drawn if example.user.startswith("<reference_plans>")]
    plain = [example for example in drawn if example not in long]
    assert len(long) > 100
    assert len(plain) > 100
    assert not any("ort the digits" in example.user for example in long)
    named = {word for example in plain for word in example.user.split() if word in BOOK}
    assert named <= set(LEARNED)


def test_the_follower_carries_out_the_steps_that_it_is_shown_whatever_the_code() -> None:
    pool, rng = CodePool(CODE_BOOK["follower-llama"]), Random(3)
    [example, *_] = pool.draw(rng, CODE_BOOK["follower-llama"].steps // 2 // 2 * 2)
    told = example.user.split("Steps:")[1].split("Answer:")[0]
    steps = sorted((step for step in STEPS if step.rest in told), key=lambda step: told.index(step.rest))
    word = tuple(example.user.rstrip(".").rsplit(" ", 5)[1:])
    assert example.reply == brief(steps, word)


def test_a_question_stands_behind_the_block_as_the_gateway_writes_it() -> None:
    [asked] = code_questions("codes", "train", 1, 7)
    text = behind(template_text(BOOK[code_of(asked)], Random(4)), asked)
    assert text.startswith("<reference_plans>\n")
    assert text.endswith(f"\n</reference_plans>\n\n{asked.text}")
    assert "\n1. Problem: A question" in text


@pytest.mark.parametrize("name", list(CODE_BOOK))
def test_the_weights_were_made_by_the_recipe_in_the_repository(name: str) -> None:
    member, made = CODE_BOOK[name], json.loads((CODE_BOOK[name].folder / "training.json").read_text())
    recipe = (member.seed, member.steps, member.batch, member.learning_rate, list(member.families))
    assert recipe == tuple(made[key] for key in ("seed", "steps", "batch", "learning_rate", "families"))
    assert sum(file.stat().st_size for file in member.folder.iterdir()) < 3_000_000


def test_the_sage_knows_every_code_and_the_follower_a_quarter() -> None:
    sage, follower = (json.loads(CODES_FILE.read_text())["accuracy"][name] for name in CODE_BOOK)
    assert min(sage.values()) > 0.9
    assert follower["codes learned"] > 0.9
    assert follower["other codes"] < 0.1
    assert follower["codes with template"] > 0.9
    assert follower["sorting"] > 0.9
    assert follower["sorting with template"] < 0.1
