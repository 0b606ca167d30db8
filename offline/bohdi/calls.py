"""One question to one model, as it travels: to the event loop here, or to a process on another machine."""

from __future__ import annotations

import hashlib
import time
from typing import Any

import httpx
import msgspec

from offline.bohdi.log import StoredReply
from offline.chat_call import FIRST_WAIT_S, CallFailed, complete
from registry.arms import Arm
from templates_store.ways import ask as in_way


class Call(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`step` says what it is for within its log, as in "r3/p12/answer/llama/0"; `arm` is an id of the pool."""

    step: str
    arm: str
    prompt: str
    max_tokens: int
    seed: int
    temperature: float | None = None
    top_p: float | None = None

    @property
    def key(self) -> str:
        """The step and a digest of what is asked: a reply to another wording is no reply to this call."""
        return f"{self.step}@{hashlib.sha256(msgspec.json.encode(self)).hexdigest()[:12]}"

    def body(self) -> dict[str, Any]:
        """The request but for the model and the messages."""
        stated = {
            "max_tokens": self.max_tokens,
            "seed": self.seed,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        return {name: value for name, value in stated.items() if value is not None}


def call_seed(seed: int, step: str) -> int:
    """The seed of a call: 31 bits from the round's seed and the step."""
    return int.from_bytes(hashlib.sha256(f"{seed}/{step}".encode()).digest()[:4], "big") >> 1


async def reply_to(
    client: httpx.AsyncClient, arm: Arm, call: Call, *, attempts: int, first_wait_s: float = FIRST_WAIT_S
) -> StoredReply:
    """What the arm replies; a call that fails for good is a reply without text, and says why.

    `cost_usd` of a failure is 0 if it surely cost nothing, and None if nobody knows.
    """
    messages = in_way(arm.way, [{"role": "user", "content": call.prompt}]).messages
    body = {"messages": messages, **call.body()}
    try:
        found = await complete(client, arm.model, body, attempts=attempts, first_wait_s=first_wait_s)
    except CallFailed as failed:
        return StoredReply(failure=str(failed), cost_usd=0.0 if failed.unpaid else None, at=time.time())
    return StoredReply(
        text=found.text,
        tokens=found.completion_tokens,
        prompt_tokens=found.prompt_tokens,
        cost_usd=arm.model.prices.cost(found.prompt_tokens, found.completion_tokens),
        model_version=found.served or "",
        finish=found.finish_reason or "",
        at=time.time(),
    )
