"""The texts that tokenizers of three kinds are trained and compared on: English, code and Chinese.

English is the project's own documentation, code is Python's library, Chinese was written for this. Tokenizers are
trained on every other passage and compared on the rest; the Chinese is too short for that, and its characters are all
in the tokenizers.
"""

from __future__ import annotations

import sysconfig
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from offline.distill.token_bytes import TokenBytes

ROOT = Path(__file__).resolve().parents[2]
MODULES = ("argparse.py", "statistics.py", "textwrap.py", "heapq.py", "bisect.py", "calendar.py", "json/decoder.py")
END_TOKEN = "<end>"


@dataclass(frozen=True, slots=True)
class Texts:
    """Passages of one kind: `train` for tokenizers, `held` for what is measured."""

    train: list[str]
    held: list[str]


def all_texts(most: int = 60) -> dict[str, Texts]:
    """The three kinds, at most so many passages in each half."""
    library = Path(sysconfig.get_paths()["stdlib"])
    english = [text for path in sorted((ROOT / "docs").glob("*.md")) for text in _passages(path.read_text(), 200)]
    prose = [text for text in english if "```" not in text and "|" not in text]
    code = [text for name in MODULES for text in _passages((library / name).read_text(), 200)]
    chinese = (Path(__file__).parent / "chinese.txt").read_text(encoding="utf-8").splitlines()
    joined = ["".join(chinese[at : at + 2]) for at in range(0, len(chinese), 2)]
    apart = {kind: Texts(every[::2][:most], every[1::2][:most]) for kind, every in (("english", prose), ("code", code))}
    return apart | {"chinese": Texts(joined, joined[:most])}


def _passages(text: str, least: int) -> list[str]:
    """Paragraphs of at least so many characters, cut at 1,200."""
    return [part[:1200] for part in text.split("\n\n") if len(part) >= least]


def tokenizers(texts: Sequence[str], size: int) -> dict[str, TokenBytes]:
    """One tokenizer of each kind, of about `size` tokens, with a token that ends a message."""
    made = {"byte-level BPE": _byte_level, "unigram": _unigram, "word-piece": _word_piece}
    found = {}
    for name, build in made.items():
        tokenizer = build(texts, size)
        found[name] = TokenBytes(tokenizer, end=tokenizer.token_to_id(END_TOKEN))
    return found


def _byte_level(texts: Sequence[str], size: int) -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        texts,
        trainers.BpeTrainer(
            vocab_size=size, initial_alphabet=alphabet, special_tokens=[END_TOKEN], show_progress=False
        ),
    )
    return made


def _unigram(texts: Sequence[str], size: int) -> Tokenizer:
    """Marks spaces as SentencePiece does, with a space before the text that the text does not have."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(
        texts,
        trainers.UnigramTrainer(
            vocab_size=size, special_tokens=["<unk>", END_TOKEN], unk_token="<unk>", show_progress=False
        ),
    )
    return made


def _word_piece(texts: Sequence[str], size: int) -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        texts, trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[UNK]", END_TOKEN], show_progress=False)
    )
    return made
