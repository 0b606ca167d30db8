"""A sample of real multi-LLM logs: real queries, and what each of several real models answered and scored.

Two forms are read. The bundled one is gzip JSON lines (a header, then one line per query with all its models), which
needs nothing but the base install. The other is a Parquet file with one row per (query, model), which needs pyarrow.
A sample never holds an invented answer: where a log kept no text, `reply` says so.
"""

from __future__ import annotations

import gzip
import hashlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

import msgspec

BUNDLED = Path(__file__).resolve().parent / "samples"
"""Folder of the samples that come with the repository, one `<name>.jsonl.gz` each."""
FORMAT = "tokamak-replay-1"
CHARS_PER_TOKEN = 4
"""How many characters of English text make a token, about; used only where the log counted no tokens."""

_Cell = TypeVar("_Cell")

UsageSource = Literal["logged", "answer_length", "model_mean_length", "replayed_line"]
"""Where a completion's token count comes from: the log; the length of the logged answer; the mean length of this
model's logged answers, where this one was not kept; the length of the line sent instead, where no length is known."""


class SampleError(RuntimeError):
    """A sample is absent or cannot be read. The message says what was expected and what to do."""


class LoggedModel(msgspec.Struct, frozen=True, kw_only=True):
    """One model of a sample with its list price in USD per million tokens, None where no price is known."""

    name: str
    prompt_per_1m: float | None = None
    completion_per_1m: float | None = None
    price_source: str | None = None


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a sample is and where it comes from."""

    name: str
    dataset: str
    source: str
    licence: str
    models: tuple[LoggedModel, ...]
    format: str = FORMAT


class LoggedQuery(msgspec.Struct, frozen=True, kw_only=True):
    """One query and its answers; the sequences are aligned with the header's models, None where nothing was logged.

    `scores` lie in [0, 1]. `chars` is an answer's length before any cut. `texts`, `chars`, the token counts and
    `latency_s` are None as a whole where the log has none of them for this query.
    """

    task: str
    query_id: str
    text: str
    score_kind: str
    scores: tuple[float | None, ...]
    reference: str | None = None
    texts: tuple[str | None, ...] | None = None
    chars: tuple[int | None, ...] | None = None
    prompt_tokens: tuple[int | None, ...] | None = None
    completion_tokens: tuple[int | None, ...] | None = None
    latency_s: tuple[float | None, ...] | None = None


class Reply(NamedTuple):
    """What the replayed model sends: its text, token counts, where they come from, and the logged latency."""

    text: str
    logged: bool
    prompt_tokens: int
    completion_tokens: int
    usage_source: UsageSource
    latency_s: float | None


def normalise(text: str) -> str:
    """The text with every run of white space as one blank: the key by which a query is found."""
    return " ".join(text.split())


def content_hash(text: str, purpose: str = "") -> str:
    """64 hex digits that name a query by its content, independent ones for each purpose they are drawn for."""
    return hashlib.sha256(f"{purpose}{normalise(text)}".encode()).hexdigest()


def estimated_tokens(chars: float) -> int:
    """At least 1: an estimate from a length in characters."""
    return max(1, round(chars / CHARS_PER_TOKEN))


class ReplaySample:
    """An immutable sample. A query is found by its normalised text; no two of a sample share it."""

    def __init__(self, header: Header, queries: Sequence[LoggedQuery]) -> None:
        self.header = header
        self.queries = tuple(queries)
        self.models = tuple(model.name for model in header.models)
        self.columns = {name: column for column, name in enumerate(self.models)}
        self._by_text = {normalise(query.text): query for query in self.queries}
        if not self.queries or not self.models:
            raise SampleError(f"sample {header.name!r} holds no query or no model; expected at least one of each")
        if len(self._by_text) < len(self.queries):
            raise SampleError(f"sample {header.name!r} holds two queries of the same text; keep one of them")

    def find(self, text: str) -> LoggedQuery | None:
        """The query of that text, white space aside, or None."""
        return self._by_text.get(normalise(text))

    def score(self, query: LoggedQuery, model: str) -> float:
        """The logged score of a model's answer, in [0, 1]. Raises KeyError where the log has none."""
        value = query.scores[self.columns[model]]
        if value is None:
            raise KeyError(f"no score of {model!r} on query {query.query_id!r} in the log")
        return value

    def reply(self, query: LoggedQuery, model: str) -> Reply | None:
        """The logged answer of `model`, or the line that stands for it; None where the model was never asked."""
        column = self.columns[model]
        if query.scores[column] is None:
            return None
        text = query.texts[column] if query.texts is not None else None
        completion, source = self._completion_tokens(query, column, text)
        prompt = _cell(query.prompt_tokens, column)
        return Reply(
            text=self.line(query) if text is None else text,
            logged=text is not None,
            prompt_tokens=estimated_tokens(len(query.text)) if prompt is None else prompt,
            completion_tokens=completion,
            usage_source=source,
            latency_s=_cell(query.latency_s, column),
        )

    def line(self, query: LoggedQuery) -> str:
        """What is sent where the log kept no text: a truthful line that names the source of the logged score."""
        log, kind = self.header.dataset, query.score_kind
        return f"[replay] The log {log} keeps no text of this answer, only its score by {kind}."

    def _completion_tokens(self, query: LoggedQuery, column: int, text: str | None) -> tuple[int, UsageSource]:
        counted = _cell(query.completion_tokens, column)
        if counted is not None:
            return counted, "logged"
        chars = _cell(query.chars, column)
        if chars is None and text is not None:
            chars = len(text)
        if chars is not None:
            return estimated_tokens(chars), "answer_length"
        mean = self._mean_chars[column]
        if mean is not None:
            return estimated_tokens(mean), "model_mean_length"
        return estimated_tokens(len(self.line(query))), "replayed_line"

    @cached_property
    def _mean_chars(self) -> tuple[float | None, ...]:
        lengths: list[list[int]] = [[] for _ in self.models]
        for query in self.queries:
            for column, chars in enumerate(query.chars or ()):
                if chars is not None:
                    lengths[column].append(chars)
        return tuple(sum(column) / len(column) if column else None for column in lengths)


