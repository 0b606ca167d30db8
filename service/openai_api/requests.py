"""Parsing and validating requests. Only what routing reads is checked; the rest is the upstream's business."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from encoders.features import PLAIN, Shape
from encoders.query_text import clip, follows_up, query_text
from encoders.request_shape import JSON_FORMATS, messages_shape
from registry.arms import Capability
from service.errors import invalid
from service.wire import Body, type_name

CHARS_PER_TOKEN = 4
"""Rule of thumb for the length of a prompt before any tokenizer has seen it."""
MAX_N = 128
_CHAT: frozenset[Capability] = frozenset(("chat",))
_VISION: frozenset[Capability] = frozenset(("vision",))
_ASKING = frozenset(("tools", "functions", "response_format", "logprobs", "n"))
"""The fields that `_chat_needs` reads."""


@dataclass(slots=True)
class ModelRequest:
    """A request for an answer: the body, and what was read of it.

    `needs` are the capabilities that an arm must have; `prompt_tokens` is an estimate of the prompt's length and
    `answer_tokens` the length the caller asked for, None if not said.
    """

    body: Body
    model: str
    stream: bool
    usage_wanted: bool
    needs: frozenset[Capability]
    prompt_tokens: int
    answer_tokens: int | None

    def query(self) -> str:
        """The text to encode; empty if the request holds no text, as one for embeddings."""
        return ""

    def shape(self) -> Shape:
        """What the request says beside its text."""
        return PLAIN

    def follows_up(self) -> bool:
        """Whether the query is an anaphoric follow-up of an earlier turn."""
        return False


@dataclass(slots=True)
class ChatRequest(ModelRequest):
    """`POST /v1/chat/completions`."""

    messages: list[Any]

    def query(self) -> str:
        return query_text(self.messages)

    def follows_up(self) -> bool:
        return follows_up(self.messages)

    def shape(self) -> Shape:
        return messages_shape(self.messages, "tools" in self.needs, "json_schema" in self.needs)


class CompletionRequest(ModelRequest):
    """`POST /v1/completions`."""

    def query(self) -> str:
        prompt = self.body.get("prompt")
        return clip(prompt) if isinstance(prompt, str) else ""


class EmbeddingRequest(ModelRequest):
    """`POST /v1/embeddings`."""


def chat_request(raw: bytes) -> ChatRequest:
    """Raises ApiError 400 if a field that routing reads is wrong."""
    body = Body(raw)
    model = body.string("model", required=True)
    messages = body.array("messages", required=True)
    if not messages:
        raise invalid("'messages' must hold at least one message.", "messages")
    needs = _CHAT if _ASKING.isdisjoint(body.fields) else _CHAT.union(_chat_needs(body))
    if _checked(messages):
        needs |= _VISION
    stream = body.boolean("stream") or False
    assert model is not None
    return ChatRequest(
        body, model, stream, _wants_usage(body), needs, _estimate(body, "messages", needs),
        body.integer("max_completion_tokens", least=1) or body.integer("max_tokens", least=1), messages,
    )  # fmt: skip


def completion_request(raw: bytes) -> CompletionRequest:
    """Raises ApiError 400 if a field that routing reads is wrong."""
    body = Body(raw)
    model = body.string("model", required=True)
    prompt = body.get("prompt")
    if prompt is None or prompt in ("", []):
        raise invalid("'prompt' must be a non-empty string or array.", "prompt", "missing_required_parameter")
    if not isinstance(prompt, str | list):
        raise invalid(f"'prompt' must be a string or an array, got {type_name(prompt)}.", "prompt", "invalid_type")
    needs: frozenset[Capability] = frozenset(("completions",))
    if (body.integer("n", least=1, most=MAX_N) or 1) > 1:
        needs |= frozenset(("n",))
    stream = body.boolean("stream") or False
    assert model is not None
    return CompletionRequest(
        body, model, stream, _wants_usage(body), needs, _estimate(body, "prompt", needs),
        body.integer("max_tokens", least=0),
    )  # fmt: skip


def embedding_request(raw: bytes) -> EmbeddingRequest:
    """Raises ApiError 400 if a field that routing reads is wrong."""
    body = Body(raw)
    model = body.string("model", required=True)
    texts = body.get("input")
    if texts is None or texts in ("", []):
        raise invalid("'input' must be a non-empty string or array.", "input", "missing_required_parameter")
    assert model is not None
    return EmbeddingRequest(body, model, False, False, frozenset({"embeddings"}), 0, None)


def _checked(messages: list[Any]) -> bool:
    """Whether any message really holds a part that is not text. Raises ApiError 400 for what is no message."""
    vision = False
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            raise invalid(
                f"'messages[{index}]' must be an object, got {type_name(message)}.",
                f"messages[{index}]",
                "invalid_type",
            )
        if not isinstance(message.get("role"), str):
            raise invalid(
                f"'messages[{index}].role' must be a string such as 'user', got {type_name(message.get('role'))}.",
                f"messages[{index}].role", "invalid_type",
            )  # fmt: skip
        content = message.get("content")
        if content is None or isinstance(content, str):
            continue
        if not isinstance(content, list):
            raise invalid(
                f"'messages[{index}].content' must be a string or an array of parts, got {type_name(content)}.",
                f"messages[{index}].content", "invalid_type",
            )  # fmt: skip
        vision = vision or any(isinstance(p, dict) and p.get("type") not in ("text", "refusal") for p in content)
    return vision


def _chat_needs(body: Body) -> list[Capability]:
    needs: list[Capability] = []
    if body.array("tools") or body.array("functions"):
        needs.append("tools")
    response_format = body.mapping("response_format")
    if response_format is not None and response_format.get("type") in JSON_FORMATS:
        needs.append("json_schema")
    if body.boolean("logprobs"):
        needs.append("logprobs")
    if (body.integer("n", least=1, most=MAX_N) or 1) > 1:
        needs.append("n")
    return needs


def _wants_usage(body: Body) -> bool:
    options = body.mapping("stream_options")
    return options is not None and options.get("include_usage") is True


def _estimate(body: Body, name: str, needs: frozenset[Capability]) -> int:
    """Prompt length in tokens from the length of its JSON; images are not counted by their bytes."""
    if "vision" in needs:
        return 0
    return body.size(name) // CHARS_PER_TOKEN
