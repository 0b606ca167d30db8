"""A source model's distributions, read in the tokens of the target model, by byte offsets.

For a target token that covers the bytes [b, e) the source token that holds byte b is looked up. What the source had
said there about each of its own tokens v, given that v begins with the bytes before b, is told of the target token of
the same remaining bytes; what the target has no token for goes to `other`. For the token that really stands there the
chain rule goes on through the source's following tokens until byte e. Nothing is made up: where the source says nothing
about byte b, the row is not valid.

This is the byte-offset alignment of GOLD (first-position distribution, later tokens by the chain rule), extended to
positions inside a source token.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from offline.distill.signals import AlignedRows, TeacherSignal
from offline.distill.token_bytes import TokenizedText
from offline.distill.vocabulary import VocabularyMap

F32 = NDArray[np.float32]
I32 = NDArray[np.int32]


def align(target: TokenizedText, signal: TeacherSignal, mapping: VocabularyMap) -> AlignedRows:
    """The signal in the T tokens of `target`; rows are [T, k + 1], in no order.

    Raises
    ------
    ValueError: the signal is not of this text, or not of the tokenizer that `mapping` starts from.
    """
    _require_same_text(target, signal, mapping)
    count, k = len(target.token_ids), signal.top_ids.shape[1]
    ids = np.full((count, k + 1), -1, dtype=np.int32)
    probs = np.zeros((count, k + 1), dtype=np.float32)
    valid = np.zeros(count, dtype=np.bool_)
    gold = np.full(count, np.nan, dtype=np.float32)
    held = _holders(target.byte_spans[:, 0], signal.byte_spans)
    top = np.exp(signal.top_logprobs.astype(np.float32))
    mapped = np.where(signal.top_ids >= 0, mapping.target_id[signal.top_ids], -1)
    for row in range(count):
        at = int(held[row])
        if at < 0 or not signal.known[at]:
            continue
        begin, end = (int(edge) for edge in target.byte_spans[row])
        through = _through(signal, at, end)
        if through is None:
            continue
        others, shares, mass = _others(target.text, signal, mapping, at, begin, top[at], mapped[at])
        if mass <= 0.0:
            continue
        ids[row, :k], probs[row, :k] = others, shares / mass
        ids[row, k], probs[row, k] = target.token_ids[row], np.exp(through) / mass
        same = float(shares[others == target.token_ids[row]].sum())
        valid[row], gold[row] = True, np.logaddexp(through, np.log(same) if same else -np.inf) - np.log(mass)
    ids, probs = _merged(ids, probs)
    return AlignedRows(ids, probs, _other(probs, valid), valid, gold)


def _holders(begins: I32, spans: I32) -> I32:
    """For each byte the source token that holds it: the first one that ends after it. -1 if there is none."""
    found = np.searchsorted(spans[:, 1], begins, side="right").astype(np.int32)
    return np.where(found < len(spans), found, -1).astype(np.int32)


def _through(signal: TeacherSignal, at: int, end: int) -> float | None:
    """Log-probability of the source's tokens from `at` on until byte `end` is covered; None if one is unknown."""
    log = 0.0
    while True:
        if at >= len(signal.known) or not signal.known[at]:
            return None
        log += float(signal.gold_logprob[at])
        if signal.byte_spans[at, 1] >= end:
            return log
        at += 1


def _others(
    text: bytes, signal: TeacherSignal, mapping: VocabularyMap, at: int, begin: int, top: F32, mapped: I32
) -> tuple[I32, F32, float]:
    """Target ids [k] and shares [k] of the source's tokens at `at` but the one that stands there, and the mass that the
    shares are of: 1 where the source token begins here too, else what begins with the bytes before."""
    real = int(signal.token_ids[at])
    standing = float(np.exp(signal.gold_logprob[at]))
    alike = signal.top_ids[at] == real
    before = text[int(signal.byte_spans[at, 0]) : begin]
    if not before:
        rest = np.where(alike, np.float32(0.0), top)
        tail = float(np.exp(np.float32(signal.tail_logprob[at]))) - (0.0 if alike.any() else standing)
        return np.where(alike, -1, mapped).astype(np.int32), rest, float(rest.sum()) + standing + max(tail, 0.0)
    ids = np.full(len(top), -1, dtype=np.int32)
    shares = np.zeros(len(top), dtype=np.float32)
    whole = mapping.source_bytes[real] or b""
    lead = whole[: whole.find(before) + len(before)] if before in whole[: len(before) + 1] else before
    for column, index in enumerate(signal.top_ids[at]):
        written = mapping.source_bytes[index] if index >= 0 and not alike[column] else None
        if written is not None and len(written) > len(lead) and written.startswith(lead):
            shares[column] = top[column]
            ids[column] = mapping.id_of.get(written[len(lead) :], -1)
    return ids, shares, float(shares.sum()) + standing


def _merged(ids: I32, probs: F32) -> tuple[I32, F32]:
    """Each target token once in its row, with all the mass that was told of it; what has no token is left out."""
    order = np.argsort(ids, axis=1, kind="stable")
    ids, probs = np.take_along_axis(ids, order, axis=1), np.take_along_axis(probs, order, axis=1)
    for column in range(1, ids.shape[1]):
        again = (ids[:, column] == ids[:, column - 1]) & (ids[:, column] >= 0)
        probs[:, column] += np.where(again, probs[:, column - 1], 0.0)
        ids[again, column - 1] = -1
    return ids, np.where(ids >= 0, probs, np.float32(0.0))


def _other(probs: F32, valid: NDArray[np.bool_]) -> F32:
    return np.where(valid, np.maximum(1.0 - probs.sum(axis=1), 0.0), 0.0).astype(np.float32)


def _require_same_text(target: TokenizedText, signal: TeacherSignal, mapping: VocabularyMap) -> None:
    if len(signal.byte_spans) and int(signal.byte_spans[-1, 1]) > len(target.text):
        raise ValueError(
            f"expected a signal of the text's {len(target.text)} bytes, this one reaches to byte "
            f"{int(signal.byte_spans[-1, 1])}; score the text again with this model"
        )
    if signal.token_ids.size and int(signal.token_ids.max()) >= len(mapping.source_bytes):
        raise ValueError(
            f"expected token ids under {len(mapping.source_bytes)}, the signal has {int(signal.token_ids.max())}; "
            "the vocabulary map is of another tokenizer"
        )
