"""Which conversation a request belongs to, and what its last turn was.

Named by the caller (`metadata.session_id`, `prompt_cache_key`, a session header), else known by how it began: the
messages up to the user's first one, which every later turn repeats. A conversation that is only known so has a last
turn from its second turn on, so that two users who begin alike do not meet. Conversations of different keys and of
different routes never do.
"""

from __future__ import annotations

from collections.abc import Hashable

from routers.policy.affinity import Turn
from service.exchange import Exchange
from service.openai_api.requests import ChatRequest, ModelRequest
from service.serving import Target


def conversation_key(request: ModelRequest, target: Target, exchange: Exchange) -> tuple[Hashable, bool]:
    """The key of the request's conversation, None if it has none, and whether a turn was answered before."""
    owner = (None if exchange.key is None else exchange.key.id, target.name)
    session = exchange.session()
    if session is not None:
        return (*owner, session), True
    if not isinstance(request, ChatRequest):
        return None, False
    beginning: list[str] = []
    messages = request.messages()
    for message in messages:
        beginning.append(str(message.get("content")))
        if message.get("role") == "user":
            break
    answered = any(message.get("role") in ("assistant", "tool") for message in messages)
    # The hash of a string is salted anew in every process, and these keys never leave it.
    return (*owner, hash(tuple(beginning))), answered


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
