"""What a chat request says beside its text, read of its JSON. The same for the gateway and for a log that is read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from encoders.features import Shape

JSON_FORMATS = ("json_schema", "json_object")


def request_shape(body: Mapping[str, Any]) -> Shape:
    """The shape of the decoded body of a chat request; what is absent or of a wrong type counts as not said."""
    response_format = body.get("response_format")
    json_wanted = isinstance(response_format, Mapping) and response_format.get("type") in JSON_FORMATS
    messages = body.get("messages")
    return messages_shape(
        messages if isinstance(messages, list) else (), bool(body.get("tools") or body.get("functions")), json_wanted
    )


def messages_shape(messages: Sequence[Any], tools: bool, json_wanted: bool) -> Shape:
    """The shape of a request whose wishes for tools and JSON are known already."""
    roles = [message.get("role") for message in messages if isinstance(message, Mapping)]
    system = "system" in roles or "developer" in roles
    return Shape(max(roles.count("user"), 1), system, tools, json_wanted)
