"""What the cache is for one request."""

from __future__ import annotations

from typing import Literal

from service.cache.kept import KeptAnswer

CacheResult = Literal["hit", "miss", "bypass"]
"""`bypass`: it was not asked, or could not be."""


class CacheUse:
    """`key`: what the answer may be kept under, None if it may not; `until` when. `answer`: what was found."""

    __slots__ = ("answer", "key", "result", "until")

    def __init__(self) -> None:
        self.result: CacheResult = "bypass"
        self.key: bytes | None = None
        self.until = 0.0
        self.answer: KeptAnswer | None = None
