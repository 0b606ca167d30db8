"""Repeated requests over real HTTP: who gets an earlier answer, what it says of itself, and who must not get it."""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest

from registry.artifacts import Artifacts
from registry.config_file import ConfigError, parse_config
from registry.rollouts import Rollouts
from tests.gateway.conftest import redis_url
from tests.gateway.live import (
    HI,
    WAIT_S,
    Fleet,
    Gateway,
    configured,
    fleet,
    payloads,
    streamed_text,
    until,
)
from tests.gateway.test_hot_swap import publish
from tests.gateway.test_ways_of_asking import ASK, add_template
from tests.upstream import answer, cut, failing, gated, tool_call
from tests.upstream.answers import USAGE
from tests.upstream.script import Gate

__all__ = ["redis_url"]

ON: dict[str, Any] = {"exact": {}}
COLD: dict[str, Any] = {"temperature": 0}
KEYS = [{"id": "one", "key_env": "ONE"}, {"id": "two", "key_env": "TWO"}, {"id": "three", "key_env": "THREE"}]
SECRETS = {"ONE": "sk-one", "TWO": "sk-two", "THREE": "sk-three"}


@pytest.fixture(scope="module")
def _live(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Fleet]:
    with fleet(tmp_path_factory.mktemp("cache"), cache=ON) as live:
        yield live


@pytest.fixture
def abc(_live: Fleet) -> Fleet:
    _live.forget()
    return _live


def ask(text: str) -> list[Any]:
    return [{"role": "user", "content": text}]


def found(response: httpx.Response) -> str:
    assert response.status_code == 200, response.text
    return response.headers["x-tokamak-cache"]


def test_the_same_request_again_gets_the_same_bytes_and_costs_nothing(abc: Fleet) -> None:
    first = abc.chat(messages=ask("once"), **COLD)
    second = abc.chat(messages=ask("once"), **COLD)
    assert (found(first), found(second)) == ("miss", "hit")
    assert second.content == first.content
    assert sum(abc.calls().values()) == 1
    assert float(second.headers["x-tokamak-cost-usd"]) == 0.0
    assert second.headers["x-tokamak-attempts"] == "0"
    assert second.headers["x-tokamak-route"] == "cache"
    assert second.headers["x-tokamak-model"] == first.headers["x-tokamak-model"]
    assert int(second.headers["age"]) >= 0
    assert "age" not in first.headers


def test_the_record_of_a_hit_tells_the_truth(abc: Fleet) -> None:
    made = abc.record_of(abc.chat("beta", messages=ask("truth"), **COLD))
    again = abc.record_of(abc.chat("beta", messages=ask("truth"), **COLD))
    assert made.cached_from is None
    assert made.cost_usd is not None
    assert made.cost_usd > 0
    assert (again.outcome, again.http_status, again.cached_from, again.attempts) == ("ok", 200, made.id, ())
    assert (again.arm, again.usage, again.cost_usd) == (made.arm, made.usage, 0.0)
    assert (again.response, again.query_text, again.route) == (made.response, "truth", "cache")
    assert (again.decision, again.vector, again.answer_id) == (None, None, None)


@pytest.mark.parametrize("model", ["auto", "alpha"])
@pytest.mark.parametrize("first_streams", [True, False])
@pytest.mark.parametrize("usage", [True, False])
def test_a_stream_and_a_whole_answer_stand_for_each_other(
    abc: Fleet, model: str, first_streams: bool, usage: bool
) -> None:
    asked: dict[str, Any] = {"messages": ask(f"{model}{first_streams}{usage}"), **COLD}
    streaming: dict[str, Any] = {"stream": True, **({"stream_options": {"include_usage": True}} if usage else {})}
    first = abc.chat(model, **asked, **(streaming if first_streams else {}))
    streamed = abc.chat(model, **asked, **streaming)
    whole = abc.chat(model, **asked)
    assert [found(r) for r in (first, streamed, whole)] == ["miss", "hit", "hit"]
    assert sum(abc.calls().values()) == 1
    events = payloads(streamed)
    assert streamed.headers["content-type"].startswith("text/event-stream")
    assert streamed_text(events) == whole.json()["choices"][0]["message"]["content"] == "Hello there."
    assert events[-1] == "[DONE]"
    assert [e["usage"] for e in events[:-1] if e.get("usage")] == ([USAGE] if usage else [])
    assert whole.json()["usage"] == USAGE
    assert whole.json()["object"] == "chat.completion"


