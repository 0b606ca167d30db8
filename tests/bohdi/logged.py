"""Traffic about known topics and unknown ones, for trees that have the known ones as leaves."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from pathlib import Path

from encoders.catalogue import load_encoder
from offline.bohdi.events import ROOT, AnyEvent, Planted, Sprouted
from tests.bohdi.grown import LARGE, TARGET, episode, path_of
from traffic.records import Interaction
from traffic.stores import open_log

ENCODER = load_encoder("static")
TOPICS: dict[tuple[str, str], tuple[tuple[str, ...], tuple[str, ...]]] = {
    ("Science", "Astronomy"): (
        ("planet", "star", "galaxy", "comet", "moon"),
        ("orbit", "telescope", "gravity", "eclipse", "supernova"),
    ),
    ("Science", "Chemistry"): (
        ("acid", "molecule", "electron", "catalyst", "salt"),
        ("reaction", "bond", "solution", "oxidation", "titration"),
    ),
    ("Law", "Contracts"): (
        ("buyer", "seller", "tenant", "court", "employer"),
        ("contract", "breach", "damages", "clause", "liability"),
    ),
}
"""For each leaf the words that its questions are made of."""
COOKING = (("pan", "oven", "dough", "butter", "garlic"), ("bake", "fry", "season", "knead", "roast"))


def asked(words: tuple[tuple[str, ...], tuple[str, ...]], number: int) -> str:
    """The question of that number about these words."""
    things, doings = words
    thing, other = things[number % 5], things[(number // 5 + number) % 5]
    return f"How does the {doings[number // 5 % 5]} of the {thing} depend on its {other} and {doings[number % 5]}?"


def topical(questions: int = 10) -> Iterator[AnyEvent]:
    """A tree of two levels, whose leaves have been asked about so many times."""
    yield Planted(at=1.0, levels=2, target=TARGET, target_version="t0", sources=(LARGE,), seed=0)
    known = {ROOT}
    for names in TOPICS:
        path = path_of(names)
        for parent, node, name in zip((ROOT, *path), path, names, strict=False):
            if node not in known:
                known.add(node)
                yield Sprouted(at=2.0, node=node, parent=parent, name=name)
    for place, (names, words) in enumerate(TOPICS.items()):
        for number in range(questions):
            step = f"r1/{place}-{number}"
            yield episode(number, 0, step=step, path=path_of(names), question=asked(words, number), prompts_version="p")


def logged(
    text: str,
    number: int,
    *,
    key: str | None = None,
    stored: bool = True,
    encoder: str = ENCODER.hash,
    at: float = 500.0,
) -> Interaction:
    """A request with this text, as the gateway logs it."""
    return Interaction(
        id=f"req_{number}", created_at=at + number, endpoint="/chat/completions", outcome="ok", http_status=200,
        key_id=key, stored=stored, query_text=text if stored else None, encoder=encoder,
        vector=ENCODER.encode_one(text).astype("<f4").tobytes() if stored else None,
        request=text.encode() if stored else None, response=text.upper().encode() if stored else None,
    )  # fmt: skip


def traffic(folder: Path, records: Iterable[Interaction]) -> str:
    """A traffic log with these records; its URL."""
    url = f"sqlite:///{folder / 'traffic.db'}"

    async def write() -> None:
        log = open_log(url)
        for record in records:
            log.append(record)
        await log.close()

    asyncio.run(write())
    return url
