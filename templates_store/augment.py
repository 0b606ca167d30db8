"""Puts templates into a conversation: a block of reference material in front of the user's own text.

It goes into the last user message and never into system text, because a template is made from other people's answers
and must not speak with the operator's voice (fusionfactory.md 3.3). Everything else of the conversation stays the same
object: history, tool calls, images, and the user's own words byte for byte.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from templates_store.sanitize import TAG_WORD
from templates_store.template import Hit

Messages = list[dict[str, Any]]

BYTES_PER_TOKEN = 4
"""The estimate behind every token budget here: a token is four bytes of UTF-8, about right for English prose."""

_OPEN = (
    f"<{TAG_WORD}>\n"
    "Plans that led to good answers to similar problems. Background material, not part of the request: "
    "use the steps that fit and pass over the rest."
)
_CLOSE = f"</{TAG_WORD}>\n\n"


class Augmented(NamedTuple):
    """A conversation and the ids of the templates in it, in the order in which they appear."""

    messages: Messages
    template_ids: tuple[str, ...]


def estimate_tokens(text: str) -> int:
    """About how many tokens a text has: its UTF-8 bytes by four, rounded up."""
    return -(-len(text.encode()) // BYTES_PER_TOKEN)


def augment(messages: Messages, hits: Sequence[Hit], max_tokens: int = 600) -> Augmented:
    """The conversation with the templates before the text of its last user message.

    Templates are taken in the order of `hits` while the whole block, its frame included, is estimated to fit into
    `max_tokens`; one that does not fit is passed over. Nothing is changed, and `messages` itself is returned, if no
    template fits or no user message has content to put it into. The given list and its messages are never modified.
    """
    if not hits:
        return Augmented(messages, ())
    position = last_user_message(messages)
    if position is None:
        return Augmented(messages, ())
    block, ids = render(hits, max_tokens)
    if not ids:
        return Augmented(messages, ())
    return Augmented(replace_content(messages, position, _before(block, messages[position]["content"])), ids)


def render(hits: Sequence[Hit], max_tokens: int) -> tuple[str, tuple[str, ...]]:
    """The block of templates, and the ids of those that are in it; both are empty if none fits."""
    block = Block(max_tokens)
    ids = tuple(hit.template.id for hit in hits if block.takes(hit.template.text))
    return block.text(), ids


class Block:
    """The block of templates while it is filled."""

    def __init__(self, max_tokens: int) -> None:
        self._room = max_tokens * BYTES_PER_TOKEN - len(_OPEN.encode()) - len(_CLOSE) - 1
        self._lines: list[str] = []

    def takes(self, template: str) -> bool:
        """Put the text of a template at the end; False, and nothing is changed, if it does not fit."""
        line = f"\n{len(self._lines) + 1}. {_inert(template)}"
        size = len(line.encode())
        if size > self._room:
            return False
        self._room -= size
        self._lines.append(line)
        return True

    def text(self) -> str:
        """The whole block, empty if there is no template in it."""
        return f"{_OPEN}{''.join(self._lines)}\n{_CLOSE}" if self._lines else ""


def last_user_message(messages: Sequence[Mapping[str, Any]]) -> int | None:
    """Position of the last user message if its content is a text or a list of parts, else None."""
    for position in range(len(messages) - 1, -1, -1):
        if messages[position].get("role") == "user":
            content = messages[position].get("content")
            return position if isinstance(content, str | list) and content else None
    return None


def replace_content(messages: Messages, position: int, content: str | list[Any]) -> Messages:
    """A new list in which only the message at `position` is another one, with this content."""
    changed = list(messages)
    changed[position] = {**messages[position], "content": content}
    return changed


def _inert(text: str) -> str:
    """The text on one line, unable to open or close the block: the delimiters' name cannot occur in it.

    The store holds only sanitized text, in which that is so already; what was not read from a store is made safe here.
    """
    if "\n" in text or "\r" in text:
        text = " ".join(text.split())
    return text.replace("<", "‹") if TAG_WORD in text.lower() else text


def _before(block: str, content: str | list[Any]) -> str | list[Any]:
    if isinstance(content, str):
        return block + content
    first_text = next((i for i, part in enumerate(content) if isinstance(part, dict) and part.get("type") == "text"), 0)
    return [*content[:first_text], {"type": "text", "text": block}, *content[first_text:]]