@pytest.mark.parametrize("first_streams", [True, False])
def test_tool_calls_come_back_through_the_openai_client(abc: Fleet, first_streams: bool) -> None:
    tools: Any = [{"type": "function", "function": {"name": "add", "parameters": {"type": "object"}}}]
    calls = (tool_call("add", '{"a": 1, "b": 2}'), tool_call("add", '{"a": 3}', "call_2"))
    abc["alpha"].script(answer(tool_calls=calls))
    asked: Any = {"model": "alpha", "messages": ask(f"tools {first_streams}"), "tools": tools, "temperature": 0}
    if first_streams:
        list(abc.client.chat.completions.create(**asked, stream=True))
        whole = abc.client.chat.completions.create(**asked)
    else:
        whole = abc.client.chat.completions.create(**asked)
    with abc.client.chat.completions.stream(**asked) as stream:
        final = stream.get_final_completion()
    assert abc.calls()["alpha"] == 1
    for completion in (whole, final):
        made: Any = completion.choices[0].message.tool_calls
        assert [(c.id, c.function.arguments) for c in made] == [("call_1", '{"a": 1, "b": 2}'), ("call_2", '{"a": 3}')]
        assert completion.choices[0].finish_reason == "tool_calls"


@pytest.mark.parametrize("first_streams", [True, False])
def test_text_completions_and_embeddings_are_kept_too(abc: Fleet, first_streams: bool) -> None:
    asked: Any = {"model": "alpha", "prompt": f"Say {first_streams}", "temperature": 0}
    first = abc.post("/v1/completions", {**asked, "stream": first_streams})
    whole = abc.post("/v1/completions", asked)
    streamed = abc.post("/v1/completions", {**asked, "stream": True})
    assert [found(r) for r in (first, whole, streamed)] == ["miss", "hit", "hit"]
    assert whole.json()["choices"][0]["text"] == "Hello there."
    said = [e["choices"][0]["text"] for e in payloads(streamed) if e != "[DONE]" and e["choices"]]
    assert "".join(said) == "Hello there."
    embed = {"model": "alpha", "input": f"text {first_streams}"}
    answers = [abc.post("/v1/embeddings", embed) for _ in range(2)]
    assert [found(r) for r in answers] == ["miss", "hit"]
    assert answers[0].content == answers[1].content


@pytest.mark.parametrize("first_streams", [True, False])
def test_several_choices_come_back_as_several(abc: Fleet, first_streams: bool) -> None:
    abc["alpha"].script(answer("a", "b", n=3))
    asked: Any = {"messages": ask(f"many {first_streams}"), "n": 3, "seed": 1}
    abc.chat("alpha", **asked, stream=first_streams)
    whole = abc.chat("alpha", **asked)
    streamed = abc.chat("alpha", **asked, stream=True)
    assert (found(whole), found(streamed)) == ("hit", "hit")
    assert [c["index"] for c in whole.json()["choices"]] == [0, 1, 2]
    ended = [c["index"] for e in payloads(streamed)[:-1] for c in e["choices"] if c["finish_reason"]]
    assert ended == [0, 1, 2]


@pytest.mark.parametrize("fields", [{}, {"temperature": 0.7}, {"temperature": 0, "web_search_options": {}}])
def test_what_differs_each_time_is_kept_only_if_that_is_wished(abc: Fleet, fields: dict[str, Any]) -> None:
    asked = {"messages": ask(f"warm {sorted(fields)}"), **fields}
    assert [found(abc.chat("alpha", **asked)) for _ in range(2)] == ["bypass", "bypass"]
    wish = {"routing": {"cache": "use"}}
    assert [found(abc.chat("alpha", **asked, **wish)) for _ in range(2)] == ["miss", "hit"]
    assert found(abc.chat("alpha", **asked, headers={"x-tokamak-routing-cache": "use"})) == "hit"
    assert "routing" not in abc["alpha"].last.json


