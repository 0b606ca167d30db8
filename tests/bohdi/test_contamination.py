"""What counts as the same question, and what as one of a benchmark's."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from offline.bohdi.contamination import Benchmarks, BenchmarkUnreadable, read_benchmarks
from offline.bohdi.question_words import Questions, words_of

LONG = (
    "A train leaves the station at noon and travels east at sixty miles per hour while another train leaves the "
    "same station one hour later and travels in the same direction"
)


def same(one: str, other: str) -> bool:
    known = Questions()
    known.same_or_add("one", words_of(one))
    return known.same(words_of(other)) == "one"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("What's C++?", ["what", "s", "c", "+", "+"]),
        ("5 - 3 <= x-ray", ["5", "-", "3", "<", "=", "x", "ray"]),
        ("Ｆｕｌｌ Width", ["full", "width"]),
        ("光合作用 is?", ["光", "合", "作", "用", "is"]),
        ("…!?", []),
    ],
)
def test_words_are_those_that_a_reader_compares(text: str, words: list[str]) -> None:
    assert words_of(text) == words


@given(st.text(min_size=1, max_size=200))
def test_every_question_is_the_same_as_itself(text: str) -> None:
    if words_of(text):
        assert same(text, text)
        assert same(text, f"  {text} ")


def test_case_and_punctuation_make_no_other_question_but_figures_do() -> None:
    assert same(LONG + "?", LONG.upper())
    assert same(LONG, LONG + " as well")
    assert not same("What is 3 + 5?", "What is 3 - 5?")
    assert not same(LONG + " at 40 miles", LONG + " at 50 miles")
    assert not same(LONG, "How many legs do three spiders have?")


def test_a_question_of_a_benchmark_is_found_however_it_is_dressed() -> None:
    known = Benchmarks()
    known.add("exam", [LONG, "Which planet is the largest of all?", "Why?", "…"])
    assert known.questions == 3
    assert known.clash(LONG) == "exam"
    assert known.clash(f"Think about this. {LONG} When do they meet, and why there?") == "exam"
    assert known.clash(LONG.replace("noon", "seven")) == "exam", "reworded"
    assert known.clash("Tell me: which planet is the LARGEST of all, my friend?") == "exam"
    assert known.clash("Why?") == "exam"
    assert known.clash("What is a harbour?", f"It is known that {LONG}.") == "exam", "quoted in the answer"


def test_what_is_no_benchmark_s_is_let_through() -> None:
    known = Benchmarks()
    known.add("exam", [LONG, "Which planet is the largest of all?", "Why?"])
    assert known.clash("Why is the sky blue?") is None, "two words are no finding"
    assert known.clash("Which planet is the largest?") is None
    assert known.clash(" ".join(LONG.split()[:12])) is None, "twelve words in a row are below the limit"
    assert known.clash("") is None


def test_rows_of_numbers_in_common_are_no_finding() -> None:
    row = "0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15"
    known = Benchmarks()
    known.add("exam", [f"Write a function that makes the list {row} out of nothing but a loop over its length"])
    assert known.clash(f"Which of the numbers {row} are prime?") is None
    assert known.clash(f"Please write a function that makes the list {row}") == "exam"


def test_a_benchmark_is_read_from_lines_json_and_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet

    (tmp_path / "a.txt").write_text("Which planet is the largest of all?\n\n")
    (tmp_path / "b.jsonl").write_text('{"question": "How many moons has the planet Mars?", "answer": "2"}\n')
    pyarrow.parquet.write_table(pyarrow.table({"n": [1], "problem": [LONG]}), tmp_path / "c.parquet")
    known = read_benchmarks([tmp_path / name for name in ("a.txt", "b.jsonl", "c.parquet")])
    assert known.questions == 3
    assert known.clash("How many moons has the planet Mars") == "b.jsonl"
    assert known.clash(LONG) == "c.parquet"


@pytest.mark.parametrize(
    ("name", "content", "told"),
    [
        ("a.jsonl", '{"answer": 3}\n', "row 1: none of the columns question"),
        ("a.jsonl", "{", "a.jsonl"),
        ("a.txt", "\n", "holds no question"),
        ("a.csv", "question\n", "must end in"),
        ("absent.jsonl", None, "there is no file"),
    ],
)
def test_a_benchmark_that_cannot_be_read_is_named(tmp_path: Path, name: str, content: str | None, told: str) -> None:
    if content is not None:
        (tmp_path / name).write_text(content)
    with pytest.raises(BenchmarkUnreadable, match=told):
        read_benchmarks([tmp_path / name])
