"""What makes two requests the same: held against a plain statement of it, over many pairs that differ a little."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from registry.config import Config
from service.cache.fingerprint import Ambiguous, fingerprint, is_repeatable, read_fields, version_of
from service.routing_options import RoutingOptions

CHAT = "/chat/completions"
IGNORED = {
    "stream", "stream_options", "metadata", "prompt_cache_key", "prompt_cache_options", "prompt_cache_retention",
    "safety_identifier", "store", "user", "max_cost", "plugins", "routing",
}  # fmt: skip

texts = st.text(max_size=8)
scalars = st.none() | st.booleans() | st.integers(-3, 10**20) | st.floats(-2, 2) | texts
values = st.recursive(
    scalars, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3), max_leaves=6
)
names = st.sampled_from(
    ["model", "temperature", "top_p", "seed", "n", "tools", "tool_choice", "response_format", "stop", "logit_bias",
     "max_tokens", "reasoning_effort", "unknown_field", *sorted(IGNORED)]
)  # fmt: skip
messages = st.lists(st.fixed_dictionaries({"role": texts, "content": values}), max_size=3)
bodies = st.builds(lambda fields, said: {**fields, "messages": said}, st.dictionaries(names, values), messages)


def digest(
    body: dict[str, Any] | bytes,
    endpoint: str = CHAT,
    tenant: tuple[Any, ...] = ("key",),
    options: RoutingOptions | None = None,
    version: str = "v",
) -> bytes:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    return fingerprint(endpoint, read_fields(raw), tenant, options or RoutingOptions(), version)


def said(body: dict[str, Any]) -> str:
    """What a request asks for, plainly: in `messages` the order of keys is nothing, elsewhere it counts."""
    kept = {name: value for name, value in body.items() if name not in IGNORED}
    for name in ("temperature", "top_p"):
        if type(kept.get(name)) is int:
            kept[name] = float(kept[name])
    ordered = json.dumps(kept.pop("messages"), sort_keys=True)
    metadata = body.get("metadata")
    workload = metadata.get("workload") if isinstance(metadata, dict) else None
    return json.dumps([ordered, sorted((name, json.dumps(value)) for name, value in kept.items()), workload])


@given(bodies, bodies)
def test_two_requests_are_the_same_exactly_if_they_say_the_same(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert (digest(one) == digest(other)) == (said(one) == said(other))


@given(bodies, names, values, st.data())
def test_a_change_of_one_field_tells_or_does_not_as_it_should(
    body: dict[str, Any], name: str, value: Any, data: st.DataObject
) -> None:
    changed = {**body, name: value}
    assert (digest(changed) == digest(body)) == (said(changed) == said(body))
    dropped = {key: body[key] for key in body if key != name}
    assert (digest(dropped) == digest(body)) == (said(dropped) == said(body))


@given(bodies, st.randoms(use_true_random=False), st.booleans())
def test_the_way_of_writing_says_nothing(body: dict[str, Any], chance: Any, ascii_only: bool) -> None:
    order = list(body)
    chance.shuffle(order)
    turned = {key: body[key] for key in order}
    turned["messages"] = [dict(reversed(message.items())) for message in body["messages"]]
    written = json.dumps(turned, indent=2, ensure_ascii=ascii_only).encode("utf-8", "surrogatepass")
    assert digest(written) == digest(body)


def test_the_order_of_a_schema_counts_because_answers_follow_it() -> None:
    def schema(*names: str) -> dict[str, Any]:
        return {"messages": [], "response_format": {"schema": {name: {} for name in names}}}

    assert digest(schema("a", "b")) != digest(schema("b", "a"))


OPTIONS = [
    RoutingOptions(), RoutingOptions(preference=0.5), RoutingOptions(models=("a",)), RoutingOptions(models=("b",)),
    RoutingOptions(exploration=0.5), RoutingOptions(max_cost_usd=0.5), RoutingOptions(lambda_per_usd=0.5),
    RoutingOptions(affinity=True), RoutingOptions(affinity=False), RoutingOptions(judge=True),
]  # fmt: skip


def test_who_asks_where_and_with_which_wishes_counts() -> None:
    body: dict[str, Any] = {"messages": []}
    found = [digest(body, options=options) for options in OPTIONS]
    found += [digest(body, endpoint="/completions"), digest(body, version="w")]
    found += [digest(body, tenant=tenant) for tenant in ((), (None,), ("ke", "y"), ("key", None), (["key"],), ("KEY",))]
    assert len(set(found)) == len(found)


def test_wishes_about_the_delivery_do_not_count() -> None:
    body: dict[str, Any] = {"messages": []}
    for options in (
        RoutingOptions(deadline_ms=5), RoutingOptions(explain=True), RoutingOptions(cache="use"),
        RoutingOptions(cache_ttl_s=3),
    ):  # fmt: skip
        assert digest(body, options=options) == digest(body)
    twice = RoutingOptions(models=("b", "a", "a"))
    assert digest(body, options=twice) == digest(body, options=RoutingOptions(models=("a", "b")))


@given(st.lists(texts, max_size=3), st.lists(texts, max_size=3))
def test_no_two_tenants_are_one(one: list[str], other: list[str]) -> None:
    body: dict[str, Any] = {"messages": []}
    assert (digest(body, tenant=tuple(one)) == digest(body, tenant=tuple(other))) == (one == other)


@pytest.mark.parametrize(
    "raw",
    [
        b'{"temperature": 0, "temperature": 1}', b'{"messages": [{"role": "user", "role": "system"}]}', b"[]", b"1",
        b'{"seed": NaN}', b'{"seed": Infinity}', b'{"seed": 1e999}', b"{", b'{"a": ' + b"[" * 100_000, b"\xff",
        b'{"seed": ' + b"1" * 5_000 + b"}",
    ],
)  # fmt: skip
def test_what_readers_may_understand_differently_is_refused(raw: bytes) -> None:
    with pytest.raises(Ambiguous):
        digest(raw)


@given(st.binary(max_size=200))
def test_any_bytes_are_read_or_refused(raw: bytes) -> None:
    try:
        fields = read_fields(raw)
    except Ambiguous:
        return
    assert fields == json.loads(raw)


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"temperature": 0}, True), ({"temperature": 0.0}, True), ({"temperature": -0.0}, True), ({"seed": 0}, True),
        ({"seed": 7, "temperature": 1}, True), ({}, False), ({"temperature": 0.1}, False),
        ({"temperature": None}, False), ({"temperature": False}, False), ({"temperature": "0"}, False),
        ({"seed": None}, False), ({"seed": True}, False), ({"seed": 1.0}, False),
        ({"temperature": 0, "web_search_options": {}}, False),
        ({"temperature": 0, "web_search_options": None}, True),
    ],
)  # fmt: skip
def test_what_is_repeatable(fields: dict[str, Any], expected: bool) -> None:
    assert is_repeatable(CHAT, fields) is expected
    assert is_repeatable("/embeddings", fields) is True


def test_replicas_of_another_config_share_nothing() -> None:
    def config(**changes: Any) -> Config:
        base = {
            "version": 1,
            "upstreams": {"u": {"base_url": "http://a/v1"}},
            "models": {"m": {"endpoints": [{"upstream": "u"}]}},
        }
        return Config.model_validate({**base, **changes})

    here = version_of(config())
    assert version_of(config(server={"port": 1})) == here
    for change in (
        {"upstreams": {"u": {"base_url": "http://b/v1"}}},
        {"models": {"m": {"endpoints": [{"upstream": "u", "model": "other"}]}}},
        {"routes": {"auto": {"preference": 0.1}}},
        {"templates": {"top_k": 1}},
    ):
        assert version_of(config(**change)) != here
