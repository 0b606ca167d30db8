"""The checkers, and the holes of published ones that they do not have."""

from __future__ import annotations

from decimal import Decimal

import pytest

from offline.check_answer import as_number, can_check, check, chosen_letter, final_number, word_overlap


@pytest.mark.parametrize(
    ("answer", "letter"),
    [
        ("B", "B"),
        ("(C)", "C"),
        ("**D**", "D"),
        ("B) because it is so", "B"),
        ("The answer is (B), because option (A) is wrong in this case.", "B"),
        ("Answer: E", "E"),
        ("So we get \\boxed{F}.", "F"),
        ("The correct choice is **G**.", "G"),
        ("Only (H) fits.", "H"),
        ("(A) and (B) are both possible.", None),
        ("A dog has four legs.", None),
        ("The answer is a big dog.", None),
        ("", None),
    ],
)
def test_the_chosen_option(answer: str, letter: str | None) -> None:
    assert chosen_letter(answer) == letter


@pytest.mark.parametrize(
    ("answer", "number"),
    [
        ("It is 12.\n#### 18", "18"),
        ("The answer is $1,200.50.", "1200.50"),
        ("First 3, then 4.\nSo it makes 7 apples.", "7"),
        ("\\boxed{-3.5} is the value", "-3.5"),
        ("The final answer is: 42\nSee chapter 2024.", "42"),
        ("No number here", None),
    ],
)
def test_the_final_number(answer: str, number: str | None) -> None:
    assert final_number(answer) == (None if number is None else Decimal(number))


@pytest.mark.parametrize(
    ("answer", "reference", "kind", "score"),
    [
        ("35", "3.5", "gsm8k", 0.0),
        ("The answer is 18.0", "step one\n#### 18", "gsm8k", 1.0),
        ("Norway", "no", "exact_match", 0.0),
        ("No.", "no", "exact_match", 1.0),
        ("True and False are both possible", "True", "exact_match", 0.0),
        ("The answer is True", "True", "exact_match", 1.0),
        ("(B), because option (A) is wrong", "A", "em_mc", 0.0),
        ("Answer: B", "B", "em_mc", 1.0),
        ("Answer: B", "(B)", "exact_match", 1.0),
        ("narcolepsy", "Narcolepsy", "exact_match", 1.0),
        ("It may be narcolepsy, or not", "Narcolepsy", "exact_match", 0.0),
        ("x is\n\\boxed{\\frac{1}{2}}", "so \\boxed{\\frac{1}{2}}", "math", 1.0),
        ("the cat sat", "the cat sat on a mat", "f1_score", 2 * 2 / (2 + 4)),
        ("Paris", "Paris", None, 1.0),
        ("Lyon", "Paris", None, 0.0),
    ],
)
def test_scores(answer: str, reference: str, kind: str | None, score: float) -> None:
    assert check(answer, reference, kind) == pytest.approx(score)


def test_agreement_with_a_long_answer_is_the_share_of_its_words() -> None:
    reference = "Boil the water, add salt, and cook the pasta for nine minutes."
    assert check(reference, reference) == 1.0
    assert 0.2 < check("Cook the pasta in boiling water with salt.", reference) < 0.8
    assert check("I do not know", reference) == 0.0
    assert word_overlap("", "x") == 0.0


def test_what_needs_more_than_a_look_is_not_checked() -> None:
    assert can_check("EM_MC")
    assert can_check(None)
    assert not can_check("code_eval")
    assert not can_check("judge_gpt4_1to10")
    assert as_number("12 apples") is None
    assert as_number("nan") is None
