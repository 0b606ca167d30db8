"""How well distributions of one tokenizer can be read in another: how much of it, how right, and what is made up."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

from benchmarks.distill_lab.texts import all_texts, tokenizers
from offline.distill.alignment import align
from offline.distill.mined import MinED, align_mined
from offline.distill.signals import AlignedRows, TeacherSignal
from offline.distill.token_bytes import TokenBytes, TokenizedText, TokenizerError
from offline.distill.vocabulary import map_vocabulary

Row = dict[str, Any]
SURE = 0.9
"""A row that gives one token more than this is sure of it."""


def signal_over(tokens: TokenBytes, made: TokenizedText, k: int, seed: int, *, certain: bool = False) -> TeacherSignal:
    """Random distributions over the whole vocabulary that favour the token that stands there, cut to the top k.

    `certain`: all mass on it, as of a source that gives text alone.
    """
    rng = np.random.default_rng(seed)
    count, size = len(made.token_ids), len(tokens.by_id)
    logits = rng.normal(size=(count, size)) * 3.0
    logits[np.arange(count), made.token_ids] += 200.0 if certain else 6.0
    return signal_from(tokens, made, logits, k)


def signal_from(tokens: TokenBytes, made: TokenizedText, logits: np.ndarray, k: int) -> TeacherSignal:
    """The signal of a source with these logits [T, V]."""
    log = logits - logits.max(axis=1, keepdims=True)
    log = log - np.log(np.exp(log).sum(axis=1, keepdims=True))
    top = np.argsort(-log, axis=1, kind="stable")[:, :k].astype(np.int32)
    kept = np.take_along_axis(log, top, axis=1)
    with np.errstate(divide="ignore"):
        tail = np.log(np.maximum(1.0 - np.exp(kept).sum(axis=1), 0.0))
    return TeacherSignal(
        model_hash="model", tokenizer_hash=tokens.digest, text_hash="text", capability="logits",
        token_ids=made.token_ids, byte_spans=made.byte_spans, top_ids=top, top_logprobs=kept.astype(np.float16),
        tail_logprob=tail.astype(np.float16),
        gold_logprob=log[np.arange(len(log)), made.token_ids].astype(np.float32),
        known=np.ones(len(log), dtype=np.bool_),
    )  # fmt: skip


def aligned(passages: int, size: int, k: int = 32) -> list[Row]:
    """For each kind of text and pair of tokenizers: the share of positions aligned, and what it takes."""
    texts = all_texts(passages)
    every = tokenizers([text for kind in texts.values() for text in kind.train], size)
    rows = []
    for kind, chosen in texts.items():
        for source_name, source in every.items():
            for target_name, target in every.items():
                row = {"what": "aligned", "text": kind, "source": source_name, "target": target_name}
                rows.append(row | _of_pair(source, target, chosen.held, k))
    return rows


def _of_pair(source: TokenBytes, target: TokenBytes, texts: Sequence[str], k: int) -> Row:
    mapping = map_vocabulary(source, target)
    valid: list[bool] = []
    told, copied, spent, refused = 0.0, 0, 0.0, 0
    for number, text in enumerate(texts):
        try:
            made, read = target.tokenized(text, ended=True), source.tokenized(text, ended=True)
        except TokenizerError:
            refused += 1
            continue
        signal = signal_over(source, read, k, number)
        began = time.process_time()
        rows = align(made, signal, mapping)
        spent += time.process_time() - began
        valid += rows.valid.tolist()
        told += float((1.0 - rows.other)[rows.valid].sum())
        copied += _sure_of_the_current(rows, made)
    return {
        "passages": len(texts) - refused, "refused": refused, "positions": len(valid),
        "aligned_share": float(np.mean(valid)), "mass_named": told / max(sum(valid), 1), "copied": copied,
        "vocabulary_shared": mapping.shared, "us_per_position": 1e6 * spent / len(valid),
    }  # fmt: skip


def _sure_of_the_current(rows: AlignedRows, made: TokenizedText) -> int:
    """At how many positions nearly all mass is on the token before, although another one stands there."""
    before, here = made.token_ids[:-1], made.token_ids[1:]
    mass = np.where(rows.ids[1:] == before[:, None], rows.probs[1:], 0.0).sum(axis=1)
    return int(((mass > SURE) & (before != here) & rows.valid[1:]).sum())


def copying(passages: int, size: int, k: int = 10) -> list[Row]:
    """Ours beside FuseLLM's alignment, as released and corrected: where the target is told to repeat its input."""
    texts = all_texts(passages)
    every = tokenizers([text for kind in texts.values() for text in kind.train], size)
    source, target = every["word-piece"], every["byte-level BPE"]
    mapping, mined = map_vocabulary(source, target), MinED(source, target)
    found: dict[str, list[tuple[int, int, float]]] = {"ours": [], "MinED, as released": [], "MinED, corrected": []}
    for number, text in enumerate(texts["english"].held + texts["code"].held):
        made, read = target.tokenized(text[:400]), source.tokenized(text[:400])
        signal = signal_over(source, read, k, number)
        said = {
            "ours": align(made, signal, mapping),
            "MinED, as released": align_mined(made, signal, mined, copy_bug=True),
            "MinED, corrected": align_mined(made, signal, mined, copy_bug=False),
        }
        for name, rows in said.items():
            certain = int(((rows.probs.max(axis=1) >= 1.0 - 1e-6) & rows.valid).sum())
            found[name].append((int(rows.valid[1:].sum()), _sure_of_the_current(rows, made), certain))
    return [
        {
            "what": "copying", "alignment": name, "positions": sum(part[0] for part in parts),
            "copied_share": sum(part[1] for part in parts) / sum(part[0] for part in parts),
            "certain_share": sum(part[2] for part in parts) / sum(part[0] for part in parts),
        }
        for name, parts in found.items()
    ]  # fmt: skip


