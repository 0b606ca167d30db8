"""What a target model may be trained on: right, balanced, nobody's secret, nobody's licence broken."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from offline.answers import Answer
from offline.best_answers import right
from offline.bohdi.contamination import Benchmarks
from offline.curate import Curation, CurationError, curate, ranked, write_conversations
from offline.distill.samples import read_conversations
from tokamak import mount_groups

FREE = {"a": ("apache-2.0",), "b": ("mit",), "c": ("openai",)}


def answer(number: int, text: str, model: str = "a", query: str = "", **facts: Any) -> Answer:
    asked = query or f"What is the capital of the {number}th country on the list?"
    return Answer(id=f"i{number}-{model}-{text[:9]}", query=asked, text=text, model=model, **({"score": 1.0} | facts))


def wanted(**changes: Any) -> Curation:
    return Curation(**({"licences": FREE} | changes))


def test_only_right_answers_of_sources_that_allow_it_are_taken() -> None:
    made = curate(
        [answer(1, "Paris."), answer(1, "Rome.", score=0.0), answer(1, "Paris, it is.", "c"),
         answer(2, "Oslo.", "unknown"), answer(3, "Bern.", score=None), answer(4, " ")],
        wanted(),
    )  # fmt: skip
    assert [one.reply for one in made.conversations] == ["Paris."]
    assert made.left_out["not known to be right"] == 2
    assert made.left_out["licence forbids training"] == 1
    assert made.left_out["licence not stated"] == 1
    assert made.left_out["empty"] == 1


def test_a_model_that_nobody_has_looked_at_is_taken_only_when_told_so() -> None:
    answers = [answer(2, "Oslo.", "unknown")]
    with pytest.raises(CurationError, match="licence not stated"):
        curate(answers, wanted())
    assert len(curate(answers, wanted(unstated=True)).conversations) == 1


def test_private_traffic_stays_private() -> None:
    answers = [answer(1, "Mine.", tenant="key-1"), answer(2, "Yours.", tenant="key-2"), answer(3, "All's.")]
    assert {one.reply for one in curate(answers, wanted()).conversations} == {"All's."}
    assert {one.reply for one in curate(answers, wanted(tenant="key-1")).conversations} == {"Mine.", "All's."}


def test_users_who_disliked_an_answer_are_believed() -> None:
    assert right(answer(1, "x"))
    assert not right(answer(1, "x", feedback=0.0))
    assert right(answer(1, "x", score=None, judge=0.9))
    assert not right(answer(1, "x", score=0.5, judge=1.0))
    assert not right(answer(1, "x", score=None))


def test_the_four_settings() -> None:
    long, short, usual = "y" * 400, "n", "m" * 40
    answers = [
        answer(1, long, "a", judge=0.9), answer(1, short, "b", judge=0.7), answer(1, usual, "a", judge=0.8),
    ]  # fmt: skip
    assert ranked(answers, "performance")[0].text == usual
    assert [a.text for a in ranked(answers, "judge")] == [long, usual, short]
    assert [a.text for a in ranked(answers, "hybrid")] == [long, usual, short]
    made = curate([answer(1, "wrong", score=0.0, reference="Paris")], wanted(setting="reference"))
    assert made.conversations[0].reply == "Paris"
    assert made.conversations[0].source == "reference"


def test_a_query_counts_once_however_many_answers_are_taken() -> None:
    answers = [answer(1, f"Answer number {n} in words.", "ab"[n % 2]) for n in range(5)] + [answer(2, "Alone.")]
    made = curate(answers, wanted(top=3))
    weights = {one.reply: one.weight for one in made.conversations}
    assert len(weights) == 4
    assert sum(weights.values()) == pytest.approx(2.0)
    assert weights["Alone."] == 1.0
    assert made.left_out["beyond the best of its query"] == 2


def test_questions_and_answers_that_are_the_same_come_once() -> None:
    question = "Please explain in two sentences why the sky over the sea looks blue on a clear summer day."
    answers = [
        answer(1, "Scattering.", query=question), answer(2, "Scattering, I say.", query=question + " Please!"),
        answer(3, "Short  words.", "a"), answer(3, "Short words.", "b"),
    ]  # fmt: skip
    made = curate(answers, wanted())
    assert made.left_out["same question as another"] == 1
    assert made.left_out["same answer as another"] == 1
    assert len(made.conversations) == 2


def test_no_task_drowns_the_others() -> None:
    answers = [answer(n, f"Answer {n}.", task="big") for n in range(30)] + [answer(99, "Few.", task="small")]
    made = curate(answers, wanted(per_task=5))
    assert made.by_task == {"big": 5, "small": 1}
    assert made.left_out["task is full"] == 25


def test_secrets_and_benchmarks_are_kept_out() -> None:
    known = Benchmarks()
    known.add("quiz", ["What is the capital of the 2th country on the list?"])
    made = curate([answer(1, "Write to anna.smith@example.com."), answer(2, "Oslo.")], wanted(), known)
    assert made.left_out["in a benchmark"] == 1
    assert "anna.smith" not in made.conversations[0].reply


@settings(max_examples=25, deadline=None)
@given(st.permutations(range(8)))
def test_the_order_of_answers_does_not_matter(order: list[int]) -> None:
    answers = [answer(n // 2, f"Answer {n} says so.", "ab"[n % 2], judge=n / 10) for n in range(8)]
    first = curate(answers, wanted(top=1))
    assert curate([answers[n] for n in order], wanted(top=1)) == first


def run(*arguments: str) -> Any:
    app = typer.Typer()
    app.callback()(lambda: None)
    mount_groups(app, "curate")
    return CliRunner().invoke(app, ["curate", *arguments])


def test_the_command_writes_what_a_recipe_reads(tmp_path: Path) -> None:
    rows = [
        {"query": f"Question {n} about the river?", "model": "a", "score": float(n % 2), "response": f"Reply {n}.",
         "task": "rivers"} for n in range(10)
    ]  # fmt: skip
    path = tmp_path / "answers.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    out = tmp_path / "train.jsonl"
    result = run(str(out), "--answers", str(path), "--licence", "a=apache-2.0", "--json")
    assert result.exit_code == 0, result.stderr
    told = json.loads(result.stdout)
    assert told["written"] == 5
    assert told["by_task"] == {"rivers": 5}
    assert {one.domain for one in read_conversations(out)} == {"rivers"}
    assert "left out: 5" in run(str(out), "--answers", str(path), "--licence", "a=apache-2.0").stdout


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--setting", "best"), "expected a setting of"),
        (("--licence", "apache"), "MODEL=NAME"),
        (("--answers", "absent.jsonl"), "absent.jsonl"),
        (("--bohdi", "absent"), "export"),
    ],
)
def test_mistakes_are_told_in_one_line(tmp_path: Path, arguments: tuple[str, ...], said: str) -> None:
    result = run(str(tmp_path / "out.jsonl"), *arguments, "--data-dir", str(tmp_path))
    assert result.exit_code == 2
    assert said in result.stderr


def test_writing_is_whole_or_not_at_all(tmp_path: Path) -> None:
    made = curate([answer(n, f"Answer {n}.") for n in range(3)], wanted())
    assert write_conversations(tmp_path / "d.jsonl", [*made.conversations, *made.conversations]) == 3
    assert [one.id for one in read_conversations(tmp_path / "d.jsonl")] == sorted(o.id for o in made.conversations)