def test_refresh_asks_anew_and_no_store_has_no_part_in_it(abc: Fleet) -> None:
    asked = {"messages": ask("changes"), **COLD}
    abc["alpha"].script(answer("old"), answer("unseen"), answer("new"))
    assert found(abc.chat("alpha", **asked)) == "miss"
    unseen = abc.chat("alpha", **asked, routing={"cache": "no-store"})
    assert (found(unseen), unseen.json()["choices"][0]["message"]["content"]) == ("bypass", "unseen")
    assert abc.chat("alpha", **asked).json()["choices"][0]["message"]["content"] == "old"
    refreshed = abc.chat("alpha", **asked, headers={"x-tokamak-routing-cache": "refresh"})
    assert (found(refreshed), refreshed.json()["choices"][0]["message"]["content"]) == ("bypass", "new")
    last = abc.chat("alpha", **asked)
    assert (found(last), last.json()["choices"][0]["message"]["content"]) == ("hit", "new")


def test_an_unknown_wish_is_refused(abc: Fleet) -> None:
    response = abc.chat("alpha", routing={"cache": "maybe"})
    assert response.status_code == 400
    assert response.json()["error"]["param"] == "routing.cache"


def test_who_asks_for_a_fresher_answer_does_not_get_an_old_one(abc: Fleet) -> None:
    asked = {"messages": ask("fresh"), **COLD}
    abc.chat("alpha", **asked)
    assert found(abc.chat("alpha", **asked, routing={"cache_ttl_s": 1e-6})) == "miss"
    until(lambda: found(abc.chat("alpha", **asked)) == "miss", "what was kept for a microsecond was kept for longer")


def test_nothing_of_store_false_is_kept_or_read(abc: Fleet) -> None:
    asked = {"messages": ask("private"), **COLD}
    assert [found(abc.chat("alpha", **asked, store=False)) for _ in range(2)] == ["bypass", "bypass"]
    assert found(abc.chat("alpha", **asked)) == "miss"
    assert found(abc.chat("alpha", **asked, store=False)) == "bypass"
    assert abc.calls()["alpha"] == 4


def test_an_explanation_is_of_a_decision_that_is_really_taken(abc: Fleet) -> None:
    asked = {"messages": ask("why"), **COLD}
    abc.chat(**asked)
    explained = abc.chat(**asked, routing={"explain": True})
    assert found(explained) == "bypass"
    assert explained.json()["route"]["arm"]


@pytest.mark.parametrize(
    "script",
    [
        answer("cut", n=2, finish_reason="length"),
        answer("no", n=2, finish_reason="content_filter"),
        answer("odd", n=2, finish_reason="whatever"),
        answer("", n=2),
        answer("one of two", n=1),
        failing(500),
    ],
)
@pytest.mark.parametrize("stream", [True, False])
def test_what_is_not_whole_is_not_kept(abc: Fleet, script: Any, stream: bool, request: pytest.FixtureRequest) -> None:
    asked = {"messages": ask(request.node.name), **COLD, "n": 2, "stream": stream}
    abc["alpha"].script(script)
    abc.chat("alpha", **asked)
    abc["alpha"].script(answer("good", n=2))
    assert found(abc.chat("alpha", **asked)) == "miss"
    assert found(abc.chat("alpha", **asked)) == "hit"


def test_a_stream_that_broke_off_is_not_kept(abc: Fleet) -> None:
    asked = {"messages": ask("broken"), **COLD, "stream": True}
    abc["alpha"].script(cut(answer(), 2))
    assert "stream_broken" in abc.chat("alpha", **asked).text
    assert found(abc.chat("alpha", **asked)) == "miss"


def test_an_answer_whose_client_left_is_not_kept(abc: Fleet) -> None:
    asked = {"model": "alpha", "messages": ask("left"), **COLD, "stream": True}
    gate = Gate()
    abc["alpha"].script(gated(answer(), gate, after=2))
    with abc.http.stream("POST", "/v1/chat/completions", json=asked, headers={"x-request-id": "leaver"}) as response:
        next(response.iter_raw())
    assert abc.gateway.record("leaver").outcome == "aborted"
    gate.open()
    assert found(abc.chat("alpha", messages=ask("left"), **COLD)) == "miss"


def test_an_answer_whose_client_left_before_it_began_is_not_kept(abc: Fleet) -> None:
    asked = {"model": "alpha", "messages": ask("left early"), **COLD}
    gate = Gate()
    abc["alpha"].script(gated(answer(), gate, after=-1))
    with httpx.Client(base_url=abc.gateway.root, timeout=0.3) as client, pytest.raises(httpx.ReadTimeout):
        client.post("/v1/chat/completions", json=asked, headers={"x-request-id": "early"})
    assert abc.gateway.record("early").outcome == "aborted"
    gate.open()
    assert found(abc.chat("alpha", messages=ask("left early"), **COLD)) == "miss"


