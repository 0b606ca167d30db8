"""Keys that an operator creates while the service runs: by real HTTP, in two processes, by commands."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import openai
import pytest
from typer.testing import CliRunner

from offline.key_commands import keys_app
from service.guessing import GUESSES
from tests.gateway.live import HI, MODELS, Fleet, Gateway, assert_error, fleet, until
from tests.upstream import Gate, answer, gated

USAGE = {"prompt_tokens": 1000, "completion_tokens": 100, "total_tokens": 1100}
GAMMA_USD = (1000 * 10 + 100 * 40) / 1e6


class Operator:
    """What an operator does on the admin port, and what clients get with the keys."""

    def __init__(self, live: Fleet) -> None:
        self.live = live
        self.admin = httpx.Client(base_url=live.gateway.admin_url, timeout=20.0)

    def create(self, name: str, **settings: Any) -> tuple[str, str]:
        """The id and the secret of a new key."""
        made = self.admin.post("/admin/keys", json={"name": name, **settings})
        assert made.status_code == 201, made.text
        return made.json()["key"]["id"], made.json()["secret"]

    def change(self, method: str, path: str, body: Any = None) -> httpx.Response:
        return self.admin.request(method, f"/admin/keys/{path}", json=body or {}, headers={"if-match": "*"})

    def chat(self, secret: str, model: str = "alpha", **fields: Any) -> httpx.Response:
        return self.live.chat(model, headers={"authorization": f"Bearer {secret}"}, **fields)


@pytest.fixture(scope="module")
def _shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Operator]:
    keys = [{"id": "of-config", "key_env": "CONFIG_KEY"}]
    environ = {"CONFIG_KEY": "sk-of-the-config"}
    with fleet(tmp_path_factory.mktemp("created"), key="none", limits={"keys": keys}, environ=environ) as live:
        yield Operator(live)


@pytest.fixture
def op(_shared: Operator) -> Operator:
    _shared.live.forget()
    return _shared


def test_the_first_key_closes_an_open_endpoint_for_good(tmp_path: Path) -> None:
    with fleet(tmp_path) as live:
        op = Operator(live)
        assert live.chat("alpha").status_code == 200
        key_id, secret = op.create("first")
        assert_error(live.chat("alpha"), 401, "authentication_error", "invalid_api_key")
        assert op.chat(secret).status_code == 200
        assert op.change("POST", f"{key_id}/revoke").status_code == 200
        assert_error(op.chat(secret), 401, "authentication_error", "invalid_api_key")
    with fleet(tmp_path) as again:
        assert again.chat("alpha").status_code == 401, "a restart opens nothing"


def test_require_key_closes_it_before_there_is_any(tmp_path: Path) -> None:
    with fleet(tmp_path, limits={"require_key": True}) as live:
        assert_error(live.chat("alpha"), 401, "authentication_error", "invalid_api_key")
        assert Operator(live).chat(Operator(live).create("first")[1]).status_code == 200


def test_a_created_key_is_a_tenant_beside_those_of_the_config(op: Operator) -> None:
    key_id, secret = op.create("tenant")
    asked = op.chat(secret)
    assert op.live.record_of(asked).key_id == key_id
    assert op.live.record_of(op.chat("sk-of-the-config")).key_id == "of-config"
    assert op.admin.get("/admin/keys").json()["configured"] == ["of-config"]
    said = {"request_id": asked.headers["x-request-id"], "value": True}
    other = op.live.post("/v1/feedback", said, {"authorization": "Bearer sk-of-the-config"})
    assert_error(other, 404, "not_found_error", "request_not_found")
    assert op.live.post("/v1/feedback", said, {"authorization": f"Bearer {secret}"}).status_code == 200


def test_models_and_scopes_of_a_key(op: Operator) -> None:
    _, secret = op.create("narrow", models=["alpha", "bet*"], scopes=["chat", "models"])
    assert_error(op.chat(secret, "gamma"), 403, "permission_error", "model_not_allowed", "model")
    assert op.chat(secret, "auto:best").headers["x-tokamak-model"] == "beta"
    client = op.live.client.with_options(api_key=secret)
    assert "gamma" not in {model.id for model in client.models.list()}
    with pytest.raises(openai.PermissionDeniedError, match="scope"):
        client.embeddings.create(model="alpha", input="x")
    bearer = {"authorization": f"Bearer {secret}"}
    for path, body in [("/v1/completions", {"model": "alpha", "prompt": "x"}), ("/v1/route", {"messages": HI}),
                       ("/v1/feedback", {"request_id": "x", "value": True})]:  # fmt: skip
        assert_error(op.live.post(path, body, bearer), 403, "permission_error", "scope_not_allowed")
    refused = op.live.http.get("/metrics", headers=bearer)
    assert_error(refused, 403, "permission_error", "scope_not_allowed")
    _, seeing = op.create("metrics", scopes=["metrics"])
    assert op.live.http.get("/metrics", headers={"authorization": f"Bearer {seeing}"}).status_code == 200
    assert op.live.calls()["gamma"] == 0


def test_requests_a_minute(op: Operator) -> None:
    _, secret = op.create("slow", requests_per_minute=2)
    first, second, third = (op.chat(secret) for _ in range(3))
    assert [first.status_code, second.status_code] == [200, 200]
    assert first.headers["x-ratelimit-limit-requests"] == "2"
    assert [r.headers["x-ratelimit-remaining-requests"] for r in (first, second)] == ["1", "0"]
    assert_error(third, 429, "rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(third.headers["retry-after"]) <= 30
    assert third.headers["x-ratelimit-remaining-requests"] == "0"
    assert re.fullmatch(r"(\d+m)?\d+s", third.headers["x-ratelimit-reset-requests"])
    assert "x-ratelimit-limit-tokens" not in third.headers
    assert "x-ratelimit-limit-requests" not in op.chat("sk-of-the-config").headers


@pytest.mark.parametrize("stream", [False, True])
def test_tokens_a_minute_are_reserved_and_trued_up(op: Operator, stream: bool) -> None:
    _, secret = op.create(f"tokens {stream}", tokens_per_minute=3_000)
    op.live["alpha"].script(answer("x", usage=USAGE))
    first = op.chat(secret, stream=stream, max_tokens=10)
    assert first.headers["x-ratelimit-limit-tokens"] == "3000"
    assert 2_900 < int(first.headers["x-ratelimit-remaining-tokens"]) < 3_000, "as expected, before it is known"
    seen = op.chat(secret, max_tokens=1, stream=stream).headers
    assert 1_800 < int(seen["x-ratelimit-remaining-tokens"]) < 2_300, "the upstream said 1100"
    refused = op.chat(secret, max_tokens=2_900)
    assert_error(refused, 429, "rate_limit_error", "rate_limit_exceeded")
    assert int(refused.headers["retry-after"]) >= 1
    assert refused.headers["x-ratelimit-reset-tokens"]
    op.live["alpha"].script(answer("x", usage=USAGE))
    assert_error(op.chat(secret, max_tokens=5, stream="no"), 400, "invalid_request_error", "invalid_type")


def test_a_refused_request_gives_its_tokens_back(op: Operator) -> None:
    _, secret = op.create("refused", tokens_per_minute=3_000, models=["alpha"])
    for _ in range(5):
        assert op.chat(secret, "gamma", max_tokens=1_500).status_code == 403
    assert op.chat(secret, max_tokens=1_500).status_code == 200


def test_a_budget_in_usd_per_day(op: Operator) -> None:
    key_id, secret = op.create("paid", usd_per_day=1.5 * GAMMA_USD)
    for upstream in op.live.upstreams.values():
        upstream.default = answer("x", usage=USAGE)
    try:
        assert [op.chat(secret, "gamma").status_code for _ in range(2)] == [200, 200]
        refused = op.chat(secret, "gamma")
        assert key_id in assert_error(refused, 429, "rate_limit_error", "budget_exceeded")
        assert int(refused.headers["retry-after"]) >= 1
        assert op.change("PATCH", key_id, {"usd_per_day": 10.0}).status_code == 200
        assert op.chat(secret, "gamma").status_code == 200
        assert op.change("PATCH", key_id, {"usd_per_day": None}).status_code == 200
        assert op.chat(secret, "gamma").status_code == 200
        assert op.change("PATCH", key_id, {"usd_per_day": 0.5 * GAMMA_USD}).status_code == 200
        assert op.chat(secret, "gamma").status_code == 429, "what was spent today stays spent"
    finally:
        for upstream in op.live.upstreams.values():
            upstream.default = answer("x")


def test_what_a_created_key_has_spent_outlives_the_process(tmp_path: Path) -> None:
    with fleet(tmp_path) as live:
        live["gamma"].default = answer("x", usage=USAGE)
        _, secret = Operator(live).create("paid", usd_per_day=0.5 * GAMMA_USD)
        assert Operator(live).chat(secret, "gamma").status_code == 200
    with fleet(tmp_path) as live:
        assert_error(Operator(live).chat(secret, "gamma"), 429, "rate_limit_error", "budget_exceeded")


def test_a_budget_without_prices_is_refused(tmp_path: Path) -> None:
    with fleet(tmp_path, {"alpha": {}}) as live:
        body = {"name": "paid", "usd_per_day": 1.0}
        refused = httpx.post(f"{live.gateway.admin_url}/admin/keys", json=body)
        assert "prices" in assert_error(refused, 400, "invalid_request_error", "invalid_value", "usd_per_day")


def test_expiry(op: Operator) -> None:
    key_id, secret = op.create("short", expires_at=time.time() + 3_600)
    assert op.chat(secret).status_code == 200
    soon = time.time() + 0.3
    assert op.change("PATCH", key_id, {"expires_at": soon}).status_code == 200
    until(lambda: time.time() > soon, "time stands still")
    assert "expired" in assert_error(op.chat(secret), 401, "authentication_error", "invalid_api_key")
    assert op.admin.get(f"/admin/keys/{key_id}").json()["state"] == "expired"


def test_rotation_with_and_without_grace(op: Operator) -> None:
    key_id, old = op.create("turning")
    turned = op.change("POST", f"{key_id}/rotate", {"grace_s": 3_600}).json()
    new = turned["secret"]
    records = [op.live.record_of(op.chat(secret)) for secret in (old, new)]
    assert [record.key_id for record in records] == [key_id, key_id]
    assert [s["valid_until"] is None for s in turned["key"]["secrets"]] == [False, True]
    newest = op.change("POST", f"{key_id}/rotate", {"grace_s": 0}).json()["secret"]
    assert [op.chat(secret).status_code for secret in (old, new, newest)] == [401, 401, 200]


def test_a_revoked_key_ends_what_comes_but_not_what_runs(op: Operator) -> None:
    key_id, secret = op.create("leaving")
    gate = Gate()
    op.live["alpha"].script(gated(answer("whole"), gate, after=1))
    body = {"model": "alpha", "messages": HI, "stream": True}
    bearer = {"authorization": f"Bearer {secret}"}
    with op.live.http.stream("POST", "/v1/chat/completions", json=body, headers=bearer) as running:
        assert op.change("POST", f"{key_id}/revoke", {"reason": "left"}).json()["state"] == "revoked"
        assert_error(op.chat(secret), 401, "authentication_error", "invalid_api_key")
        gate.open()
        assert "[DONE]" in running.read().decode()
    assert_error(op.change("POST", f"{key_id}/rotate"), 409, "invalid_request_error", "key_conflict")
    entries = op.admin.get("/admin/keys/audit", params={"key": key_id}).json()["entries"]
    assert [(e["action"], e["why"]) for e in entries] == [("create", None), ("revoke", "left")]


def test_changes_need_the_etag(op: Operator) -> None:
    key_id, _ = op.create("careful")
    path = f"/admin/keys/{key_id}"
    shown = op.admin.get(path)
    assert shown.headers["etag"] == shown.json()["etag"]
    for method, where in [("PATCH", path), ("POST", f"{path}/rotate"), ("POST", f"{path}/revoke")]:
        missing = op.admin.request(method, where, json={})
        assert path in assert_error(missing, 428, "invalid_request_error", "if_match_required")
        stale = op.admin.request(method, where, json={"name": "b"} if method == "PATCH" else {},
                                 headers={"if-match": '"0"'})  # fmt: skip
        assert_error(stale, 412, "invalid_request_error", "stale_etag")
    seen = {"if-match": shown.headers["etag"]}
    changed = op.admin.patch(path, json={"models": ["beta"], "reason": "r"}, headers=seen)
    assert changed.json()["models"] == ["beta"]
    assert changed.headers["etag"] != shown.headers["etag"]
    assert_error(op.admin.get("/admin/keys/key_none"), 404, "not_found_error", "key_not_found")


@pytest.mark.parametrize(
    "body",
    [
        {}, {"name": ""}, {"name": "a\nb"}, {"name": "x", "models": []}, {"name": "x", "scopes": ["admin"]},
        {"name": "x", "requests_per_minute": 0}, {"name": "x", "tokens_per_minute": -1},
        {"name": "x", "usd_per_day": 0}, {"name": "x", "max_concurrent": 1.5}, {"name": "x", "expires_at": 1.0},
        {"name": "x", "secret": "sk-mine"}, {"name": "x", "when_spent": "never"}, b"{", [],
    ],
)  # fmt: skip
def test_a_wrong_body_makes_no_key(op: Operator, body: Any) -> None:
    before = op.admin.get("/admin/keys").json()["keys"]
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    response = op.admin.post("/admin/keys", content=content)
    assert response.status_code == 400
    assert response.json()["error"]["type"] == "invalid_request_error"
    assert op.admin.get("/admin/keys").json()["keys"] == before


def test_another_process_of_the_data_folder_follows(tmp_path: Path) -> None:
    with fleet(tmp_path, key="none") as live:
        op = Operator(live)
        with Gateway(live.gateway.config) as other:

            def through_other(secret: str) -> int:
                body = {"model": "alpha", "messages": HI}
                bearer = {"authorization": f"Bearer {secret}"}
                return httpx.post(f"{other.url}/chat/completions", json=body, headers=bearer).status_code

            assert through_other("none") == 200
            key_id, secret = op.create("both")
            until(lambda: through_other("none") == 401, "the other process stayed open")
            assert through_other(secret) == 200
            assert op.change("PATCH", key_id, {"models": ["beta"]}).status_code == 200
            until(lambda: through_other(secret) == 403, "the other process did not hear of the change")
            assert op.change("POST", f"{key_id}/revoke").status_code == 200
            until(lambda: through_other(secret) == 401, "the other process did not hear of the revocation")


def test_a_file_that_breaks_leaves_the_keys_of_before(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with fleet(tmp_path) as live:
        op = Operator(live)
        _, secret = op.create("steady")
        (tmp_path / "keys.db").write_bytes(b"torn" * 1000)
        until(lambda: "the keys of before go on" in caplog.text, "nobody told of the torn file")
        assert op.chat(secret).status_code == 200
        assert live.chat("alpha").status_code == 401
        assert_error(op.admin.get("/admin/keys"), 500, "api_error", "keys_unusable")


def test_wrong_keys_run_out_by_address(tmp_path: Path) -> None:
    with fleet(tmp_path, limits={"require_key": True}) as live:
        op = Operator(live)
        _, used = op.create("used from here")
        _, new = op.create("never used from here")
        assert op.chat(used).status_code == 200
        answers = [op.chat(f"sk-tokamak-guess-{number}") for number in range(GUESSES + 3)]
        assert [response.status_code for response in answers] == [401] * GUESSES + [429] * 3
        assert_error(answers[-1], 429, "rate_limit_error", "too_many_wrong_keys")
        assert 1 <= int(answers[-1].headers["retry-after"]) <= 10
        assert live.record_of(answers[-1]).error_code == "too_many_wrong_keys"
        assert_error(op.chat(new), 429, "rate_limit_error", "too_many_wrong_keys")
        listed = live.http.get("/v1/models", headers={"authorization": "Bearer sk-guess"})
        assert int(listed.headers["retry-after"]) >= 1
        assert op.chat(used).status_code == 200


def test_wrong_admin_tokens_run_out(tmp_path: Path) -> None:
    with fleet(tmp_path, environ={"TOKAMAK_ADMIN_TOKEN": "right"}) as live:
        url = f"{live.gateway.admin_url}/admin/keys"
        asked = [httpx.get(url, headers={"authorization": f"Bearer {n}"}) for n in range(GUESSES + 1)]
        assert [response.status_code for response in asked] == [401] * GUESSES + [429]
        assert int(asked[-1].headers["retry-after"]) >= 1
        refused = httpx.get(url, headers={"authorization": "Bearer right"})
        assert_error(refused, 429, "rate_limit_error", "too_many_wrong_keys")


def test_no_secret_is_in_any_sink(op: Operator, capfd: pytest.CaptureFixture[str]) -> None:
    key_id, first = op.create("canary")
    second = op.change("POST", f"{key_id}/rotate", {"grace_s": 60}).json()["secret"]
    seen: list[bytes] = []
    for secret in (first, second, f"{second}x"):
        bearer = {"authorization": f"Bearer {secret}"}
        for response in (op.chat(secret), op.chat(secret, "gamma", stream=True), op.chat(secret, "no-such-model"),
                         op.live.http.get("/v1/models", headers=bearer),
                         op.live.http.get("/metrics", headers=bearer)):  # fmt: skip
            seen.append(response.content + repr(response.headers).encode())
        op.live.record_of(op.chat(secret))
    for path in ("/admin/keys", f"/admin/keys/{key_id}", "/admin/keys/audit", "/metrics", "/admin/backends"):
        seen.append(op.admin.get(path).content)
    seen.append(op.change("PATCH", key_id, {"max_concurrent": 9}).content)
    seen.append(op.change("POST", f"{key_id}/revoke").content)
    allowed = {"authorization": "Bearer sk-of-the-config"}
    seen.append(op.live.http.get("/metrics", headers=allowed).content)
    kept = [path.read_bytes() for path in op.live.gateway.data_dir.rglob("*") if path.is_file()]
    kept += [text.encode() for text in capfd.readouterr()]
    kept += [call.raw for upstream in op.live.upstreams.values() for call in upstream.requests]
    for secret in (first, second):
        for sink in seen + kept:
            assert secret.removeprefix("sk-tokamak-").encode() not in sink
            assert base64.b64encode(secret.encode()) not in sink
        for sink in seen:
            assert hashlib.sha256(secret.encode()).hexdigest().encode() not in sink


def test_the_secret_is_shown_once_and_not_kept_by_caches(op: Operator) -> None:
    made = op.admin.post("/admin/keys", json={"name": "once"})
    assert made.headers["cache-control"] == "no-store"
    assert made.headers["location"] == f"/admin/keys/{made.json()['key']['id']}"
    assert set(made.json()) == {"secret", "key"}
    assert made.json()["key"]["secrets"][0]["hint"] == f"...{made.json()['secret'][-4:]}"


def test_the_commands(op: Operator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TOKAMAK_ADMIN_URL", op.live.gateway.admin_url)
    runner = CliRunner()

    def tokamak(*arguments: str, code: int = 0) -> str:
        done = runner.invoke(keys_app, list(arguments))
        assert done.exit_code == code, done.output
        return done.stdout if code == 0 else done.output

    secret = tokamak("create", "by command", "--model", "alpha", "--requests-per-minute", "50", "--expires-in", "1d")
    assert op.chat(secret.strip()).status_code == 200
    shown = json.loads(tokamak("show", "by command", "--json"))
    assert (shown["models"], shown["requests_per_minute"]) == (["alpha"], 50)
    assert time.time() + 80_000 < shown["expires_at"] < time.time() + 90_000
    tokamak(
        "update", "by command", "--model", "beta", "--unlimited", "requests_per_minute", "--unlimited", "expires_at"
    )
    changed = json.loads(tokamak("show", shown["id"], "--json"))
    assert (changed["models"], changed["requests_per_minute"], changed["expires_at"]) == (["beta"], None, None)
    new = json.loads(tokamak("rotate", "by command", "--grace", "0s", "--json"))["secret"]
    assert [op.chat(s.strip(), "beta").status_code for s in (secret, new)] == [401, 200]
    assert shown["id"] in tokamak("list", "--json")
    assert "by command" in tokamak("show", "by command")
    tokamak("list")
    tokamak("revoke", "by command", "--reason", "done with")
    assert op.chat(new, "beta").status_code == 401
    assert "by command" not in tokamak("list", "--json")
    assert "by command" in tokamak("list", "--revoked", "--json")
    told = tokamak("audit", shown["id"])
    assert [line.split("  ")[2].split(" ")[0] for line in told.splitlines()] == ["create", "update", "rotate", "revoke"]
    assert "done with" in told
    assert "no key 'by command'" in tokamak("revoke", "by command", code=2)
    assert "expected a time" in tokamak("create", "x", "--expires-in", "soon", code=2)
    assert "already" in tokamak("create", "once-more", code=0) + tokamak("create", "once-more", code=2)


def test_tokens_a_minute_of_a_key_of_the_config(tmp_path: Path) -> None:
    keys = [{"id": "team", "key_env": "TEAM", "tokens_per_minute": 100}]
    with fleet(tmp_path, MODELS, key="sk-team", environ={"TEAM": "sk-team"}, limits={"keys": keys}) as live:
        assert live.chat("alpha", max_tokens=50).status_code == 200
        refused = live.chat("alpha", max_tokens=90)
        assert_error(refused, 429, "rate_limit_error", "rate_limit_exceeded")
        assert refused.headers["x-ratelimit-limit-tokens"] == "100"