def gradients(passages: int, size: int) -> list[Row]:
    """A source that is the target in other tokens: the fused gradient beside the gradient it must be.

    `certain`: a source of the text alone, in every other tokenizer, must give the gradient of CLM. `renamed`: the
    target's own distributions under other ids must give none, as CLM on the target's own words does on average.
    `pieces`: the same, of tokens that are two of the target's bytes or half of one of its tokens.
    """
    texts = all_texts(passages)
    every = tokenizers([text for kind in texts.values() for text in kind.train], size)
    rows = []
    for source_name, source in every.items():
        for target_name, target in every.items():
            worst = max(_certain(source, target, text) for kind in texts.values() for text in kind.held[:3])
            rows.append({"what": "gradient", "check": "certain", "source": source_name, "target": target_name,
                         "worst": worst})  # fmt: skip
    text = texts["english"].held[0]
    tokens = every["byte-level BPE"]
    for k in (32, len(tokens.by_id)):
        rows.append({"what": "gradient", "check": "renamed", "k": k, "worst": _renamed(tokens, text, k)})
    rows += [{"what": "gradient", "check": f"pieces, {way}", "worst": _pieces(way)} for way in ("longer", "shorter")]
    return rows


def _certain(source: TokenBytes, target: TokenBytes, text: str) -> float:
    made, read = target.tokenized(text, ended=True), source.tokenized(text, ended=True)
    rows = align(made, signal_over(source, read, 8, 0, certain=True), map_vocabulary(source, target))
    logits = np.random.default_rng(1).normal(size=(len(made.token_ids), len(target.by_id)))
    fused, clm = _gradients(logits, made, rows)
    return float(np.abs(fused - clm)[rows.valid].max())


def _renamed(tokens: TokenBytes, text: str, k: int) -> float:
    """The source's ids are the target's in another order."""
    made = tokens.tokenized(text)
    order = np.random.default_rng(2).permutation(len(tokens.by_id))
    logits = np.random.default_rng(1).normal(size=(len(made.token_ids), len(order))) * 3.0
    place = np.argsort(order).astype(np.int32)
    read = TokenizedText(made.text, place[made.token_ids], made.byte_spans)
    mapping = map_vocabulary(tokens, tokens)
    renamed = type(mapping)(
        mapping.target_id[order], mapping.id_of, [mapping.source_bytes[index] for index in order.tolist()]
    )
    rows = align(made, signal_from(tokens, read, logits[:, order], k), renamed)
    return float(np.abs(_gradients(logits, made, rows)[0])[rows.valid].max())


LETTERS = "abcdefgh"


