"""Which text of a conversation is encoded. One rule for the gateway, the routers and the templates.

The last user message says what is wanted now. A short one ("commit it") says it only together with the turns before,
so short messages are prefixed with the user turns that precede them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

SHORT_CHARS = 48
"""A last user message shorter than this inherits the user turns before it."""
MAX_CHARS = 4000
"""Longer texts keep their head and their tail: the task is named at one of the two."""
INHERITED_TURNS = 2


def content_text(content: Any) -> str:
    """The text of a message's content: a string, or the text parts of a list of parts; anything else is empty."""
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = (part.get("text") for part in content if isinstance(part, dict) and part.get("type") == "text")
        return "\n".join(text for text in parts if isinstance(text, str))
    return ""


def query_text(messages: Sequence[Any]) -> str:
    """The text to encode for an OpenAI `messages` list; empty if no user message holds text."""
    turns = [content_text(m.get("content")) for m in messages if isinstance(m, dict) and m.get("role") == "user"]
    turns = [turn for turn in turns if turn.strip()]
    if not turns:
        return ""
    text = turns[-1]
    if len(text) < SHORT_CHARS and len(turns) > 1:
        text = "\n".join(turns[-1 - INHERITED_TURNS :])
    return clip(text)


def clip(text: str) -> str:
    """At most `MAX_CHARS` characters: all of a short text, the two ends of a long one."""
    if len(text) <= MAX_CHARS:
        return text
    half = MAX_CHARS // 2
    return text[:half] + "\n" + text[-half:]
