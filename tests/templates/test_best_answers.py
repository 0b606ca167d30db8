from __future__ import annotations

import gzip
from pathlib import Path
from typing import Any

import orjson
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from offline.answers import AnswersUnreadable, answers_from_file, answers_from_log
from offline.best_answers import LEAST_JUDGE, acceptable, best_answers, collapse
from tests.templates.solved import ANSWERS, TANK, answer
from tests.templates.words import ENCODER
from traffic.records import Interaction, Score, ScoreSource
from traffic.stores import open_log

RATINGS = st.none() | st.floats(0, 1)


@pytest.mark.parametrize(
    ("changes", "good"),
    [
        ({"score": 1.0}, True),
        ({"score": 0.99}, False),
        ({"score": 0.0, "judge": 1.0}, False),
        ({"score": None}, False),
        ({"score": None, "judge": 0.6}, True),
        ({"score": None, "judge": 0.59}, False),
        ({"score": None, "feedback": 0.8}, True),
        ({"score": 1.0, "feedback": 0.0}, False),
        ({"score": None, "judge": 0.9, "feedback": 0.0}, False),
        ({"score": 1.0, "text": "The answer is (C)."}, False),
    ],
)
def test_nothing_is_made_of_a_wrong_answer(changes: dict[str, Any], good: bool) -> None:
    assert acceptable(answer(**changes)) is good


@settings(deadline=None)
@given(st.lists(st.tuples(RATINGS, RATINGS, RATINGS, st.none() | st.floats(0, 1)), max_size=12))
def test_only_acceptable_answers_are_kept_and_no_better_one_is_passed_over(
    ratings: list[tuple[float | None, float | None, float | None, float | None]],
) -> None:
    given_answers = [
        answer(id=f"i{i:02}", score=score, judge=judge, feedback=feedback, cost_usd=cost)
        for i, (score, judge, feedback, cost) in enumerate(ratings)
    ]
    queries = best_answers(given_answers)
    good = [a for a in given_answers if acceptable(a)]
    assert len(queries) == bool(good)
    for query in queries:
        assert len(query.answers) == min(3, len(good))
        assert all(acceptable(a) for a in query.answers)
        assert query.answers == best_answers(reversed(given_answers))[0].answers
        worst = min(a.score or a.judge or a.feedback or 0 for a in query.answers)
        assert worst >= LEAST_JUDGE


def test_the_order_is_score_then_cost_then_judge_then_cost() -> None:
    answers = [
        answer(id="dear", cost_usd=9.0, judge=1.0),
        *(answer(id=f"cheap{i}", cost_usd=float(i), judge=0.7) for i in range(3)),
        answer(id="judged", cost_usd=3.0, judge=0.9),
        answer(id="unjudged", cost_usd=0.5),
    ]
    # `dear` is the sixth by cost, so the judge never gets to see it; the one without a judge comes last of the five.
    assert [a.id for a in best_answers(answers)[0].answers] == ["judged", "cheap0", "cheap1"]


def test_without_costs_the_answer_of_usual_length_goes_first() -> None:
    answers = [answer("x" * size, id=str(size)) for size in (2000, 100, 400, 380, 500)]
    assert [a.id for a in best_answers(answers)[0].answers] == ["400", "380", "500"]


def test_queries_are_told_apart_by_tenant_and_text_but_not_by_white_space() -> None:
    answers = [answer(), answer(query=TANK.upper().replace(" ", "\n")), answer(tenant="a"), answer(query="Other?")]
    assert [len(query.answers) for query in best_answers(answers)] == [2, 1, 1]


def test_near_duplicates_become_one_within_a_tenant() -> None:
    base = " ".join(f"word{i}" for i in range(60))
    texts = [base, f"{base} again", "something else entirely", base]
    answers = [answer(query=text, id=str(i), tenant="b" if i == 3 else None) for i, text in enumerate(texts)]
    queries = collapse(best_answers(answers), ENCODER)
    assert [[a.id for a in query.answers] for query in queries] == [["0", "1"], ["2"], ["3"]]
    assert collapse([], ENCODER) == []


def chat_answer(text: str, *, stream: bool = False) -> bytes:
    if stream:
        chunk = {"choices": [{"index": 0, "delta": {"content": text}}]}
        return b"data: " + orjson.dumps(chunk) + b"\n\ndata: [DONE]\n\n"
    return orjson.dumps({"choices": [{"index": 0, "message": {"role": "assistant", "content": text}}]})


