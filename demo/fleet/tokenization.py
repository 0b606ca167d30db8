"""The tokenizers of the fleet, in the files that transformers and vLLM read: characters, or byte-level BPE.

Every digit is a token of its own in all of them: models this small cannot learn sums and sorting from merged digits.
"""

from __future__ import annotations

import json
import string
from collections.abc import Iterable
from pathlib import Path

from tokenizers import AddedToken, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

PAD, UNKNOWN, END = "<|pad|>", "<|unk|>", "<|end|>"
SPECIAL = (PAD, UNKNOWN, END, "<|system|>", "<|user|>", "<|assistant|>")
CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{%- if message['role'] in ('system', 'assistant') -%}{{- '<|' + message['role'] + '|>' -}}"
    "{%- else -%}{{- '<|user|>' -}}{%- endif -%}"
    "{%- if message['content'] is string -%}{{- message['content'] -}}"
    "{%- elif message['content'] -%}"
    "{%- for part in message['content'] if part['type'] == 'text' -%}{{- part['text'] -}}{%- endfor -%}"
    "{%- endif -%}{{- '<|end|>' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|assistant|>' -}}{%- endif -%}"
)


def characters() -> Tokenizer:
    """One token per printable ASCII character and newline; any other character becomes the unknown token."""
    alphabet = [c for c in string.printable if c not in "\t\r\x0b\x0c"]
    vocabulary = {token: index for index, token in enumerate((*SPECIAL, *alphabet))}
    tokenizer = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token=UNKNOWN))
    tokenizer.normalizer = normalizers.Replace("\t", " ")
    tokenizer.decoder = decoders.Fuse()
    _add_special(tokenizer)
    return tokenizer


def byte_level(texts: Iterable[str], size: int) -> Tokenizer:
    """A byte-level BPE of `size` tokens trained on `texts`; it can encode any text."""
    tokenizer = Tokenizer(models.BPE(unk_token=UNKNOWN))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(texts, trainer)
    _add_special(tokenizer)
    return tokenizer


def _add_special(tokenizer: Tokenizer) -> None:
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in SPECIAL])


def end_token(tokenizer: Tokenizer) -> int:
    """The id of the token that ends a message. Raises ValueError if the tokenizer has none."""
    end = tokenizer.token_to_id(END)
    if end is None:
        raise ValueError(f"expected a tokenizer with the token {END}, this one has none; train the model again")
    return int(end)


def save(tokenizer: Tokenizer, folder: Path, context_window: int) -> None:
    """Write `tokenizer.json` and `tokenizer_config.json` with the chat template."""
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    settings = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": context_window,
        "pad_token": PAD,
        "unk_token": UNKNOWN,
        "eos_token": END,
        "clean_up_tokenization_spaces": False,
        "chat_template": CHAT_TEMPLATE,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(settings, indent=2) + "\n")
