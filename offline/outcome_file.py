"""Outcomes from a file of scored answers: Parquet, or gzipped JSON lines with the same columns.

One row per (query, model). Needed: `query`, `model`, `score` in [0, 1]. Used where present: `task`, `query_id`,
`cost_usd`, `latency_s`, `prompt_tokens`, `completion_tokens`, `response_chars`. Every model that answered a query was
asked it for sure, so all propensities are 1.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from math import isnan
from pathlib import Path
from typing import Any

import msgspec

from encoders.protocol import Encoder
from encoders.query_text import clip
from offline.outcomes import OutcomeTable, content_id
from registry.arms import Prices
from routers.protocol import Outcomes, TrainingError

CHARS_PER_TOKEN = 4.0
"""Estimate of token counts, for cost, where only lengths are known."""
PRICE_KEYS = (
    ("input_token_price_per_million", "output_token_price_per_million"),
    ("input", "output"),
    ("prompt_per_1m", "completion_per_1m"),
)


class Answer(msgspec.Struct, frozen=True):
    """One row of the file."""

    query: str
    model: str
    score: float | None
    task: str | None = None
    query_id: str | int | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    response_chars: int | None = None


def outcomes_from_file(path: Path, encoder: Encoder, prices: Mapping[str, Prices] | None = None) -> Outcomes:
    """Read and encode a file. Where no cost was logged it is estimated from `prices` and lengths, else unknown.

    Raises
    ------
    TrainingError: the file is absent, truncated or lacks a column, a score is missing or out of range, a (query, model)
        occurs twice, or one query id stands for two texts. Says where.
    """
    table = OutcomeTable()
    seen: dict[tuple[str, str, str], float] = {}
    texts: dict[tuple[str, str], str] = {}
    for number, answer in enumerate(_answers(path), start=1):
        where = f"{path.name}, row {number}"
        text = clip(answer.query)
        query = (answer.task or "", str(answer.query_id) if answer.query_id is not None else content_id(answer.query))
        _check(answer, query, where, seen, texts)
        table.add(
            content_id(text),
            answer.model,
            seen[*query, answer.model],
            text=text,
            cost_usd=_cost(answer, prices or {}),
            latency_s=answer.latency_s,
            task=answer.task,
        )
    return table.outcomes(encoder.hash, encoder)


def _check(
    answer: Answer,
    query: tuple[str, str],
    where: str,
    seen: dict[tuple[str, str, str], float],
    texts: dict[tuple[str, str], str],
) -> None:
    """Note the answer in `seen` and `texts`, or raise TrainingError."""
    score, key = answer.score, (*query, answer.model)
    if score is None or isnan(score) or not 0.0 <= score <= 1.0:
        raise TrainingError(f"{where}: score must lie in [0, 1], got {score}; leave out answers that were not scored")
    if key in seen:
        kind = "a duplicate of" if seen[key] == score else f"in contradiction (score {seen[key]}) to"
        raise TrainingError(f"{where}: {answer.model} on query {query} with score {score} is {kind} an earlier row")
    if texts.setdefault(query, answer.query) != answer.query:
        raise TrainingError(f"{where}: query id {query} stands for another text in an earlier row")
    seen[key] = score


def _answers(path: Path) -> Iterator[Answer]:
    if not path.is_file():
        raise TrainingError(f"{path} is not a file; expected Parquet (.parquet) or gzipped JSON lines (.jsonl.gz)")
    return _json_lines(path) if path.name.endswith((".jsonl.gz", ".json.gz", ".gz")) else _parquet(path)


def _json_lines(path: Path) -> Iterator[Answer]:
    decoder = msgspec.json.Decoder(Answer)
    number = 0
    try:
        with gzip.open(path, "rb") as lines:
            for line in lines:
                number += 1
                yield decoder.decode(line)
    except (EOFError, gzip.BadGzipFile, zlib.error) as error:
        raise TrainingError(f"{path} is truncated or not gzip after row {number} ({error}); fetch it again") from error
    except msgspec.DecodeError as error:
        raise TrainingError(f"{path.name}, row {number}: {error}") from error


def _parquet(path: Path) -> Iterator[Answer]:
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise TrainingError(f"reading {path.name} needs pyarrow: pip install 'tokamak[learn]'") from error
    try:
        file = pyarrow.parquet.ParquetFile(path)
        wanted = [name for name in Answer.__struct_fields__ if name in file.schema_arrow.names]
        lacking = [name for name in ("query", "model", "score") if name not in wanted]
        if lacking:
            raise TrainingError(f"{path.name} lacks the columns {lacking}; it has {file.schema_arrow.names}")
        for batch in file.iter_batches(batch_size=8192, columns=wanted):
            for row in batch.to_pylist():
                yield msgspec.convert(row, Answer)
    except (pyarrow.ArrowException, OSError) as error:
        raise TrainingError(f"{path} is truncated or not Parquet ({error}); fetch it again") from error
    except msgspec.ValidationError as error:
        raise TrainingError(f"{path.name}: {error}") from error


def _cost(answer: Answer, prices: Mapping[str, Prices]) -> float | None:
    if answer.cost_usd is not None:
        return answer.cost_usd
    price = prices.get(plain_name(answer.model))
    if price is None:
        return None
    completion = answer.completion_tokens
    if completion is None and answer.response_chars is not None:
        completion = round(answer.response_chars / CHARS_PER_TOKEN)
    prompt = answer.prompt_tokens
    return price.cost(round(len(answer.query) / CHARS_PER_TOKEN) if prompt is None else prompt, completion)


def read_prices(path: Path) -> dict[str, Prices]:
    """Prices in USD per million tokens from JSON, by plain model name (lower case, without organisation and way).

    Understands `{model: {"input": x, "output": y}}` under the usual names of the two, `{model: [x, y]}` and `{model:
    x}`, also one level down (one object per source); the first price of a model counts.

    Raises
    ------
    TrainingError: not a JSON object, or no price in it.
    """
    try:
        content = msgspec.json.decode(path.read_bytes(), type=dict[str, Any])
    except (OSError, msgspec.DecodeError) as error:
        raise TrainingError(f"{path} is not a JSON object of prices ({error})") from error
    prices: dict[str, Prices] = {}
    for name, value in content.items():
        inner = value if _price(value) is None and isinstance(value, dict) else {name: value}
        for model, stated in inner.items():
            price = _price(stated)
            if price is not None:
                prices.setdefault(plain_name(model), price)
    if not prices:
        raise TrainingError(
            f"{path} holds no price; expected {{model: {{'input': USD, 'output': USD}}}} per million tokens"
        )
    return prices


def _price(value: Any) -> Prices | None:
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return Prices(float(value), float(value))
    if isinstance(value, list) and len(value) == 2:
        return Prices(float(value[0]), float(value[1]))
    if isinstance(value, dict):
        for prompt, completion in PRICE_KEYS:
            if prompt in value and completion in value:
                return Prices(float(value[prompt]), float(value[completion]))
    return None


def plain_name(model: str) -> str:
    """The name of a model as prices are kept by: lower case, without organisation and way of asking."""
    return model.partition("#")[0].rpartition("/")[2].lower()
