"""What the target model is trained on: conversations in its tokens, and what each source said of their replies."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from offline.distill.signals import AlignedRows


class DataError(ValueError):
    """A data set cannot be trained on. The message names the file and line, what was expected and what to do."""


class Conversation(msgspec.Struct, frozen=True, kw_only=True):
    """One line of a data set, in the format that Bohdi and the curation write: the last message is the reply.

    `domain`: what it belongs to; weights of sources and the release gate go by it. `source`: who wrote the reply.
    `weight`: how much it counts, 1 as a rule.
    """

    id: str
    messages: Annotated[list[dict[str, Any]], msgspec.Meta(min_length=2)]
    domain: str = "all"
    source: str = ""
    weight: Annotated[float, msgspec.Meta(gt=0)] = 1.0

    @property
    def reply(self) -> str:
        return str(self.messages[-1]["content"])


def read_conversations(path: Path) -> list[Conversation]:
    """Raises DataError: the file is missing or empty, a line is no conversation, or an id comes twice."""
    if not path.exists():
        raise DataError(f"there is no data set {path}; make one with `tokamak bohdi export` or `tokamak curate`")
    found = list(_lines(path))
    if not found:
        raise DataError(f"{path} holds no conversation; a target model cannot be trained on nothing")
    seen: set[str] = set()
    for number, conversation in enumerate(found, 1):
        if conversation.id in seen:
            raise DataError(f"{path}, line {number}: the id {conversation.id!r} was there before; ids must differ")
        seen.add(conversation.id)
    return found


def _lines(path: Path) -> Iterator[Conversation]:
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                made = msgspec.json.decode(line, type=Conversation)
            except msgspec.DecodeError as error:
                raise DataError(f"{path}, line {number}: {error}; expected a conversation as JSON") from error
            last = made.messages[-1]
            if last.get("role") != "assistant" or not isinstance(last.get("content"), str) or not last["content"]:
                raise DataError(f"{path}, line {number}: expected the last message to be the assistant's, with a text")
            yield made


@dataclass(frozen=True, slots=True)
class Sample:
    """A conversation in the target's tokens.

    `prompt` int32 [P], at least one token; `reply` int32 [R], with the token that ends a message. `signals`: for each
    source its rows of the R reply tokens, None where it was not asked or could not say.
    """

    id: str
    domain: str
    prompt: NDArray[np.int32]
    reply: NDArray[np.int32]
    weight: float = 1.0
    signals: Sequence[AlignedRows | None] = field(default=())

    @property
    def length(self) -> int:
        return len(self.prompt) + len(self.reply)


def domains(samples: Sequence[Sample]) -> list[str]:
    """The domains in order of their names: the clusters that sources are weighed in."""
    return sorted({sample.domain for sample in samples})
