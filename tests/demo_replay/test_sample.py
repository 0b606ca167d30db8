"""The samples: what is bundled, how a query is found, where texts and token counts come from."""

from __future__ import annotations

import gzip
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from demo.replay.bundle import MAX_BYTES, MMLU_PRO_QUERIES, OPEN_MODELS
from demo.replay.config import EXPLORE, replay_config
from demo.replay.load import load_sample
from demo.replay.prices import list_price
from demo.replay.sample import (
    BUNDLED,
    Header,
    LoggedModel,
    LoggedQuery,
    ReplaySample,
    SampleError,
    bundled_samples,
    by_task,
    estimated_tokens,
    is_test,
    normalise,
    read_bundle,
    write_bundle,
)
from registry.config import Config


def two_models(*queries: LoggedQuery) -> ReplaySample:
    models = (LoggedModel(name="small", prompt_per_1m=1.0, completion_per_1m=2.0), LoggedModel(name="large"))
    return ReplaySample(Header(name="t", dataset="d", source="s", licence="MIT", models=models), queries)


def logged(text: str, **fields: object) -> LoggedQuery:
    record = {"task": "t", "query_id": text, "text": text, "score_kind": "exact_match", "scores": (1.0, 0.0)} | fields
    return LoggedQuery(**record)  # type: ignore[arg-type]


def test_bundled_samples_fit_and_are_named() -> None:
    assert bundled_samples() == ("llmrouter14", "mmlu_pro")
    assert sum(path.stat().st_size for path in BUNDLED.glob("*.gz")) <= MAX_BYTES


@pytest.mark.parametrize(("name", "queries", "models", "licence"), [
    ("llmrouter14", 5989, 9, "MIT"),
    ("mmlu_pro", MMLU_PRO_QUERIES, 12, "Apache-2.0"),
])  # fmt: skip
def test_bundled_sample_is_real_and_complete(name: str, queries: int, models: int, licence: str) -> None:
    sample = load_sample(name)
    assert (len(sample.queries), len(sample.models)) == (queries, models)
    assert sample.header.licence == licence
    assert len(by_task(sample.queries)) == 14
    for query in sample.queries:
        assert len(query.scores) == models
        assert all(score is not None and 0 <= score <= 1 for score in query.scores)
    assert all(model.prompt_per_1m and model.price_source for model in sample.header.models)


def test_mmlu_pro_carries_answer_texts_of_open_models() -> None:
    sample = load_sample("mmlu_pro")
    assert sample.models == OPEN_MODELS
    with_texts = [query for query in sample.queries if query.texts is not None]
    assert len(with_texts) == 1825
    query = with_texts[0]
    reply = sample.reply(query, "mathstral-7B")
    assert reply is not None
    assert reply.logged
    assert query.chars is not None
    assert reply.completion_tokens == estimated_tokens(query.chars[sample.columns["mathstral-7B"]] or 0)
    assert reply.usage_source == "answer_length"


def test_models_are_complementary() -> None:
    """A pool in which one model wins every task would have nothing to learn."""
    for name in bundled_samples():
        sample = load_sample(name)
        winners = set()
        for queries in by_task(sample.queries).values():
            means = {m: sum(sample.score(q, m) for q in queries) / len(queries) for m in sample.models}
            winners.add(max(means, key=lambda model: means[model]))
        assert len(winners) >= 2


def test_query_is_found_whatever_its_white_space() -> None:
    query = logged("What is\n\n  two and two?")
    assert two_models(query).find(" What is two\tand two?  ") is query
    assert two_models(query).find("What is two and three?") is None


@given(st.lists(st.text(alphabet="abc d\n\t", min_size=1), min_size=1, max_size=20))
def test_every_query_of_a_sample_is_found_again(texts: list[str]) -> None:
    distinct = {normalise(text): text for text in texts}
    sample = two_models(*(logged(text) for text in distinct.values()))
    for text in distinct.values():
        found = sample.find(f"  {text}\n")
        assert found is not None
        assert found.text == text


def test_two_queries_of_one_text_are_refused() -> None:
    with pytest.raises(SampleError, match="same text"):
        two_models(logged("a b"), logged("a  b"))


def test_missing_answer_is_not_a_score() -> None:
    query = logged("q", scores=(1.0, None))
    sample = two_models(query)
    assert sample.reply(query, "large") is None
    with pytest.raises(KeyError, match="large"):
        sample.score(query, "large")