def logged(id_: str, **changes: Any) -> Interaction:
    fields: dict[str, Any] = {
        "id": id_, "created_at": 10.0, "endpoint": "/v1/chat/completions", "outcome": "ok", "http_status": 200,
        "arm": "m", "key_id": "team", "query_text": TANK, "response": chat_answer(ANSWERS[0]), "cost_usd": 0.01,
        "workload": "rates", **changes,
    }  # fmt: skip
    return Interaction(**fields)


def scored(id_: str, source: ScoreSource, value: float) -> Score:
    return Score(interaction_id=id_, source=source, value=value, created_at=11.0, scorer="test")


async def test_the_log_gives_what_may_be_used_and_nothing_else(tmp_path: Path) -> None:
    log = open_log(f"sqlite:///{tmp_path / 'traffic.db'}")
    for record in (
        logged("whole"), scored("whole", "exact_match", 1.0),
        scored("whole", "judge", 0.8), scored("whole", "judge", 0.6),
        logged("streamed", stream=True, response=chat_answer(ANSWERS[1], stream=True)),
        scored("streamed", "feedback", 1.0),
        logged("unsaved", stored=False, query_text=None, response=None), scored("unsaved", "exact_match", 1.0),
        logged("secret", stored=False), scored("secret", "exact_match", 1.0),
        logged("broken", outcome="failed"), scored("broken", "exact_match", 1.0),
        logged("silent", response=chat_answer("")),
    ):  # fmt: skip
        log.append(record)
    await log.flush()
    found = {a.id: a for a in answers_from_log(log)}
    shared = list(answers_from_log(log, shared=True))
    await log.close()
    assert set(found) == {"whole", "streamed"}
    whole = found["whole"]
    assert (whole.score, whole.judge, whole.feedback) == (1.0, pytest.approx(0.7), None)
    assert (whole.tenant, whole.task, whole.text, whole.cost_usd) == ("team", "rates", ANSWERS[0], 0.01)
    assert (found["streamed"].text, found["streamed"].feedback) == (ANSWERS[1], 1.0)
    assert {a.tenant for a in shared} == {None}


ROW = {
    "task": "t/rates", "query_id": "7", "query": TANK, "model": "m", "score": 1.0, "score_kind": "exact_match",
    "response": ANSWERS[0], "reference": "2 hours", "cost_usd": None, "response_chars": len(ANSWERS[0]),
}  # fmt: skip


def write_rows(path: Path, *rows: dict[str, Any]) -> Path:
    data = b"".join(orjson.dumps(row) + b"\n" for row in rows)
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_a_file_of_json_lines_is_read(tmp_path: Path, name: str) -> None:
    judged = {**ROW, "model": "n", "score": 0.7, "score_kind": "judge_gpt4_1to10"}
    cut, absent, unscored = {**ROW, "response_chars": 9999}, {**ROW, "response": None}, {**ROW, "score": None}
    found = list(answers_from_file(write_rows(tmp_path / name, ROW, judged, cut, absent, unscored)))
    assert [(a.id, a.score, a.judge, a.reference) for a in found] == [
        ("t/rates/7/m", 1.0, None, "2 hours"), ("t/rates/7/n", None, 0.7, "2 hours"),
    ]  # fmt: skip


def test_a_parquet_file_is_read(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist([ROW, {**ROW, "model": "n"}]), tmp_path / "rows.parquet")
    assert [a.model for a in answers_from_file(tmp_path / "rows.parquet")] == ["m", "n"]


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.csv", b"a,b", "must end in"),
        ("rows.jsonl", b"{]", "line 1 of rows.jsonl is not a JSON object"),
        ("rows.jsonl", b"[1]", "is not a JSON object"),
        ("rows.jsonl", b'{"query": "x"}', "row 1 of rows.jsonl has no model, score, response"),
        ("rows.jsonl", orjson.dumps({**ROW, "score": 7}), r"score must be a number in \[0, 1\], it is 7"),
        ("rows.jsonl.gz", b"not gzip", "cannot be read"),
        ("rows.jsonl.gz", gzip.compress(orjson.dumps(ROW) * 9)[:-20], "cannot be read|is not a JSON object"),
        ("rows.parquet", b"PAR1 or not", "cannot be read as Parquet"),
    ],
)
def test_a_file_that_cannot_be_read_is_refused_with_where(
    tmp_path: Path, name: str, content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(AnswersUnreadable, match=message):
        list(answers_from_file(tmp_path / name))
    with pytest.raises(AnswersUnreadable, match="there is no file"):
        list(answers_from_file(tmp_path / "absent.jsonl"))