def test_other_wishes_other_answers(abc: Fleet) -> None:
    """Each of these differs in what it asks for, so each asks an upstream, and each finds its own answer again."""
    variants: list[dict[str, Any]] = [
        {}, {"model": "beta"}, {"temperature": 0.0, "seed": 1}, {"temperature": 0, "max_tokens": 5},
        {"temperature": 0, "stop": ["x"]}, {"temperature": 0, "response_format": {"type": "json_object"}},
        {"temperature": 0, "routing": {"models": ["gamma"]}, "model": "auto"}, {"model": "auto:best"},
        {"model": "auto", "metadata": {"workload": "sums"}}, {"user": "ann"}, {"safety_identifier": "bob"},
    ]  # fmt: skip
    requests = [{"model": "alpha", "messages": ask("variants"), **COLD, **variant} for variant in variants]
    assert [found(abc.chat(**request)) for request in requests] == ["miss"] * len(requests)
    assert [found(abc.chat(**request)) for request in requests] == ["hit"] * len(requests)
    assert sum(abc.calls().values()) == len(requests)


def test_what_does_not_change_the_answer_does_not_matter(abc: Fleet) -> None:
    asked = {"messages": ask("same"), **COLD}
    assert found(abc.chat("alpha", **asked)) == "miss"
    for other in (
        {"temperature": 0.0}, {"metadata": {"session_id": "s", "team": "t"}}, {"prompt_cache_key": "p"},
        {"store": True}, {"stream": True}, {"routing": {"deadline_ms": 5000}},
        {"messages": [{"content": "same", "role": "user"}]},
    ):  # fmt: skip
        assert found(abc.chat("alpha", **{**asked, **other})) == "hit", other


def test_a_key_never_sees_the_answer_of_another(tmp_path: Path) -> None:
    with fleet(tmp_path, key="sk-one", environ=SECRETS, cache=ON, limits={"keys": KEYS}) as live:
        live["alpha"].script(answer("for one"), answer("for two"))
        first = live.chat("alpha", **COLD)
        second = live.chat("alpha", **COLD, headers={"authorization": "Bearer sk-two"})
        assert (found(first), found(second)) == ("miss", "miss")
        for key, text in (("sk-one", "for one"), ("sk-two", "for two")):
            again = live.chat("alpha", **COLD, headers={"authorization": f"Bearer {key}"})
            assert (found(again), again.json()["choices"][0]["message"]["content"]) == ("hit", text)
        assert live.chat("alpha", **COLD, headers={"authorization": "Bearer sk-none"}).status_code == 401


def test_a_hit_is_a_request_of_its_key_but_takes_nothing_of_its_budget(tmp_path: Path) -> None:
    keys = [{"id": "one", "key_env": "ONE", "requests_per_minute": 3, "tokens_per_minute": 1_000, "usd_per_day": 1e-4}]
    prices = {"prices": {"prompt_per_1m": 10.0, "completion_per_1m": 1.0}}
    with fleet(tmp_path, {"m": prices}, key="sk-one", environ=SECRETS, cache=ON, limits={"keys": keys}) as live:
        live["m"].default = answer("long", usage={"prompt_tokens": 11, "completion_tokens": 600, "total_tokens": 611})
        assert [found(live.chat("m", **COLD)) for _ in range(3)] == ["miss", "hit", "hit"]
        assert live.chat("m", **COLD).json()["error"]["code"] == "rate_limit_exceeded"


@pytest.mark.parametrize(("per_user", "expected"), [(True, "miss"), (False, "hit")])
def test_per_user(tmp_path: Path, per_user: bool, expected: str) -> None:
    with fleet(tmp_path, {"m": {}}, cache={"exact": {"per_user": per_user}}) as live:
        live.chat("m", **COLD, user="ann")
        assert found(live.chat("m", **COLD, user="bob")) == expected
        assert found(live.chat("m", **COLD, user="ann")) == "hit"


def test_ttl_s(tmp_path: Path) -> None:
    with fleet(tmp_path, {"m": {}}, cache={"exact": {"ttl_s": 0.5}}) as live:
        live.chat("m", **COLD)
        assert until(lambda: found(live.chat("m", **COLD)) == "miss", "an answer outlives its time")


