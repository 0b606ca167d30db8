"""Read a Parquet log with one row per (query, model) into a sample. Needs pyarrow (the extra `learn`).

Columns: dataset, task, query_id, query, model, score, score_kind, response, response_chars, prompt_tokens,
completion_tokens, latency_s, reference; the key of a query is (task, query_id).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson

from demo.replay.prices import list_price
from demo.replay.sample import Header, LoggedModel, LoggedQuery, ReplaySample, SampleError, normalise

NEEDED = ("dataset", "task", "query_id", "query", "model", "score", "score_kind")
OPTIONAL = ("response", "response_chars", "prompt_tokens", "completion_tokens", "latency_s", "reference")

Row = dict[str, Any]
_Cell = TypeVar("_Cell")


def read_parquet(
    path: Path,
    models: Sequence[str] | None = None,
    source: str = "a file of your own",
    licence: str = "unknown",
    prices: Path | None = None,
    name: str | None = None,
) -> ReplaySample:
    """Read a Parquet log; only `models` if given. Prices come from `prices`, or `prices.json` beside the file if there.

    Queries of the same normalised text are one query: the first of them by key is kept.

    Raises
    ------
    SampleError: pyarrow is missing, the file cannot be read, a column is missing, or no row is left.
    """
    rows = _rows(path, models)
    names = tuple(models) if models is not None else tuple(sorted({row["model"] for row in rows}))
    tables = _price_tables(prices or path.with_name("prices.json"))
    header = Header(
        name=name or path.stem,
        dataset=str(rows[0]["dataset"]),
        source=source,
        licence=licence,
        models=tuple(_priced(model, tables) for model in names),
    )
    return ReplaySample(header, _queries(rows, names))


def _rows(path: Path, models: Sequence[str] | None) -> list[Row]:
    try:
        import pyarrow.parquet as parquet
    except ImportError as error:
        raise SampleError(f"reading {path.name} needs pyarrow: pip install 'tokamak[learn]'") from error
    try:
        columns = set(parquet.read_schema(path).names)
        missing = [column for column in NEEDED if column not in columns]
        if missing:
            raise SampleError(f"{path} lacks the columns {', '.join(missing)}; expected {', '.join(NEEDED)}")
        table = parquet.read_table(path, columns=[*NEEDED, *(name for name in OPTIONAL if name in columns)])
    except (OSError, ValueError) as error:
        raise SampleError(f"{path} is not a readable Parquet file: {error}") from error
    rows: list[Row] = table.to_pylist()
    kept = [row for row in rows if row["score"] is not None and (models is None or row["model"] in models)]
    if not kept:
        raise SampleError(f"{path} holds no scored row of the models asked for")
    return kept


def _price_tables(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    tables: dict[str, Any] = orjson.loads(path.read_bytes())
    return tables


def _priced(model: str, tables: dict[str, Any]) -> LoggedModel:
    price = list_price(tables, model) if tables else None
    if price is None:
        return LoggedModel(name=model)
    return LoggedModel(
        name=model,
        prompt_per_1m=price.prompt_per_1m,
        completion_per_1m=price.completion_per_1m,
        price_source=price.source,
    )


def _queries(rows: list[Row], models: Sequence[str]) -> list[LoggedQuery]:
    grouped: dict[tuple[str, str], dict[str, Row]] = {}
    for row in rows:
        grouped.setdefault((row["task"], str(row["query_id"])), {})[row["model"]] = row
    seen: set[str] = set()
    queries = []
    for (task, query_id), answers in sorted(grouped.items()):
        some = next(iter(answers.values()))
        key = normalise(some["query"])
        if not key or key in seen:
            continue
        seen.add(key)
        queries.append(
            LoggedQuery(
                task=task,
                query_id=query_id,
                text=some["query"],
                score_kind=some["score_kind"],
                reference=some.get("reference"),
                scores=tuple(round(answers[m]["score"], 4) if m in answers else None for m in models),
                texts=_column(answers, models, "response", str),
                chars=_column(answers, models, "response_chars", int),
                prompt_tokens=_column(answers, models, "prompt_tokens", int),
                completion_tokens=_column(answers, models, "completion_tokens", int),
                latency_s=_column(answers, models, "latency_s", float),
            )
        )
    return queries


def _column(
    answers: dict[str, Row], models: Sequence[str], name: str, kind: Callable[[Any], _Cell]
) -> tuple[_Cell | None, ...] | None:
    """One column of the answers, aligned with the models; None where no answer has it."""
    cells = tuple(answers[model].get(name) if model in answers else None for model in models)
    if all(cell is None for cell in cells):
        return None
    return tuple(None if cell is None else kind(cell) for cell in cells)