def _cell(row: tuple[_Cell | None, ...] | None, column: int) -> _Cell | None:
    return None if row is None else row[column]


def bundled_samples() -> tuple[str, ...]:
    """Names of the samples that come with the repository, sorted."""
    return tuple(sorted(path.name.removesuffix(".jsonl.gz") for path in BUNDLED.glob("*.jsonl.gz")))


def read_bundle(path: Path) -> ReplaySample:
    """Read a gzip JSON lines file written by `write_bundle`. Raises SampleError."""
    try:
        first, *rest = gzip.decompress(path.read_bytes()).splitlines()
        header = msgspec.json.decode(first, type=Header)
        if header.format != FORMAT:
            raise SampleError(f"{path} has format {header.format!r}; this version reads {FORMAT!r}")
        decoder = msgspec.json.Decoder(LoggedQuery)
        return ReplaySample(header, [decoder.decode(line) for line in rest])
    except FileNotFoundError as error:
        raise SampleError(f"no sample at {path}; give the name or the path of one that exists") from error
    except (OSError, EOFError, ValueError, msgspec.MsgspecError) as error:
        raise SampleError(f"{path} is not a whole sample file ({error}); restore it from the repository") from error


def write_bundle(sample: ReplaySample, path: Path) -> None:
    """Write a sample as gzip JSON lines; the same sample always gives the same bytes."""
    lines: list[Any] = [sample.header, *sample.queries]
    raw = b"\n".join(msgspec.json.encode(_without_defaults(line)) for line in lines)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress(raw, compresslevel=9, mtime=0))


def _without_defaults(record: Header | LoggedQuery) -> dict[str, Any]:
    """The record as a mapping without the fields that are None: most queries have only some of them."""
    fields = msgspec.structs.asdict(record)
    return {key: value for key, value in fields.items() if value is not None}


def is_test(text: str, share: float) -> bool:
    """Whether a query belongs to the test part, which holds about `share` of all; decided by its content alone."""
    return int(content_hash(text, "split")[:8], 16) < share * 2**32


def by_task(queries: Iterable[LoggedQuery]) -> dict[str, list[LoggedQuery]]:
    """The queries of each task, in their order."""
    tasks: dict[str, list[LoggedQuery]] = defaultdict(list)
    for query in queries:
        tasks[query.task].append(query)
    return dict(tasks)
