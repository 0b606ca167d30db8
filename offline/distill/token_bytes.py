"""What bytes a token stands for, and where the tokens of a text lie in its UTF-8 bytes.

Tokenizers write the same bytes differently: byte-level BPE spells them in a private alphabet, unigram marks a space and
falls back to `<0xE4>`, word-piece marks what is *not* the start of a word. Two tokens of different tokenizers mean the
same if and only if their bytes are equal; that is all that alignment needs to know.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from tokenizers import Encoding, Tokenizer

Spelling = Literal["byte_level", "marked_space", "word_piece", "plain"]
"""How a vocabulary writes bytes; `plain` writes characters as they are."""

SPACE_MARK = "▁"
END = b"\xff"
"""What the end of a message is written as: a byte that no UTF-8 text has, the same for all tokenizers."""
LEAST_KNOWN = 0.5
"""Share of a text's bytes that must be written by tokens that are not the unknown one."""
_FALLBACK = re.compile(r"<0x([0-9A-Fa-f]{2})>")


class TokenizerError(ValueError):
    """A tokenizer cannot represent a text. The message says how much of it and what to do."""


@dataclass(frozen=True, slots=True)
class TokenizedText:
    """A text in tokens: `token_ids` int32 [T] and `byte_spans` int32 [T, 2] into its UTF-8 bytes.

    The spans touch each other and cover the text: what a tokenizer drops before a word belongs to the word's token.
    """

    text: bytes
    token_ids: NDArray[np.int32]
    byte_spans: NDArray[np.int32]


@dataclass(frozen=True)
class TokenBytes:
    """A tokenizer seen as bytes. `end` is the id of the token that ends a message, if the model has one."""

    tokenizer: Tokenizer
    end: int | None = None
    spelling: Spelling = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "spelling", _spelling(json.loads(self.tokenizer.to_str())))

    @cached_property
    def digest(self) -> str:
        """A digest of the whole tokenizer: signals of another digest are of another tokenizer."""
        return hashlib.sha256(self.tokenizer.to_str().encode()).hexdigest()

    @cached_property
    def by_id(self) -> list[bytes | None]:
        """The bytes of each token id; None for special tokens and for ids without a token."""
        added = self.tokenizer.get_added_tokens_decoder()
        vocabulary = self.tokenizer.get_vocab(with_added_tokens=True)
        found: list[bytes | None] = [None] * (max(vocabulary.values(), default=-1) + 1)
        prefix = _continued(json.loads(self.tokenizer.to_str()))
        for token, index in vocabulary.items():
            if index not in added:
                found[index] = _bytes_of(token, self.spelling, prefix)
            elif not added[index].special:
                found[index] = added[index].content.encode()
        if self.end is not None:
            # Byte-level alphabets have a token for this byte too; no text ever needs it.
            found = [None if written == END else written for written in found]
            found[self.end] = END
        return found

    def tokenized(self, text: str, *, ended: bool = False) -> TokenizedText:
        """The text in tokens, without special tokens around it; `ended`: with the token that ends a message.

        Raises
        ------
        TokenizerError: more than half of the text is of no token of this tokenizer, or it has no token for the end.
        """
        if ended and self.end is None:
            raise TokenizerError("expected a tokenizer with a token that ends a message (eos), this one names none")
        made = self.tokenizer.encode(text, add_special_tokens=False)
        raw = text.encode()
        ends, written = self._ends(made, text, raw)
        _require_known(written, raw, made.tokens)
        spans = np.zeros((len(ends), 2), dtype=np.int32)
        if len(ends):
            ends[-1] = len(raw)
            spans[:, 1] = ends
            spans[1:, 0] = ends[:-1]
        ids = np.asarray(made.ids, dtype=np.int32)
        if not ended or self.end is None:
            return TokenizedText(raw, ids, spans)
        last = np.array([[len(raw), len(raw) + len(END)]], dtype=np.int32)
        return TokenizedText(raw + END, np.append(ids, np.int32(self.end)), np.concatenate([spans, last]))

    def _ends(self, made: Encoding, text: str, raw: bytes) -> tuple[list[int], int]:
        """Where each token ends, and how many bytes were written by tokens with bytes."""
        tokens = [self.by_id[index] for index in made.ids]
        if b"".join(token or b"" for token in tokens) == raw:
            return np.cumsum([len(token or b"") for token in tokens], dtype=np.int64).tolist(), len(raw)
        byte_at = np.cumsum([0, *(len(character.encode()) for character in text)])
        ends, at, written = [], 0, 0
        for token, (_, character_end) in zip(tokens, made.offsets, strict=True):
            end = _end(token, raw, at)
            if end is None:
                end = max(at, int(byte_at[character_end]))
            if token is not None:
                written += end - at
            ends.append(end)
            at = end
        return ends, written


