"""Which conversation a request belongs to, and what its last turn was.

Named by the caller (`metadata.session_id`, `prompt_cache_key`, a session header), else known by how it began: the
messages up to the user's first one, which every later turn repeats. A conversation that is only known so has a last
turn from its second turn on, so that two users who begin alike do not meet. Conversations of different keys and of
different routes never do.
"""

from __future__ import annotations

import hashlib
from collections.abc import Hashable
from typing import NamedTuple

import msgspec

from routers.policy.affinity import Turn
from service.exchange import Exchange
from service.openai_api.requests import ChatRequest, ModelRequest


class Conversation(NamedTuple):
    """What a request's conversation is known by, alike in every process; None if it can be known by nothing.

    `named`: the caller has named it.
    """

    known_by: str | None
    named: bool = False


def conversation_of(request: ModelRequest, exchange: Exchange) -> Conversation:
    """The conversation of a request: the session that the caller names, else how it began."""
    session = exchange.session()
    if session is not None:
        return Conversation(f"session {session}", named=True)
    if not isinstance(request, ChatRequest):
        return Conversation(None)
    beginning = []
    for message in request.messages:
        beginning.append(message)
        if message.get("role") == "user":
            break
    digest = hashlib.blake2b(msgspec.json.encode(beginning), digest_size=12)
    if exchange.key is not None and exchange.key.id is not None:
        digest.update(exchange.key.id.encode())
    return Conversation(digest.hexdigest())


def was_answered(request: ModelRequest) -> bool:
    """Whether a turn of the request's conversation was answered before, by what the request holds of it."""
    return isinstance(request, ChatRequest) and any(m.get("role") in ("assistant", "tool") for m in request.messages)


def turn_of(exchange: Exchange, wish: Hashable) -> Turn | None:
    """What to remember of an answered request; None if no arm answered."""
    request, arm = exchange.request, exchange.arm
    if request is None or arm is None or exchange.outcome != "ok":
        return None
    usage = exchange.answer_usage
    read = None if usage is None else usage.prompt_tokens
    written = None if usage is None else usage.completion_tokens
    # A control changes what is asked once, and not what the conversation goes on with.
    drawn = exchange.withheld_from
    stays = drawn if drawn is not None and drawn.partition("#")[0] == arm.id else arm.id
    return Turn(stays, (request.prompt_tokens if read is None else read) + (written or 0), wish)
