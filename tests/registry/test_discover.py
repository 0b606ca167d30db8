"""Discovery, against real local servers that play the providers."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from registry.config import Config
from registry.config_file import parse_config
from registry.discover import MAX_CHAT_MODELS, PROVIDERS, Provider, discover

Answer = Callable[[str, dict[str, str]], tuple[int, Any]]
BY_NAME = {provider.name: provider for provider in PROVIDERS}
Servers = Callable[[str, Answer], Provider]


class _Server(ThreadingHTTPServer):
    answer: Answer


class _Listing(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        status, body = self.server.answer(self.path, {k.lower(): v for k, v in self.headers.items()})
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        self.send_response(status)
        self.send_header("content-length", str(len(raw)))
        if status == 302:
            self.send_header("location", body)
        self.end_headers()
        self.wfile.write(raw)

    def log_message(self, format: str, *args: Any) -> None:
        pass


@contextmanager
def _serving(answer: Answer) -> Iterator[int]:
    server = _Server(("127.0.0.1", 0), _Listing)
    server.answer = answer
    thread = Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield server.server_address[1]
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture
def serve() -> Iterator[Servers]:
    """Start a server and give the provider of that name, moved to it."""
    with ExitStack() as stack:
        yield lambda name, answer: replace(
            BY_NAME[name], base_url=f"http://127.0.0.1:{stack.enter_context(_serving(answer))}/v1"
        )


def listing(*entries: str | dict[str, Any]) -> Answer:
    data = [{"id": entry} if isinstance(entry, str) else entry for entry in entries]
    return lambda path, headers: (200, {"object": "list", "data": data}) if path == "/v1/models" else (404, {})


def absent(name: str) -> Provider:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return replace(BY_NAME[name], base_url=f"http://127.0.0.1:{free.getsockname()[1]}/v1")


def found(config: Config | None) -> Config:
    assert config is not None
    return config


def test_nothing_is_found_where_nothing_is() -> None:
    assert discover({}, [absent("vllm"), absent("ollama"), BY_NAME["openai"]]) == discover({}, [])
    assert discover({}, []).config is None


def test_local_servers_need_no_key(serve: Servers) -> None:
    vllm = serve("vllm", listing({"id": "llama", "max_model_len": 4096, "owned_by": "vllm"}, {"id": "fused"}))
    ollama = serve("ollama", listing("qwen3:4b", "nomic-embed-text:latest"))
    config = found(discover({}, [vllm, ollama]).config)
    assert list(config.models) == ["llama", "fused", "qwen3:4b", "nomic-embed-text:latest"]
    assert config.models["llama"].context_window == 4096
    assert config.models["fused"].context_window is None
    assert config.models["nomic-embed-text:latest"].capabilities == ["embeddings"]
    assert config.models["llama"].prices is None
    assert config.upstreams["vllm"].api_key_env is None


def test_names_that_clash_get_the_provider_in_front(serve: Servers) -> None:
    here = [serve("vllm", listing("llama", "auto:x", "b#c")), serve("lmstudio", listing("llama", "other"))]
    config = found(discover({}, here).config)
    assert list(config.models) == ["vllm/llama", "vllm/auto:x", "b_c", "lmstudio/llama", "other"]
    assert config.models["b_c"].endpoints[0].model == "b#c"


def test_a_key_is_sent_to_its_provider_and_named_in_the_config(serve: Servers) -> None:
    seen: list[dict[str, str]] = []

    def answer(path: str, headers: dict[str, str]) -> tuple[int, Any]:
        seen.append(headers)
        return 200, {"data": [{"id": "claude-haiku-4-5-20251001"}]}

    discovered = discover({"ANTHROPIC_API_KEY": "sk-a"}, [serve("anthropic", answer)])
    config = found(discovered.config)
    assert seen[0]["authorization"] == "Bearer sk-a"
    assert seen[0]["x-api-key"] == "sk-a"
    assert "anthropic-version" in seen[0]
    assert config.upstreams["anthropic"].api_key_env == "ANTHROPIC_API_KEY"
    model = config.models["claude-haiku-4-5-20251001"]
    assert model.prices is not None
    assert (model.prices.prompt_per_1m, model.prices.completion_per_1m) == (1, 5)
    assert "vision" in model.capabilities
    assert "json_schema" not in model.capabilities
    assert "sk-a" not in repr(discovered)


def test_the_openai_list_is_cleaned(serve: Servers) -> None:
    names = ["gpt-4o", "gpt-4o-2024-11-20", "o3-2025-04-16", "whisper-1", "tts-1", "dall-e-3", "gpt-4o-audio-preview",
             "omni-moderation-latest", "text-embedding-3-small", "brand-new"]  # fmt: skip
    config = found(discover({"OPENAI_API_KEY": "k"}, [serve("openai", listing(*names))]).config)
    assert list(config.models) == ["gpt-4o", "o3-2025-04-16", "brand-new", "text-embedding-3-small"]
    assert config.models["brand-new"].prices is None
    assert config.models["gpt-4o"].context_window == 128_000


def test_long_lists_are_cut_to_the_newest(serve: Servers) -> None:
    entries = [{"id": f"m{i}", "created": i} for i in range(MAX_CHAT_MODELS + 5)]
    discovered = discover({"XAI_API_KEY": "k"}, [serve("xai", listing(*entries))])
    names = list(found(discovered.config).models)
    assert len(names) == MAX_CHAT_MODELS
    assert names[0] == f"m{MAX_CHAT_MODELS + 4}"
    assert "5 more are listed there" in discovered.found[0]


def test_prices_and_windows_come_from_lists_that_give_them(serve: Servers) -> None:
    routed = {"id": "a/b", "context_length": 8192, "pricing": {"prompt": "0.0000005", "completion": "0.0000015"},
              "architecture": {"input_modalities": ["text", "image"]}}  # fmt: skip
    dynamic = {"id": "c/auto", "pricing": {"prompt": "-1", "completion": "-1"}}
    bare = [{"id": "d", "type": "chat", "pricing": {"input": 0.2, "output": 0.6}}, {"id": "e", "type": "image"}]
    config = found(
        discover(
            {"OPENROUTER_API_KEY": "k", "TOGETHER_API_KEY": "k"},
            [serve("openrouter", listing(routed, dynamic)), serve("together", lambda path, headers: (200, bare))],
        ).config
    )
    assert list(config.models) == ["a/b", "c/auto", "d"]
    ab = config.models["a/b"]
    assert ab.prices is not None
    assert (ab.prices.prompt_per_1m, ab.prices.completion_per_1m, ab.context_window) == (0.5, 1.5, 8192)
    assert "vision" in ab.capabilities
    assert config.models["c/auto"].prices is None
    assert config.models["d"].prices is not None
    assert config.models["d"].prices.completion_per_1m == 0.6


def test_the_openai_key_follows_its_base_url(serve: Servers) -> None:
    moved = serve("openai", listing("mine"))
    environ = {"OPENAI_API_KEY": "k", "OPENAI_BASE_URL": moved.base_url + "/"}
    assert found(discover(environ, [BY_NAME["openai"]]).config).upstreams["openai"].base_url == moved.base_url


@pytest.mark.parametrize("name", ["openai", "openrouter"])
@pytest.mark.parametrize("status", [401, 403])
def test_a_refused_key_is_reported_and_never_shown(serve: Servers, name: str, status: int) -> None:
    key = BY_NAME[name].key_env
    assert key is not None
    refusing = serve(name, lambda path, headers: (status, {"error": {"message": headers["authorization"]}}))
    discovered = discover({key: "sk-secret"}, [refusing, serve("vllm", listing("llama"))])
    assert list(found(discovered.config).models) == ["llama"]
    assert len(discovered.refused) == 1
    assert f"{key} was refused (HTTP {status})" in discovered.refused[0]
    assert "sk-secret" not in repr(discovered)


def test_a_local_server_that_wants_a_key_says_which(serve: Servers) -> None:
    guarded = serve("vllm", lambda path, headers: (401, {}))
    assert "VLLM_API_KEY" in discover({}, [guarded]).refused[0]


@pytest.mark.parametrize(
    "answer",
    [
        (200, b"<html>another web server</html>"),
        (200, {"data": "no list"}),
        (200, {"data": [{"name": "no id"}, 3, {"id": 7}]}),
        (200, b"\xff\xfe"),
        (404, {}),
        (500, b""),
        (302, b"http://127.0.0.1:1/elsewhere"),
    ],
)
def test_what_is_no_list_of_models_never_crashes(serve: Servers, answer: tuple[int, Any]) -> None:
    strange = serve("openai", lambda path, headers: answer)
    discovered = discover({"OPENAI_API_KEY": "k"}, [strange])
    assert discovered.config is None
    assert "lists no models" in discovered.refused[0]


def test_providers_out_of_reach_are_reported_and_local_ones_are_not() -> None:
    discovered = discover({"OPENAI_API_KEY": "k"}, [absent("openai"), absent("ollama")])
    assert len(discovered.refused) == 1
    assert "does not answer (ConnectError)" in discovered.refused[0]


def test_a_key_with_a_line_break_is_refused_before_it_is_sent() -> None:
    assert "OPENAI_API_KEY" in discover({"OPENAI_API_KEY": "a\nb"}, [absent("openai")]).refused[0]


def test_only_loopback_is_asked_without_a_key() -> None:
    keyless = [p for p in PROVIDERS if p.key_env is None or not p.key_required]
    assert [p.name for p in keyless] == ["vllm", "ollama", "lmstudio"]
    assert all(p.base_url.startswith("http://127.0.0.1:") for p in keyless)


def test_embedding_models_alone_are_no_pool(serve: Servers) -> None:
    assert discover({}, [serve("ollama", listing("nomic-embed-text"))]).config is None


def test_the_report_says_what_was_found_and_what_was_not(serve: Servers) -> None:
    discovered = discover({"XAI_API_KEY": "k"}, [serve("vllm", listing("llama")), absent("xai")])
    found_line, refused_line = discovered.report().splitlines()
    assert found_line.startswith("found vllm: 1 models at http://127.0.0.1:")
    assert refused_line.startswith("not used: xai: ")
    assert discover({}, []).report() == "found no provider key and no local server"


def test_the_document_can_be_kept_as_a_config_file(serve: Servers) -> None:
    discovered = discover({"XAI_API_KEY": "k"}, [serve("xai", listing("grok"))])
    text = yaml.safe_dump(discovered.document, sort_keys=False)
    assert parse_config(text, "tokamak.yaml", {"XAI_API_KEY": "k"}) == discovered.config


def test_the_documentation_lists_every_provider() -> None:
    page = (Path(__file__).resolve().parents[2] / "docs" / "deployment.md").read_text()
    for provider in PROVIDERS:
        assert f"`{provider.base_url}`" in page, provider.name
        assert provider.key_env is None or f"`{provider.key_env}`" in page, provider.name
    assert f"at most {MAX_CHAT_MODELS} chat models" in page