@pytest.mark.parametrize(("max_bytes", "expected"), [(100_000, "hit"), (1_500, "miss")])
def test_max_bytes(tmp_path: Path, max_bytes: int, expected: str) -> None:
    with fleet(tmp_path, {"m": {}}, cache={"exact": {"max_bytes": max_bytes}}) as live:
        live.chat("m", messages=ask("first"), **COLD)
        live.chat("m", messages=ask("second"), **COLD)
        assert found(live.chat("m", messages=ask("second"), **COLD)) == "hit"
        assert found(live.chat("m", messages=ask("first"), **COLD)) == expected


def test_without_a_cache_nothing_is_kept_and_no_header_says_so(tmp_path: Path) -> None:
    with fleet(tmp_path, {"m": {}}) as live:
        answers = [live.chat("m", **COLD, routing={"cache": "use"}) for _ in range(2)]
        assert [r.headers.get("x-tokamak-cache") for r in answers] == [None, None]
        assert live.calls() == {"m": 2}
        assert "tokamak_cache" not in live.http.get("/metrics").text


def test_the_metrics_count_hits_and_what_they_saved(tmp_path: Path) -> None:
    prices = {"prices": {"prompt_per_1m": 1e6, "completion_per_1m": 0.0}}
    with fleet(tmp_path, {"m": prices}, cache=ON) as live:
        for _ in range(3):
            live.chat("m", **COLD)
        live.chat("m")
        text = live.http.get("/metrics").text
    assert 'tokamak_cache_requests_total{result="hit"} 2' in text
    assert 'tokamak_cache_requests_total{result="miss"} 1' in text
    assert 'tokamak_cache_requests_total{result="bypass"} 1' in text
    assert "tokamak_cache_saved_usd_total 22" in text
    assert 'tokamak_tokens_total{model="m",type="prompt"} 22' in text
    assert 'tokamak_cost_usd_total{model="m"} 22' in text


def test_an_operator_throws_all_answers_away(abc: Fleet) -> None:
    abc.chat("alpha", messages=ask("thrown"), **COLD)
    removed = httpx.delete(f"{abc.gateway.admin_url}/admin/cache", timeout=WAIT_S)
    assert removed.json()["removed"] >= 1
    assert found(abc.chat("alpha", messages=ask("thrown"), **COLD)) == "miss"


def test_where_nothing_is_kept_nothing_is_thrown_away(tmp_path: Path) -> None:
    with fleet(tmp_path, {"m": {}}) as live:
        refused = httpx.delete(f"{live.gateway.admin_url}/admin/cache", timeout=WAIT_S)
    assert (refused.status_code, refused.json()["error"]["code"]) == (409, "no_cache")


def test_what_is_said_of_a_cached_answer_by_its_id_is_said_of_the_first(abc: Fleet) -> None:
    abc["alpha"].script(answer("told", id="chatcmpl-told"))
    asked = {"messages": ask("told"), **COLD}
    first = abc.record_of(abc.chat("alpha", **asked))
    again = abc.chat("alpha", **asked)
    abc.record_of(again)
    told = abc.post("/v1/feedback", {"request_id": again.json()["id"], "value": True})
    assert told.status_code == 200
    assert until(lambda: abc.gateway.feedback(), "no feedback")[-1].interaction_id == first.id


def test_replicas_share_answers_by_redis_(tmp_path: Path, redis_url: str) -> None:
    shared = {"exact": {"url": redis_url}}
    with fleet(tmp_path / "a", {"m": {}}, cache=shared) as live:
        again = [live.chat("m", messages=ask("shared"), **COLD, stream=stream) for stream in (True, True, False)]
        assert [found(r) for r in again] == ["miss", "hit", "hit"]
        assert again[2].json()["choices"][0]["message"]["content"] == "Hello there."
        upstream = live["m"]
        config = configured(tmp_path / "b", {"m": upstream.url}, {"m": {}}, cache=shared)
        with Gateway(config) as other, openai.OpenAI(base_url=other.url, api_key="x", timeout=WAIT_S) as client:
            raw = client.chat.completions.with_raw_response.create(model="m", messages=ask("shared"), temperature=0)
            assert raw.headers["x-tokamak-cache"] == "hit"
        # Another config asks itself: what it is told by the same name may be another model.
        config = configured(tmp_path / "c", {"m": upstream.url}, {"m": {"ways": ["think"]}}, cache=shared)
        with Gateway(config) as other, openai.OpenAI(base_url=other.url, api_key="x", timeout=WAIT_S) as client:
            raw = client.chat.completions.with_raw_response.create(model="m", messages=ask("shared"), temperature=0)
            assert raw.headers["x-tokamak-cache"] == "miss"


