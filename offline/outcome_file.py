"""Outcomes from a file of scored answers: Parquet, or JSON lines (gzipped or not) with the same columns.

One row per (query, model). Needed: `query`, `model`, `score` in [0, 1] or a yes or no. Used where present: `task`,
`query_id`, `cost_usd`, `latency_s`, `prompt_tokens`, `completion_tokens`, `response_chars`, and `propensity`, the
probability with which the model was asked, as `tokamak log export --shape training` writes it. Without that column
every model that answered a query was asked it for sure: all propensities are 1.
"""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator, Mapping
from math import isinf, isnan
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
EXPECTED = "Parquet (.parquet), or JSON lines (.jsonl, .jsonl.gz)"
PRICE_KEYS = (
    ("input_token_price_per_million", "output_token_price_per_million"),
    ("input", "output"),
    ("prompt_per_1m", "completion_per_1m"),
)


class Answer(msgspec.Struct, frozen=True):
    """One row of the file."""

    query: str
    model: str
    score: float | bool | None
    task: str | None = None
    # Whole numbers may come as floats: data frames have no other columns of numbers with gaps.
    query_id: str | int | float | None = None
    cost_usd: float | None = None
    latency_s: float | None = None
    prompt_tokens: int | float | None = None
    completion_tokens: int | float | None = None
    response_chars: int | float | None = None
    propensity: float | None = 1.0


def outcomes_from_file(path: Path, encoder: Encoder, prices: Mapping[str, Prices] | None = None) -> Outcomes:
    """Read and encode a file. Where no cost was logged it is estimated from `prices` and lengths, else unknown.

    Raises
    ------
    TrainingError: the file is absent, truncated or lacks a column, a score or propensity is missing or out of range, a
        (query, model) occurs twice, or one query id stands for two texts. Says where.
    """
    table = OutcomeTable()
    seen: dict[tuple[str, str, str], float] = {}
    texts: dict[tuple[str, str], str] = {}
    for number, answer in enumerate(_answers(path), start=1):
        where = f"{path.name}, row {number}"
        text = clip(answer.query)
        query = (answer.task or "", _id(answer))
        _check(answer, query, where, seen, texts)
        table.add(
            content_id(text),
            answer.model,
            seen[*query, answer.model],
            text=text,
            cost_usd=_known(_cost(answer, prices or {})),
            latency_s=_known(answer.latency_s),
            propensity=answer.propensity or 1.0,
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
    score, propensity, key = answer.score, answer.propensity, (*query, answer.model)
    task, name = query
    asked = f"query {name}" + (f" of task {task}" if task else "")
    if score is None or not 0.0 <= score <= 1.0:
        raise TrainingError(f"{where}: score must lie in [0, 1], got {score}; leave out answers that were not scored")
    if propensity is None or not 0.0 < propensity <= 1.0:
        raise TrainingError(
            f"{where}: propensity must lie in (0, 1], got {propensity}; it is the probability with which the model was "
            "asked: 1 if it was asked for sure; leave the row out if it is not known"
        )
    for column, value in (("cost_usd", answer.cost_usd), ("latency_s", answer.latency_s)):
        if value is not None and (value < 0.0 or isinf(value)):
            raise TrainingError(f"{where}: {column} must be finite and not negative, got {value}; leave it empty")
    if not answer.model:
        raise TrainingError(f"{where}: model is empty; name the model that gave the answer, or leave the row out")
    if key in seen:
        kind = "a duplicate of" if seen[key] == score else f"in contradiction (score {seen[key]}) to"
        raise TrainingError(
            f"{where}: {answer.model} on {asked} with score {float(score)} is {kind} an earlier row; keep one of them"
        )
    if texts.setdefault(query, answer.query) != answer.query:
        raise TrainingError(f"{where}: {asked} stands for another text in an earlier row; give each text its own id")
    seen[key] = float(score)


def _id(answer: Answer) -> str:
    """The query's id as text: 3 and 3.0 are one. That of its text where none is given."""
    given = answer.query_id
    if given is None or (isinstance(given, float) and isnan(given)):
        return content_id(answer.query)
    return str(int(given)) if isinstance(given, float) and given.is_integer() else str(given)


def _known(value: float | None) -> float | None:
    return None if value is None or isnan(value) else value


def _answers(path: Path) -> Iterator[Answer]:
    name = path.name
    if not path.is_file():
        raise TrainingError(f"{path} is not a file; expected {EXPECTED}")
    if name.endswith((".jsonl", ".jsonl.gz", ".json.gz", ".gz")):
        return _json_lines(path)
    if not name.endswith((".parquet", ".pq")):
        raise TrainingError(f"{path} is of no kind that can be read by its name; expected {EXPECTED}")
    return _parquet(path)


def _json_lines(path: Path) -> Iterator[Answer]:
    decoder = msgspec.json.Decoder(Answer)
    number = 0
    try:
        with gzip.open(path, "rb") if path.name.endswith(".gz") else path.open("rb") as lines:
            for line in lines:
                number += 1
                if line.strip():
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
    number = 0
    try:
        file = pyarrow.parquet.ParquetFile(path)
        wanted = [name for name in Answer.__struct_fields__ if name in file.schema_arrow.names]
        lacking = [name for name in ("query", "model", "score") if name not in wanted]
        if lacking:
            raise TrainingError(f"{path.name} lacks the columns {lacking}; it has {file.schema_arrow.names}")
        for batch in file.iter_batches(batch_size=8192, columns=wanted):
            for row in batch.to_pylist():
                number += 1
                yield msgspec.convert(row, Answer)
    except (pyarrow.ArrowException, OSError) as error:
        raise TrainingError(f"{path} is truncated or not Parquet ({error}); fetch it again") from error
    except msgspec.ValidationError as error:
        raise TrainingError(f"{path.name}, row {number}: {error}") from error


def _cost(answer: Answer, prices: Mapping[str, Prices]) -> float | None:
    if _known(answer.cost_usd) is not None:
        return answer.cost_usd
    price = prices.get(plain_name(answer.model))
    if price is None:
        return None
    completion, prompt, length = (
        _known(count) for count in (answer.completion_tokens, answer.prompt_tokens, answer.response_chars)
    )
    if completion is None and length is not None:
        completion = length / CHARS_PER_TOKEN
    if prompt is None:
        prompt = len(answer.query) / CHARS_PER_TOKEN
    return price.cost(round(prompt), None if completion is None else round(completion))


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