def _pieces(way: str) -> float:
    """A language of eight letters. One side reads letters, the other pairs; a pair's probability is its letters'."""
    rng = np.random.default_rng(3)
    text = "".join(rng.choice(list(LETTERS), 200).tolist())
    letters, pairs = _plain([*LETTERS]), _plain([a + b for a in LETTERS for b in LETTERS])
    first = rng.normal(size=(100, 8))
    second = rng.normal(size=(100, 8, 8))
    log_first = first - np.log(np.exp(first).sum(axis=1, keepdims=True))
    log_second = second - np.log(np.exp(second).sum(axis=2, keepdims=True))
    of_pairs = (log_first[:, :, None] + log_second).reshape(100, 64)
    at = np.array([LETTERS.index(letter) for letter in text])
    of_letters = np.empty((200, 8))
    of_letters[0::2], of_letters[1::2] = log_first, log_second[np.arange(100), at[0::2]]
    in_letters = TokenizedText(text.encode(), at.astype(np.int32), _spans(200, 1))
    in_pairs = TokenizedText(text.encode(), (8 * at[0::2] + at[1::2]).astype(np.int32), _spans(100, 2))
    if way == "longer":
        said = signal_from(pairs, in_pairs, of_pairs, 64)
        rows = align(in_letters, said, map_vocabulary(pairs, letters))
        fused, logits, made = None, of_letters, in_letters
    else:
        said = signal_from(letters, in_letters, of_letters, 8)
        rows = align(in_pairs, said, map_vocabulary(letters, pairs))
        fused, logits, made = None, of_pairs, in_pairs
    fused, _ = _gradients(logits, made, rows)
    # Of the token that stands there: of others the source says only what it has tokens for.
    return float(np.abs(fused[np.arange(len(made.token_ids)), made.token_ids]).max())


def _spans(count: int, width: int) -> np.ndarray:
    ends = np.arange(1, count + 1, dtype=np.int32) * width
    return np.stack([ends - width, ends], axis=1).astype(np.int32)


def _plain(tokens: list[str]) -> TokenBytes:
    return TokenBytes(Tokenizer(models.WordLevel({token: index for index, token in enumerate(tokens)}, unk_token="a")))


def _gradients(logits: np.ndarray, made: TokenizedText, rows: AlignedRows) -> tuple[np.ndarray, np.ndarray]:
    """Gradients [T, V] by the logits, per position: of the fused loss, and of CLM."""
    import torch

    from offline.distill.fused_loss import TeacherRows, training_loss

    labels = torch.from_numpy(made.token_ids.astype(np.int64))
    source = TeacherRows(
        torch.from_numpy(rows.ids.astype(np.int64)), torch.from_numpy(rows.probs), torch.from_numpy(rows.other),
        torch.from_numpy(rows.valid),
    )  # fmt: skip
    found = []
    for mix in (1.0, 0.0):
        student = torch.tensor(logits, dtype=torch.float32, requires_grad=True)
        losses = training_loss(student, labels, [source], torch.ones(len(labels), 1), mix=mix)
        losses.total.backward()
        count = int(rows.valid.sum()) if mix else len(labels)
        assert student.grad is not None
        found.append(student.grad.numpy() * count)
    return found[0], found[1]


def vocabularies(source_size: int = 50_000, target_size: int = 32_000) -> Row:
    """The map between two vocabularies of the sizes of real models, from tokenizers as they are read from a file."""
    words = _words(source_size)
    source, target = _large("byte_level", words), _large("marked_space", words[: target_size - 300])
    began, wall = time.process_time(), time.perf_counter()
    mapping = map_vocabulary(source, target)
    return {
        "what": "vocabulary map", "source_tokens": len(source.by_id), "target_tokens": len(target.by_id),
        "cpu_s": time.process_time() - began, "wall_s": time.perf_counter() - wall, "shared": mapping.shared,
    }  # fmt: skip


def _words(count: int) -> list[str]:
    """Distinct words, with and without a space before them, made of syllables."""
    rng = np.random.default_rng(0)
    syllables = [a + b for a in "bcdfghklmnprstvz" for b in ("a", "e", "i", "o", "u", "ar", "en", "it", "ol", "us")]
    found: dict[str, None] = {}
    while len(found) < count:
        word = "".join(rng.choice(syllables, int(rng.integers(1, 5))).tolist())
        found.setdefault(f" {word}" if rng.random() < 0.6 else word)
    return list(found)


def _large(spelling: str, words: Sequence[str]) -> TokenBytes:
    if spelling == "byte_level":
        alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
        vocabulary = dict.fromkeys([*alphabet, *(word.replace(" ", "Ġ") for word in words)])
        made = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(vocabulary)}, merges=[]))
        made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        made.decoder = decoders.ByteLevel()
    else:
        pieces = ["<unk>", *(f"<0x{byte:02X}>" for byte in range(256)), *(word.replace(" ", "▁") for word in words)]
        made = Tokenizer(models.Unigram([(piece, -1.0 - index) for index, piece in enumerate(pieces)], 0, True))
        made.pre_tokenizer = pre_tokenizers.Metaspace()
        made.decoder = decoders.Metaspace()
        made.add_special_tokens([AddedToken("<unk>", special=True)])
    return TokenBytes(Tokenizer.from_str(made.to_str()))