def test_without_its_redis_requests_go_on(tmp_path: Path) -> None:
    with fleet(tmp_path, {"m": {}}, cache={"exact": {"url": "redis://127.0.0.1:1/0"}}) as live:
        assert httpx.delete(f"{live.gateway.admin_url}/admin/cache", timeout=WAIT_S).status_code == 503
        assert [found(live.chat("m", messages=HI, **COLD)) for _ in range(3)] == ["bypass"] * 3
        assert "tokamak_cache_failures_total 0" not in live.http.get("/metrics").text


def test_what_a_cascade_answers_is_kept_with_the_usage_of_its_stages(tmp_path: Path) -> None:
    cascade = {"signal": "verifier", "pattern": "^\\d+$", "first": ["alpha"]}
    with fleet(tmp_path, cache=ON, routes={"auto": {"preference": 0.8, "cascade": cascade}}) as live:
        live["alpha"].script(answer("not a number"))
        for upstream in ("beta", "gamma"):
            live[upstream].script(answer("42"))
        made = live.record_of(live.chat(**COLD))
        again = live.chat(**COLD, stream=True)
        assert (found(again), streamed_text(payloads(again))) == ("hit", "42")
        assert made.route == "cascade"
        assert live.record_of(again).usage == made.usage
        assert made.usage is not None
        assert made.usage.prompt_tokens == 2 * USAGE["prompt_tokens"]


def test_a_control_request_is_not_kept(tmp_path: Path) -> None:
    add_template(tmp_path)
    share = {"control_share": 0.5, "control_pinned": True}
    with fleet(tmp_path, {"m": {"ways": ["direct", "thought"]}}, cache=ON, templates=share) as live:
        seen = set()
        for number in range(60):
            asked: dict[str, Any] = {"messages": ASK, "seed": number}
            record = live.record_of(live.chat("m#thought", **asked))
            again = found(live.chat("m#thought", **asked))
            seen.add(record.withheld)
            assert again == ("miss" if record.withheld else "hit")
            if len(seen) == 2:
                return
        raise AssertionError(f"all 60 requests were dealt alike: {seen}")


def test_with_redis_the_memory_of_this_process_is_not_bounded(tmp_path: Path) -> None:
    config = """
version: 1
upstreams: {u: {base_url: http://127.0.0.1:1/v1}}
models: {m: {endpoints: [{upstream: u}]}}
cache:
  exact: {url: "redis://127.0.0.1:1/0", max_bytes: 5}
"""
    with pytest.raises(ConfigError, match=r"t.yaml:6: `cache.exact.max_bytes`.*maxmemory"):
        parse_config(config, "t.yaml", {})


def test_a_new_router_asks_anew_and_a_canary_keeps_the_cache_out(tmp_path: Path) -> None:
    with fleet(tmp_path, cache=ON, routers={"poll_s": 0.05}) as live:
        artifacts = Artifacts(live.gateway.data_dir / "artifacts")
        champion, tried = publish(artifacts, "alpha"), publish(artifacts, "beta")

        numbers = count()

        def serves(version: str) -> bool:
            """Whether it decides a new conversation; a canary has a share of them."""
            return live.chat(messages=ask(f"talk {next(numbers)}")).headers["x-tokamak-router"] == version

        live.chat("auto", **COLD)
        assert found(live.chat("auto", **COLD)) == "hit"
        artifacts.deploy("router", champion)
        until(lambda: serves(champion), "the new router was not taken in")
        assert [found(live.chat("auto", **COLD)) for _ in range(2)] == ["miss", "hit"]
        Rollouts(artifacts, "router").canary(tried, 0.5, by="test", if_match="*")
        until(lambda: serves(tried), "the canary was not taken in")
        assert [found(live.chat("auto", **COLD)) for _ in range(2)] == ["bypass", "bypass"]
        assert [found(live.chat("beta", **COLD)) for _ in range(2)] == ["miss", "hit"]
