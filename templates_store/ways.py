"""How each way of asking changes a conversation. One function per way; `ask` finds it by name."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from registry.arms import Way
from templates_store.augment import Augmented, Messages, augment, last_user_message, replace_content
from templates_store.template import Hit

THINK_CUE = "Work through this step by step, and state the final answer at the end."
FORMAT_BOUND_CUE = (
    "Work through this step by step in your mind before you reply. "
    "The reply itself must have exactly the form that was asked for, with nothing before or after it."
)
"""The cue where a program reads the answer (JSON, tool calls): visible steps would break what it expects."""

_FORMAT_FIELDS = (
    "structured_outputs", "guided_json", "guided_regex", "guided_choice", "guided_grammar", "functions",
)  # fmt: skip


BINDING_FIELDS = ("response_format", "tools", "tool_choice", *_FORMAT_FIELDS)
"""The fields of a chat request that `format_bound` reads."""


def format_bound(body: Mapping[str, Any]) -> bool:
    """Whether a chat request binds the form of its answer: a response format other than text, tools, or a grammar."""
    response_format = body.get("response_format")
    if isinstance(response_format, dict) and response_format.get("type", "text") != "text":
        return True
    if body.get("tools") and body.get("tool_choice") != "none":
        return True
    return any(body.get(name) for name in _FORMAT_FIELDS)


def think(messages: Messages, *, bound: bool = False) -> Messages:
    """The conversation with a request to reason step by step after the text of its last user message.

    With `bound` (see `format_bound`) the steps are asked for silently, so that JSON and tool calls stay what they are.
    Without a user message that has content, `messages` itself is returned. Nothing that was given is modified.
    """
    position = last_user_message(messages)
    if position is None:
        return messages
    cue = FORMAT_BOUND_CUE if bound else THINK_CUE
    content = messages[position]["content"]
    if isinstance(content, str):
        return replace_content(messages, position, f"{content}\n\n{cue}")
    return replace_content(messages, position, [*content, {"type": "text", "text": f"\n\n{cue}"}])


def ask(
    way: Way, messages: Messages, hits: Sequence[Hit] = (), *, max_tokens: int = 600, bound: bool = False
) -> Augmented:
    """The conversation as this way of asking sends it, and the templates that are in it.

    `hits` and `max_tokens` matter to `thought` only, `bound` (does the request bind the form of the answer?) to `think`
    only. `direct`, and `thought` where no template fits, return `messages` itself.
    """
    if way == "think":
        return Augmented(think(messages, bound=bound), ())
    if way == "thought":
        return augment(messages, hits, max_tokens)
    return Augmented(messages, ())
