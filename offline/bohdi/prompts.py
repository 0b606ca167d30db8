"""Prompt sets: the texts by which models are asked to propose, ask, answer and judge, as versioned files in a folder.

    propose_first.txt  name a domain of the first level            {taken} {level}
    propose.txt        name a domain below {path}                  {path} {parent} {taken} {level}
    ask.txt            write a question about {path}               {path} {leaf} {style}
    answer.txt         answer it                                   {question}
    compare.txt        which of two answers is better, or neither  {question} {first} {second} {left} {right} {tag}
    choose.txt         which of several answers is best            {question} {answers} {labels} {tag}
    set.yaml           how replies are read (`Reading`); may be left out

Whoever changes a file changes the set's version, which is in every event: a digest of all its files. Without
`compare.txt` nothing can be judged, and a checker has to decide. Without `choose.txt` no best source is looked for.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec

BUILT_IN: Final = Path(__file__).parent / "prompts"
PLACEHOLDERS: Final[dict[str, frozenset[str]]] = {
    "propose_first": frozenset({"taken", "level"}),
    "propose": frozenset({"path", "parent", "taken", "level"}),
    "ask": frozenset({"path", "leaf", "style"}),
    "answer": frozenset({"question"}),
    "compare": frozenset({"question", "first", "second", "left", "right", "tag"}),
    "choose": frozenset({"question", "answers", "labels", "tag"}),
}
"""What may stand in braces in each file."""
NEEDED: Final = ("propose_first", "propose", "ask", "answer")
_PLACE: Final = re.compile(r"\{([a-z]+)\}")
Count = Annotated[int, msgspec.Meta(ge=1)]


class Asked(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """How one kind of prompt is sent and its reply read.

    `open`, `close`: what the reply is put between; without them the whole reply counts. `samples`: how often each
    model is asked; `attempts`: how often a reply that cannot be used is asked for again. `temperature`: for all models
    that the settings name none for; None leaves it to the server.
    """

    max_tokens: Count = 64
    open: str = ""
    close: str = ""
    samples: Count = 3
    attempts: Count = 3
    temperature: Annotated[float, msgspec.Meta(ge=0, le=2)] | None = None
    top_p: Annotated[float, msgspec.Meta(gt=0, le=1)] | None = None
    min_chars: Count = 1
    max_chars: Count = 8000


class Reading(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`set.yaml`. `levels` says what a domain of each level is, the last one for all deeper ones; `styles` are the
    styles of questions, of which each question is given one; `separator` stands between the names of a path."""

    propose: Asked = Asked()
    ask: Asked = Asked()
    answer: Asked = Asked(max_tokens=64)
    judge: Asked = Asked(temperature=0.0)
    levels: tuple[str, ...] = ("a field",)
    styles: tuple[str, ...] = ("",)
    separator: str = " > "
    show_taken: Annotated[int, msgspec.Meta(ge=0)] = 40
    """How many of the known names a proposal is shown."""


class PromptsUnreadable(ValueError):
    """A prompt set cannot be used. The message names the file and what to do."""


class PromptSet:
    """A set of prompts; `version` is `<name>@<digest>`."""

    def __init__(self, name: str, texts: Mapping[str, str], reading: Reading, digest: str) -> None:
        self.name = name
        self.reading = reading
        self.version = f"{name}@{digest}"
        self._texts = dict(texts)

    @property
    def judges(self) -> bool:
        """Whether answers can be compared by a judge."""
        return "compare" in self._texts

    @property
    def chooses(self) -> bool:
        """Whether a judge can be asked for the best of several answers."""
        return "choose" in self._texts

    def level(self, level: int) -> str:
        """What a domain of this level (from 1) is."""
        levels = self.reading.levels
        return levels[min(level, len(levels)) - 1]

    def path(self, names: tuple[str, ...]) -> str:
        return self.reading.separator.join(names)

    def text(self, kind: str, **values: str) -> str:
        """The prompt of this kind. What is filled in is never read for placeholders again."""
        return _PLACE.sub(lambda found: values[found[1]] if found[1] in values else found[0], self._texts[kind])


def read_prompts(name: str) -> PromptSet:
    """The built-in set of that name, else the set in that folder.

    Raises
    ------
    PromptsUnreadable: there is none, a file is missing, or something in braces is not known.
    """
    folder = BUILT_IN / name if re.fullmatch(r"[\w-]+", name) and (BUILT_IN / name).is_dir() else Path(name)
    if not folder.is_dir():
        known = ", ".join(sorted(entry.name for entry in BUILT_IN.iterdir() if entry.is_dir()))
        raise PromptsUnreadable(f"there is no prompt set {name!r}; built in are {known}, or name a folder with one")
    files = {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.suffix in (".txt", ".yaml")}
    texts = {kind: _text(folder, kind, files) for kind in PLACEHOLDERS if f"{kind}.txt" in files}
    missing = [f"{kind}.txt" for kind in NEEDED if kind not in texts]
    if missing:
        raise PromptsUnreadable(f"the prompt set {folder} has no {', '.join(missing)}; add it")
    digest = hashlib.sha256()
    for file, content in files.items():
        digest.update(f"{file} {len(content)}\n".encode() + content)
    return PromptSet(folder.name, texts, _reading(folder, files.get("set.yaml")), digest.hexdigest()[:8])


def _text(folder: Path, kind: str, files: Mapping[str, bytes]) -> str:
    file = folder / f"{kind}.txt"
    try:
        text = files[file.name].decode().strip()
    except UnicodeDecodeError:
        raise PromptsUnreadable(f"{file} is not UTF-8; save it as UTF-8") from None
    unknown = set(_PLACE.findall(text)) - PLACEHOLDERS[kind]
    if not text or unknown:
        named = ", ".join(f"{{{name}}}" for name in sorted(PLACEHOLDERS[kind]))
        wrong = f"names {', '.join(f'{{{name}}}' for name in sorted(unknown))}" if unknown else "is empty"
        raise PromptsUnreadable(f"{file} {wrong}; it may use {named}")
    return text


def _reading(folder: Path, stated: bytes | None) -> Reading:
    if stated is None:
        return Reading()
    try:
        return msgspec.yaml.decode(stated, type=Reading)
    except msgspec.DecodeError as error:
        raise PromptsUnreadable(f"{folder / 'set.yaml'}: {error}") from None