def test_usage_names_its_source() -> None:
    counted = logged("counted", texts=("abcd" * 5, None), completion_tokens=(7, None), prompt_tokens=(3, None))
    measured = logged("measured", texts=("x", "y"), chars=(4000, 40))
    unknown = logged("unknown")
    sample = two_models(counted, measured, unknown)

    def usage(query: LoggedQuery, model: str) -> tuple[int, str]:
        reply = sample.reply(query, model)
        assert reply is not None
        return reply.completion_tokens, reply.usage_source

    assert usage(counted, "small") == (7, "logged")
    assert usage(measured, "small") == (1000, "answer_length")
    assert usage(unknown, "large") == (10, "model_mean_length")
    alone = two_models(unknown)
    reply = alone.reply(unknown, "small")
    assert reply is not None
    assert (reply.usage_source, reply.logged) == ("replayed_line", False)
    assert "exact_match" in reply.text


def test_bundle_survives_a_round_trip_bit_for_bit(tmp_path: Path) -> None:
    sample = two_models(logged("ü\nb", texts=("one", None), chars=(3, None), reference="A"), logged("c"))
    write_bundle(sample, tmp_path / "a.jsonl.gz")
    again = load_sample(tmp_path / "a.jsonl.gz")
    assert again.header == sample.header
    assert again.queries == sample.queries
    write_bundle(again, tmp_path / "b.jsonl.gz")
    assert (tmp_path / "a.jsonl.gz").read_bytes() == (tmp_path / "b.jsonl.gz").read_bytes()


def test_damaged_or_absent_samples_say_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(SampleError, match="llmrouter14"):
        load_sample("nothing")
    with pytest.raises(SampleError, match="no sample at"):
        load_sample(tmp_path / "absent.jsonl.gz")
    cut = tmp_path / "cut.jsonl.gz"
    cut.write_bytes((BUNDLED / "llmrouter14.jsonl.gz").read_bytes()[:5000])
    with pytest.raises(SampleError, match="not a whole sample"):
        read_bundle(cut)
    other = tmp_path / "other.jsonl.gz"
    header = b'{"name":"x","dataset":"x","source":"x","licence":"x","models":[],"format":"y"}'
    other.write_bytes(gzip.compress(header))
    with pytest.raises(SampleError, match="format 'y'"):
        read_bundle(other)


@given(st.lists(st.text(min_size=1), min_size=1, unique_by=normalise))
def test_split_depends_on_content_alone_and_grows_with_its_share(texts: list[str]) -> None:
    for text in texts:
        assert is_test(text, 0.3) == is_test(f" {text}\n", 0.3)
        assert not is_test(text, 0.0)
        assert is_test(text, 1.0)
        assert not (is_test(text, 0.2) and not is_test(text, 0.4))


def test_split_holds_about_its_share() -> None:
    queries = load_sample("llmrouter14").queries
    share = sum(is_test(query.text, 0.3) for query in queries) / len(queries)
    assert 0.28 < share < 0.32


@pytest.mark.parametrize("name", ["llmrouter14", "mmlu_pro"])
def test_config_is_valid_and_carries_prices(name: str) -> None:
    config = Config.model_validate(replay_config("http://127.0.0.1:9/v1", name))
    sample = load_sample(name)
    assert tuple(config.models) == sample.models
    assert config.routes[EXPLORE].exploration == 1.0
    for model in sample.header.models:
        prices = config.models[model.name].prices
        assert prices is not None
        assert prices.prompt_per_1m == model.prompt_per_1m


def test_model_without_a_price_gets_none_in_the_config() -> None:
    config = Config.model_validate(replay_config("http://127.0.0.1:9/v1", two_models(logged("q"))))
    assert config.models["large"].prices is None
    assert config.models["small"].prices is not None


def test_list_prices_are_read_from_all_three_kinds_of_table() -> None:
    tables = {
        "carrot_OPEN_COSTS": {"one": 0.5, "both": [1, 2]},
        "llmrouter_default_llm": {"named": {"input": 0.1, "output": 0.2}},
        "routerarena_cost_json": {
            "long": {"input_token_price_per_million": 3, "output_token_price_per_million": 15},
        },
    }
    found = {name: list_price(tables, name) for name in ("one", "both", "named", "long", "none")}
    assert {name: price and price[:2] for name, price in found.items()} == {
        "one": (0.5, 0.5), "both": (1.0, 2.0), "named": (0.1, 0.2), "long": (3.0, 15.0), "none": None,
    }  # fmt: skip
