"""Tokenizers of every kind, trained on a little English, code and Chinese; and signals made from them."""

from __future__ import annotations

from functools import cache

import numpy as np
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers

from offline.distill.signals import TeacherSignal
from offline.distill.token_bytes import TokenBytes

ENGLISH = "The quick brown fox jumps over the lazy dog, and the dog sleeps. It isn't 365 days old: motivation matters!"
CODE = "def area(width: int, height: int) -> int:\n    return width * height  # in px²\n\nprint(area(3, 14))\n"
CHINESE = "中华人民共和国成立于一九四九年。天气很好，我们去公园散步。请用中文回答问题：一加一等于几？"
TEXTS = (ENGLISH, CODE, CHINESE)


@cache
def byte_level(size: int = 420) -> TokenBytes:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    made.train_from_iterator(
        TEXTS, trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, min_frequency=1, show_progress=False)
    )
    return TokenBytes(made)


@cache
def unigram(size: int = 260) -> TokenBytes:
    """Marks spaces like SentencePiece, with a space before the text that the text does not have."""
    made = Tokenizer(models.Unigram())
    made.normalizer = normalizers.Replace(" ", "▁")
    made.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always")
    made.decoder = decoders.Metaspace()
    made.train_from_iterator(
        TEXTS,
        trainers.UnigramTrainer(vocab_size=size, special_tokens=["<unk>"], unk_token="<unk>", show_progress=False),
    )
    return TokenBytes(made)


@cache
def word_piece(size: int = 300) -> TokenBytes:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.train_from_iterator(
        TEXTS, trainers.WordPieceTrainer(vocab_size=size, special_tokens=["[UNK]"], show_progress=False)
    )
    return TokenBytes(made)


ALL = {"byte_level": byte_level, "unigram": unigram, "word_piece": word_piece}


def signal(tokens: TokenBytes, text: str, *, seed: int = 0, k: int = 8, ended: bool = False) -> TeacherSignal:
    """Random distributions over the whole vocabulary at each token of the text, cut to the top k."""
    made = tokens.tokenized(text, ended=ended)
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(len(made.token_ids), len(tokens.by_id))) * 3.0
    logits[np.arange(len(logits)), made.token_ids] += 2.0
    log = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    top = np.argsort(-log, axis=1)[:, :k].astype(np.int32)
    kept = np.take_along_axis(log, top, axis=1)
    return TeacherSignal(
        model_hash="model", tokenizer_hash=tokens.digest, text_hash="text", capability="logits",
        token_ids=made.token_ids, byte_spans=made.byte_spans, top_ids=top, top_logprobs=kept.astype(np.float16),
        tail_logprob=np.log(np.maximum(1.0 - np.exp(kept).sum(axis=1), 1e-30)).astype(np.float16),
        gold_logprob=log[np.arange(len(log)), made.token_ids].astype(np.float32),
        known=np.ones(len(log), dtype=np.bool_),
    )  # fmt: skip
