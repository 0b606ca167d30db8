"""Finds what the user already has and builds a config from it: providers by their key in the environment, local
servers on their usual loopback ports.

Every server is asked for its `/models`. Keys go to their own provider only, redirects are not followed, and no message
holds a key.
"""

from __future__ import annotations

import asyncio
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import httpx

from registry.arms import CAPABILITIES, Capability
from registry.config import Config
from registry.known_models import known_model, undated

MAX_CHAT_MODELS = 24
"""Chat models taken from one provider: some list hundreds. Those with a known price first, then the newest."""

_TEXT: tuple[Capability, ...] = tuple(c for c in CAPABILITIES if c not in ("vision", "embeddings"))
_EMBEDDING = re.compile(r"embed|bge-|minilm|gte-|(^|[/-])e5-", re.IGNORECASE)
_NOT_CHAT = re.compile(
    r"whisper|tts|dall-e|image|moderation|audio|realtime|transcri|sora|veo|imagen|davinci|babbage|rerank|guard"
    r"|ocr|flux|stable-diffusion|speech|lyria|deep-research|computer-use|-search|instruct-0914|gpt-3\.5-turbo-instruct",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Provider:
    """A server that may be there. With `key_env` it is asked if that variable is set; without, if it answers.

    `capabilities` are those of its chat models; `key_path` answers 401 or 403 to a bad key where `/models` is public.
    """

    name: str
    base_url: str
    key_env: str | None = None
    key_required: bool = True
    capabilities: tuple[Capability, ...] = _TEXT
    key_path: str | None = None
    probe_headers: tuple[tuple[str, str], ...] = ()


PROVIDERS: tuple[Provider, ...] = (
    Provider("vllm", "http://127.0.0.1:8000/v1", "VLLM_API_KEY", key_required=False),
    Provider("ollama", "http://127.0.0.1:11434/v1", capabilities=("chat", "completions", "tools", "json_schema")),
    Provider("lmstudio", "http://127.0.0.1:1234/v1", capabilities=("chat", "completions", "tools", "json_schema")),
    Provider("openai", "https://api.openai.com/v1", "OPENAI_API_KEY",
             capabilities=("chat", "tools", "json_schema", "logprobs", "n")),
    # Its compatible endpoint ignores response_format and logprobs and allows one choice only.
    Provider("anthropic", "https://api.anthropic.com/v1", "ANTHROPIC_API_KEY", capabilities=("chat", "tools"),
             probe_headers=(("anthropic-version", "2023-06-01"),)),
    Provider("openrouter", "https://openrouter.ai/api/v1", "OPENROUTER_API_KEY", key_path="/key"),
    Provider("together", "https://api.together.xyz/v1", "TOGETHER_API_KEY"),
    Provider("mistral", "https://api.mistral.ai/v1", "MISTRAL_API_KEY",
             capabilities=("chat", "tools", "json_schema", "n")),
    Provider("xai", "https://api.x.ai/v1", "XAI_API_KEY", capabilities=("chat", "tools", "json_schema", "logprobs")),
    Provider("groq", "https://api.groq.com/openai/v1", "GROQ_API_KEY", capabilities=("chat", "tools", "json_schema")),
    Provider("deepseek", "https://api.deepseek.com/v1", "DEEPSEEK_API_KEY",
             capabilities=("chat", "tools", "logprobs")),
    Provider("gemini", "https://generativelanguage.googleapis.com/v1beta/openai", "GEMINI_API_KEY",
             capabilities=("chat", "tools", "json_schema", "n", "vision")),
    Provider("fireworks", "https://api.fireworks.ai/inference/v1", "FIREWORKS_API_KEY"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Discovered:
    """What was found. `document` is the content of a config file, None if no chat model was found.

    `found` and `refused` are sentences for people: who gave what, and what did not work and why.
    """

    document: dict[str, Any] | None
    found: tuple[str, ...]
    refused: tuple[str, ...]

    @property
    def config(self) -> Config | None:
        """The checked config, None if no chat model was found."""
        return None if self.document is None else Config.model_validate(self.document)

    def report(self) -> str:
        """What was found and what was refused, one sentence a line."""
        found = [f"found {line}" for line in self.found] or ["found no provider key and no local server"]
        return "\n".join([*found, *(f"not used: {line}" for line in self.refused)])


@dataclass(frozen=True, slots=True)
class _Answer:
    provider: Provider
    models: tuple[dict[str, Any], ...] = ()
    refused: str | None = None


def discover(
    environ: Mapping[str, str], providers: Sequence[Provider] = PROVIDERS, timeout_s: float = 4.0
) -> Discovered:
    """Ask every provider that may be there, all at once, for at most `timeout_s` seconds each. Never raises for one.

    Call it outside an event loop. `OPENAI_BASE_URL`, where set, is where the OpenAI key belongs.
    """
    return asyncio.run(_discover(environ, providers, timeout_s))


async def _discover(environ: Mapping[str, str], providers: Sequence[Provider], timeout_s: float) -> Discovered:
    asked = [
        _ask(provider, environ, timeout_s)
        for provider in providers
        if provider.key_env is None or not provider.key_required or environ.get(provider.key_env)
    ]
    answers = await asyncio.gather(*asked)
    config, found = _config(answers, environ)
    return Discovered(config, found, tuple(answer.refused for answer in answers if answer.refused))


def _base_url(provider: Provider, environ: Mapping[str, str]) -> str:
    moved = environ.get("OPENAI_BASE_URL") if provider.name == "openai" else None
    return (moved or provider.base_url).rstrip("/")


async def _ask(provider: Provider, environ: Mapping[str, str], timeout_s: float) -> _Answer:
    key = environ.get(provider.key_env, "") if provider.key_env else ""
    headers = dict(provider.probe_headers)
    if key:
        headers |= {"authorization": f"Bearer {key}"} | ({"x-api-key": key} if provider.name == "anthropic" else {})
    remote = provider.key_env is not None and provider.key_required
    if not key.isascii() or not key.isprintable():
        return _Answer(provider, refused=f"{provider.key_env}: holds characters that no key has")
    url = _base_url(provider, environ)
    try:
        # A proxy of the environment is for the world outside, never for loopback.
        async with httpx.AsyncClient(timeout=timeout_s, headers=headers, trust_env=remote) as client:
            if provider.key_path and (checked := await client.get(url + provider.key_path)).status_code in (401, 403):
                return _Answer(provider, refused=f"{provider.name}: {provider.key_env} was refused "
                                                 f"(HTTP {checked.status_code})")  # fmt: skip
            answer = await client.get(url + "/models")
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        why = f"{provider.name}: {url} does not answer ({type(error).__name__})"
        return _Answer(provider, refused=why if remote else None)
    if answer.status_code in (401, 403):
        what = f"{provider.key_env} was refused" if key else f"wants a key: set {provider.key_env or 'no key variable'}"
        return _Answer(provider, refused=f"{provider.name}: {what} (HTTP {answer.status_code})")
    models = _listed(answer)
    if not models and (remote or answer.status_code == 200):
        return _Answer(provider, refused=f"{provider.name}: {url}/models lists no models (HTTP {answer.status_code})")
    return _Answer(provider, models)


def _listed(answer: httpx.Response) -> tuple[dict[str, Any], ...]:
    """The entries of a list of models; empty if the answer is not one (any web server may stand on a port)."""
    if answer.status_code != 200:
        return ()
    try:
        body = answer.json()
    except ValueError:
        return ()
    entries = body.get("data") if isinstance(body, dict) else body
    if not isinstance(entries, list):
        return ()
    return tuple(e for e in entries if isinstance(e, dict) and isinstance(e.get("id"), str) and e["id"])


def _config(
    answers: Sequence[_Answer], environ: Mapping[str, str]
) -> tuple[dict[str, Any] | None, tuple[str, ...]]:  # fmt: skip
    upstreams: dict[str, Any] = {}
    chosen: list[tuple[Provider, str, dict[str, Any]]] = []
    found = []
    for answer in answers:
        provider = answer.provider
        kept, left_out = _choose(answer)
        if not kept:
            continue
        chosen += [(provider, entry["id"], model) for entry, model in kept]
        key = {"api_key_env": provider.key_env} if provider.key_env and environ.get(provider.key_env) else {}
        upstreams[provider.name] = {"base_url": _base_url(provider, environ), **key}
        more = f" ({left_out} more are listed there; name them in a config file)" if left_out else ""
        found.append(f"{provider.name}: {len(kept)} models at {_base_url(provider, environ)}{more}")
    clashing = {name for name, count in Counter(identifier for _, identifier, _ in chosen).items() if count > 1}
    models = {}
    for provider, identifier, model in chosen:
        plain = identifier not in clashing and identifier.split(":")[0] != "auto"
        name = (identifier if plain else f"{provider.name}/{identifier}").replace("#", "_")
        models[name] = {"endpoints": [{"upstream": provider.name, "model": identifier}], **model}
    if not any("chat" in model["capabilities"] for model in models.values()):
        return None, tuple(found)
    return {"version": 1, "upstreams": upstreams, "models": models}, tuple(found)


def _choose(answer: _Answer) -> tuple[list[tuple[dict[str, Any], dict[str, Any]]], int]:
    """The entries to use, each with its part of the config, and how many were left out."""
    unique = {entry["id"]: entry for entry in answer.models}
    usable = [entry for entry in unique.values() if not _NOT_CHAT.search(entry["id"]) and _type_fits(entry)]
    # A dated snapshot beside its undated name is the same model twice.
    usable = [e for e in usable if undated(e["id"]) == e["id"] or undated(e["id"]) not in unique]
    embeddings = [entry for entry in usable if _EMBEDDING.search(entry["id"])]
    chat = [entry for entry in usable if not _EMBEDDING.search(entry["id"])]
    chat.sort(key=lambda e: (known_model(e["id"]) is None, -_number(e.get("created"))))
    kept = chat[:MAX_CHAT_MODELS] + embeddings
    return [(entry, _model(entry, answer.provider)) for entry in kept], len(chat) - len(chat[:MAX_CHAT_MODELS])


def _type_fits(entry: dict[str, Any]) -> bool:
    kind = entry.get("type")
    abilities = entry.get("capabilities")
    if isinstance(abilities, dict) and abilities.get("completion_chat") is False:
        return bool(_EMBEDDING.search(entry["id"]))
    return kind is None or kind in ("chat", "language", "embedding", "embeddings", "model", "llm", "vlm")


def _model(entry: dict[str, Any], provider: Provider) -> dict[str, Any]:
    if _EMBEDDING.search(entry["id"]):
        return {"capabilities": ["embeddings"]}
    known = known_model(entry["id"]) if provider.name in ("openai", "anthropic") else None
    abilities = list(provider.capabilities)
    if (known is not None and known.vision) or _reads_images(entry):
        abilities += ["vision"] if "vision" not in abilities else []
    model: dict[str, Any] = {"capabilities": abilities}
    names = ("max_model_len", "context_length", "context_window", "max_context_length")
    window = next((int(n) for key in names if (n := _number(entry.get(key))) >= 1), None)
    if window is None and known is not None:
        window = known.context_window
    if window is not None:
        model["context_window"] = window
    prices = _listed_prices(entry)
    if known is not None:
        prices = {
            "prompt_per_1m": known.prompt,
            "completion_per_1m": known.completion,
            "cached_input_per_1m": known.cached,
        }
    if prices is not None:
        model["prices"] = prices
    return model


def _reads_images(entry: dict[str, Any]) -> bool:
    architecture, abilities = entry.get("architecture"), entry.get("capabilities")
    modalities = architecture.get("input_modalities") if isinstance(architecture, dict) else None
    return (isinstance(modalities, list) and "image" in modalities) or (
        isinstance(abilities, dict) and abilities.get("vision") is True
    )


def _listed_prices(entry: dict[str, Any]) -> dict[str, float] | None:
    """Prices that the list itself gives: per token as OpenRouter does, or per million as Together does."""
    pricing = entry.get("pricing")
    if not isinstance(pricing, dict):
        return None
    for prompt, completion, scale in (("prompt", "completion", 1e6), ("input", "output", 1.0)):
        values = _number(pricing.get(prompt), -1.0), _number(pricing.get(completion), -1.0)
        if min(values) >= 0:
            return {"prompt_per_1m": round(values[0] * scale, 6), "completion_per_1m": round(values[1] * scale, 6)}
    return None


def _number(value: object, otherwise: float = 0.0) -> float:
    """A finite number, also where it stands in a string."""
    if isinstance(value, str | int | float) and not isinstance(value, bool):
        try:
            number = float(value)
        except (ValueError, OverflowError):
            return otherwise
        if abs(number) < 1e15:
            return number
    return otherwise
