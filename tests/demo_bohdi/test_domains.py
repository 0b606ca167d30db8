"""The domains of the live proof and their checkers."""

from __future__ import annotations

import pytest

from demo.bohdi import corpus
from demo.bohdi.domains import DOMAINS, PLACES, exam, read, verify, worded, worded_so
from demo.fleet.tasks import check, questions
from offline.bohdi.prompts import read_prompts


@pytest.mark.parametrize("family", PLACES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_every_question_of_the_fleet_is_read_back_with_its_answer_and_split(family: str, split: str) -> None:
    for asked in questions(family, "train" if split == "train" else "test", 60, seed=5):
        found = read(asked.text)
        assert found is not None
        assert (found.family, found.answer, found.split) == (asked.family, asked.answer, asked.split)


@pytest.mark.parametrize(
    "text",
    [
        "", "Name a field.", "Convert 12 km to mm.", "Convert 012 km to m.", "Reverse the letters of ab.",
        "Write 31 February 1999 as an ISO date.", "Write 29 February 2000 as an ISO date.", "Roman numeral of 0?",
        "Remove the vowels from aeioua.", "Sort the digits of 123456789.", "Nobody: room?", "What is 12 * 3?",
        "Reverse the letters of ABCDE.", "Convert 12 km to m. And then?",
    ],
)  # fmt: skip
def test_what_is_no_question_of_a_family_is_not_read(text: str) -> None:
    assert read(text) is None


def test_words_and_numbers_of_other_lengths_are_read_too() -> None:
    assert verify(("Spelling", "Reversal"), "Reverse abcd.", "dcba") is True
    assert verify(("Ordering", "Sorted Digits"), "Sort 4312 upwards.", "1234") is True
    assert verify(("Ordering", "ISO Dates"), "Convert 28 May 2093 to ISO.", "2093-05-28") is True
    assert verify(("Arithmetic", "Metric Units"), "1 km in m?", "100") is False


def test_a_checker_speaks_only_of_its_own_domain() -> None:
    asked = "Convert 12 km to m."
    assert verify(("Arithmetic", "Metric Units"), asked, "12000") is True
    assert verify(("Arithmetic", "Metric Units"), asked, " Answer: 12000. ") is True
    assert verify(("Arithmetic", "Metric Units"), asked, "1200") is False
    assert verify(("Arithmetic", "Products"), asked, "12000") is None
    assert verify(("Spelling", "Metric Units"), asked, "12000") is None
    assert verify(("Arithmetic", "Metric Units"), "Convert it.", "12000") is None


def test_the_exam_holds_out_contents_in_the_wording_of_the_sources() -> None:
    for family in PLACES:
        asked = exam(family, 40)
        assert len({one.text for one in asked}) == 40
        assert all(one.split == "test" and worded_so(one) and check(one, one.answer) for one in asked)
        assert not {one.text for one in asked} & {one.text for one in worded(family, "train", 60, 1)}


def test_too_long_an_exam_is_refused() -> None:
    with pytest.raises(ValueError, match="ask for fewer"):
        exam("facts", 200)


def test_each_family_has_one_place() -> None:
    assert sum(len(parts) for parts in DOMAINS.values()) == len(PLACES) == 8


def test_the_sources_were_taught_the_texts_of_the_prompt_set() -> None:
    prompts = read_prompts("tiny")
    path = prompts.path(("Arithmetic", "Products"))
    assert prompts.text("propose_first", taken="", level="") == corpus.PROPOSE_FIRST
    assert prompts.text("propose", path="Arithmetic", parent="", taken="", level="") == "Name a part of Arithmetic."
    assert prompts.text("ask", path=path, leaf="", style="") == corpus.ASK.format(path="Arithmetic / Products")
    assert prompts.text("answer", question="Roman numeral of 4?") == "Roman numeral of 4?"
    assert not prompts.judges
