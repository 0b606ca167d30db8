"""Halves of surrogate pairs in JSON (`\\ud83d` without its other half): legal there, but no text.

Programs that cut texts into UTF-16 units send them. Gateway and training read them alike: as U+FFFD.
"""

from __future__ import annotations

import re

_SURROGATE = re.compile(rb"(?i)\\u(d[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}|d[89a-f][0-9a-f]{2})")
_PAIR_BYTES = 12


def repaired(raw: bytes) -> bytes:
    """The same JSON with U+FFFD for every half of a pair."""
    return _SURROGATE.sub(lambda found: found[0] if len(found[0]) == _PAIR_BYTES else rb"\ufffd", raw)
