"""Questions, their split and the checker. No model is needed."""

from __future__ import annotations

import subprocess
import sys
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.fleet.families import FAMILIES, PEOPLE, fact, multiply_steps, roman
from demo.fleet.tasks import check, final_answer, mixed, question, questions, split_of, stepwise

families = pytest.mark.parametrize("family", list(FAMILIES))


@families
def test_two_hundred_held_out_questions_of_every_family(family: str) -> None:
    asked = questions(family, "test", 200, seed=5)
    assert len({q.text for q in asked}) == 200
    assert {q.split for q in asked} == {"test"}
    assert asked == questions(family, "test", 200, seed=5)
    assert asked != questions(family, "test", 200, seed=6)


@families
def test_no_test_question_is_a_training_question(family: str) -> None:
    train = {q.text for q in questions(family, "train", 600, seed=1)}
    test = {q.text for q in questions(family, "test", 200, seed=1)}
    assert not train & test


@families
def test_only_the_expected_answer_is_right(family: str) -> None:
    for asked in questions(family, "train", 50, seed=2):
        assert check(asked, asked.answer) == 1.0
        assert check(asked, f" {asked.answer.upper()}.\n") == 1.0
        assert check(asked, f"Some steps, 1 + 1 = 2. Answer: {asked.answer}") == 1.0
        assert check(asked, asked.answer + "0") == 0.0
        assert check(asked, "") == 0.0
        assert check(asked, f"{asked.answer} or so") == 0.0


def test_a_sum_turned_round_is_in_the_same_split() -> None:
    rng = Random(0)
    for _ in range(300):
        asked = question("add", rng)
        a, b = [int(word.strip("?.")) for word in asked.text.split() if word.strip("?.").isdigit()]
        assert asked.split == split_of(f"add|{min(a, b)}+{max(a, b)}")


def test_a_fact_is_the_same_in_every_wording() -> None:
    answers: dict[tuple[str, str], set[str]] = {}
    for asked in questions("facts", "train", 700, seed=3):
        person = next(name for name in PEOPLE if name in asked.text)
        attribute = next(word for word in ("room", "tool", "town") if word in asked.text)
        answers.setdefault((person, attribute), set()).add(asked.answer)
    assert len(answers) == 120
    assert all(found == {fact(*key)} for key, found in answers.items())


@given(st.integers(1, 3999))
def test_roman_numerals_read_back(number: int) -> None:
    values = {"I": 1, "V": 5, "X": 10, "L": 50, "C": 100, "D": 500, "M": 1000}
    digits = [values[letter] for letter in roman(number)]
    signed = [-a if a < b else a for a, b in zip(digits, [*digits[1:], 0], strict=True)]
    assert sum(signed) == number


@given(st.integers(100, 999), st.integers(2, 9))
def test_written_steps_are_true_and_end_in_the_product(a: int, b: int) -> None:
    steps = multiply_steps(a, b)
    for equation in steps.split(". Answer:")[0].split("; "):
        left, right = equation.split("=")
        parts = [int(part) for part in left.replace("*", "+").split("+")]
        assert int(right) == (parts[0] * parts[1] if "*" in left else sum(parts))
    assert final_answer(steps) == str(a * b)


def test_stepwise_answers_are_right_and_only_for_products() -> None:
    for asked in questions("multiply", "test", 50):
        assert check(asked, stepwise(asked)) == 1.0
    with pytest.raises(ValueError, match="multiply"):
        stepwise(questions("add", "test", 1)[0])


def test_asking_for_more_than_there_are_is_refused() -> None:
    with pytest.raises(ValueError, match="ask for fewer"):
        questions("facts", "test", 5000)


def test_mixed_holds_all_families_evenly() -> None:
    asked = mixed("train", 7, seed=1)
    assert sorted(q.family for q in asked) == sorted(list(FAMILIES) * 7)
    assert [q.family for q in asked] != [family for family in FAMILIES for _ in range(7)]


def test_tasks_config_and_launcher_load_without_torch() -> None:
    code = (
        "import sys, demo.fleet.tasks, demo.fleet.config, demo.fleet.roster, demo.fleet.launch, demo.fleet.wire;"
        "bad = {'torch', 'transformers', 'sklearn', 'pyarrow'} & set(sys.modules); sys.exit(str(bad) if bad else 0)"
    )
    ran = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")
