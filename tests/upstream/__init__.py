"""A scripted upstream: real sockets, real HTTP/1.1, every fault a test can think of. See `server` and `script`."""

from __future__ import annotations

from tests.upstream.answers import Answer, answer, error_in_stream, failing, tool_call
from tests.upstream.script import (
    Close,
    Gate,
    Pause,
    Received,
    Reset,
    Script,
    Send,
    Stall,
    cut,
    drip,
    fixed,
    gated,
    paced,
    raw_bytes,
    raw_stream,
    truncated,
)
from tests.upstream.server import ScriptedUpstream

__all__ = [
    "Answer", "Close", "Gate", "Pause", "Received", "Reset", "Script", "ScriptedUpstream", "Send", "Stall", "answer",
    "cut", "drip", "error_in_stream", "failing", "fixed", "gated", "paced", "raw_bytes", "raw_stream", "tool_call",
    "truncated",
]  # fmt: skip
