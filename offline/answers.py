"""Scored answers of models, whatever they were logged in: the traffic log, or a file in the shared data format.

The format of a file: Parquet, or JSON lines (`.jsonl`, `.jsonl.gz`), one row per query and model, with at least the
columns `query, model, score, response`; `task, query_id, score_kind, reference, cost_usd, response_chars` are used
where they are there. A `score_kind` that begins with `judge` says that the score is a judge's.
"""

from __future__ import annotations

import gzip
import hashlib
import zlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from statistics import fmean
from typing import Any

import msgspec

from traffic.log import TrafficLog
from traffic.records import Interaction
from traffic.sse import answer_text

REQUIRED = ("query", "model", "score", "response")
_OPTIONAL = ("task", "query_id", "score_kind", "reference", "cost_usd", "response_chars")


class AnswersUnreadable(ValueError):
    """A file of answers cannot be read. The message says what was expected, what came and what to do."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer of one arm to one query.

    Attributes
    ----------
    id: of the interaction, or `task/query_id/model` from a file.
    score: in [0, 1], by a checker that knows the right answer, or None.
    judge, feedback: in [0, 1], by a judge or by users, or None.
    tenant: who may see what is made of it; None is everybody.
    reference: the right answer, where the source has it.
    """

    id: str
    query: str
    text: str
    model: str
    score: float | None = None
    judge: float | None = None
    feedback: float | None = None
    cost_usd: float | None = None
    tenant: str | None = None
    task: str | None = None
    reference: str | None = None

    @property
    def query_key(self) -> str:
        """`question_key` of the query and the tenant."""
        return question_key(self.query, self.tenant)


def question_key(query: str, tenant: str | None) -> str:
    """Digest of the tenant and of the query with its white space and its case evened out."""
    text = " ".join(query.split()).casefold()
    return hashlib.sha256(f"{tenant or ''}\0{text}".encode()).hexdigest()[:16]


def answers_from_log(
    log: TrafficLog,
    *,
    since: float = 0.0,
    until: float | None = None,
    shared: bool = False,
    shared_workloads: Sequence[str] = (),
    erased: Callable[[Interaction], bool] = lambda interaction: False,
) -> Iterator[Answer]:
    """The complete answers in the log whose content may be used.

    What comes of them is visible to the key that asked alone, unless `shared`, or unless the request's workload matches
    one of the globs `shared_workloads`. Left out: whatever was sent with `store: false` or is `erased`, what was not
    answered completely, what came once more from the cache, and answers without text.
    """
    scores: dict[str, dict[str, list[float]]] = {}
    for score in log.read_scores(since, until):
        scores.setdefault(score.interaction_id, {}).setdefault(score.source, []).append(score.value)
    for interaction in log.read_interactions(since, until):
        if erased(interaction):
            continue
        workload = interaction.workload
        everybody = shared or (workload is not None and any(fnmatchcase(workload, glob) for glob in shared_workloads))
        answer = _logged(interaction, scores.get(interaction.id, {}), everybody)
        if answer is not None:
            yield answer


def _logged(interaction: Interaction, scores: Mapping[str, list[float]], shared: bool) -> Answer | None:
    if not interaction.stored or interaction.outcome != "ok" or not interaction.query_text or not interaction.response:
        return None
    if interaction.cached_from is not None:
        return None
    text = answer_text(interaction.response, interaction.stream)
    if not text or interaction.arm is None:
        return None
    checked = [*scores.get("exact_match", ()), *scores.get("verifier", ())]
    return Answer(
        id=interaction.id,
        query=interaction.query_text,
        text=text,
        model=interaction.arm,
        score=min(checked) if checked else None,
        judge=fmean(scores["judge"]) if "judge" in scores else None,
        feedback=fmean(scores["feedback"]) if "feedback" in scores else None,
        cost_usd=interaction.cost_usd,
        tenant=None if shared else interaction.key_id,
        task=interaction.workload,
    )


def answers_from_file(path: Path) -> Iterator[Answer]:
    """The answers in a file that carry their whole text; rows without one, or with one that was cut, are left out.

    Raises
    ------
    AnswersUnreadable: the file is absent, of no known kind, damaged, or lacks a column.
    """
    for number, row in enumerate(rows_from_file(path), 1):
        missing = [column for column in REQUIRED if column not in row]
        if missing:
            raise AnswersUnreadable(
                f"row {number} of {path.name} has no {', '.join(missing)}; needed: {', '.join(REQUIRED)}"
            )
        answer = _row_answer(row, path.name, number)
        if answer is not None:
            yield answer


def rows_from_file(path: Path) -> Iterator[dict[str, Any]]:
    """The rows of a file of answers as they are, columns that are not in the format left out of a Parquet file.

    Raises
    ------
    AnswersUnreadable: the file is absent, of no known kind or damaged.
    """
    if not path.is_file():
        raise AnswersUnreadable(f"there is no file {path}; give a Parquet or JSON-lines file of answers")
    if path.suffix == ".parquet":
        return _parquet_rows(path)
    if path.name.endswith((".jsonl", ".jsonl.gz")):
        return _json_rows(path)
    raise AnswersUnreadable(f"{path.name} must end in .parquet, .jsonl or .jsonl.gz")


def _row_answer(row: Mapping[str, Any], name: str, number: int) -> Answer | None:
    text, score = row["response"], row["score"]
    if not text or score is None or (row.get("response_chars") or 0) > len(text):
        return None
    if not isinstance(score, int | float) or not 0 <= score <= 1:
        raise AnswersUnreadable(f"row {number} of {name}: score must be a number in [0, 1], it is {score!r}")
    judged = str(row.get("score_kind", "")).startswith("judge")
    task = row.get("task")
    return Answer(
        id="/".join(str(part) for part in (task, row.get("query_id", number), row["model"]) if part is not None),
        query=str(row["query"]),
        text=str(text),
        model=str(row["model"]),
        score=None if judged else float(score),
        judge=float(score) if judged else None,
        cost_usd=row.get("cost_usd"),
        task=None if task is None else str(task),
        reference=row.get("reference"),
    )


def _parquet_rows(path: Path) -> Iterator[dict[str, Any]]:
    try:
        import pyarrow.parquet as parquet
        from pyarrow import ArrowException
    except ModuleNotFoundError as error:
        raise AnswersUnreadable(
            f"{path.name} is a Parquet file and pyarrow is not installed: pip install 'tokamak[learn]'"
        ) from error
    try:
        file = parquet.ParquetFile(path)
        columns = [name for name in (*REQUIRED, *_OPTIONAL) if name in file.schema_arrow.names]
        for batch in file.iter_batches(columns=columns):
            yield from batch.to_pylist()
    except (ArrowException, OSError) as error:
        raise AnswersUnreadable(f"{path.name} cannot be read as Parquet: {error}") from error


def _json_rows(path: Path) -> Iterator[dict[str, Any]]:
    decoder = msgspec.json.Decoder(dict[str, Any])
    with gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb") as lines:
        try:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _json_row(decoder, line, f"line {number} of {path.name}")
        except (OSError, EOFError, zlib.error) as error:
            raise AnswersUnreadable(f"{path.name} cannot be read: {error}") from error


def _json_row(decoder: msgspec.json.Decoder[dict[str, Any]], line: bytes, where: str) -> dict[str, Any]:
    try:
        return decoder.decode(line)
    except msgspec.DecodeError as error:
        raise AnswersUnreadable(f"{where} is not a JSON object: {error}") from error