def _end(token: bytes | None, raw: bytes, at: int) -> int | None:
    """Where the token ends if it stands at byte `at`; None if it does not stand there as it is written.

    White space that the tokenizer dropped may lie before it; a space that the tokenizer made up need not be there.
    """
    if token is None:
        return None
    if raw.startswith(token, at):
        return at + len(token)
    bare = token.removeprefix(b" ")
    start = at
    while start < len(raw) and raw[start : start + 1].isspace():
        start += 1
    return start + len(bare) if raw.startswith(bare, start) else None


def _require_known(written: int, raw: bytes, tokens: Sequence[str]) -> None:
    if raw.strip() and written < LEAST_KNOWN * len(raw):
        raise TokenizerError(
            f"expected a tokenizer that can write the text, this one knows {written} of its {len(raw)} bytes "
            f"(it begins with the tokens {list(tokens[:5])}); leave the text or this model out"
        )


def _spelling(description: dict[str, Any]) -> Spelling:
    """How this tokenizer (its `tokenizer.json`) writes bytes."""
    if description["model"]["type"] == "WordPiece":
        return "word_piece"
    kinds = set(_kinds(description.get("pre_tokenizer"))) | set(_kinds(description.get("decoder")))
    if "ByteLevel" in kinds:
        return "byte_level"
    if "Metaspace" in kinds or description["model"].get("byte_fallback") or _marks_spaces(description):
        return "marked_space"
    return "plain"


def _marks_spaces(description: dict[str, Any]) -> bool:
    """Whether a normaliser turns spaces into the mark, as Llama's does."""
    return SPACE_MARK in json.dumps(description.get("normalizer"), ensure_ascii=False)


def _kinds(part: Any) -> list[str]:
    """The types of a step of a tokenizer and of the steps in it."""
    if not isinstance(part, dict):
        return []
    inner = [kind for key in ("pretokenizers", "decoders") for step in part.get(key, ()) for kind in _kinds(step)]
    return [str(part.get("type")), *inner]


def _continued(description: dict[str, Any]) -> str:
    """What word-piece writes before a piece that is not the start of a word."""
    return str(description["model"].get("continuing_subword_prefix") or "##")


def _bytes_of(token: str, spelling: Spelling, continued: str) -> bytes:
    if spelling == "byte_level":
        return _of_byte_level(token)
    if spelling == "marked_space":
        code = _FALLBACK.fullmatch(token)
        return bytes([int(code[1], 16)]) if code else token.replace(SPACE_MARK, " ").encode()
    if spelling == "word_piece":
        return token.removeprefix(continued).encode() if token.startswith(continued) else b" " + token.encode()
    return token.encode()


def _of_byte_level(token: str) -> bytes:
    """A character outside the alphabet stands for itself (tokens added by hand)."""
    return b"".join(bytes([_BYTES[character]]) if character in _BYTES else character.encode() for character in token)


def _byte_alphabet() -> dict[str, int]:
    """The byte of each character of the byte-level alphabet: printable Latin-1 is itself, the rest is moved up."""
    own = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    moved = [byte for byte in range(256) if byte not in own]
    return {chr(byte): byte for byte in own} | {chr(256 + index): byte for index, byte in enumerate(moved)}


_BYTES = _byte_alphabet()
