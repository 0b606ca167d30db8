"""A source model's distributions, read in the tokens of the target model, by byte offsets.

For a target token that covers the bytes [b, e) the source token that holds byte b is looked up. What the source had
said there about each of its own tokens v, given that v begins with the bytes before b, is told of the target token of
the same remaining bytes; what the target has no token for goes to `other`, unless its bytes begin with the token that
really stands there: then that one comes first and gets it. For the token that really stands there the chain rule goes
on through the source's following tokens until byte e. Nothing is made up: where the source says nothing about byte b,
the row is not valid.

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
F64 = NDArray[np.float64]
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
    gold = np.full(count, np.nan, dtype=np.float32)
    held, through = _through(target, signal)
    rows = np.flatnonzero(np.isfinite(through))
    at = held[rows]
    top = np.exp(signal.top_logprobs.astype(np.float32))
    mapped = np.where(signal.top_ids >= 0, mapping.target_id[signal.top_ids], -1)
    others, shares, mass = _beginning_here(signal, at, top[at], mapped[at])
    standing = np.exp(through[rows])
    begins = target.byte_spans[rows, 0]
    for place in np.flatnonzero(begins > signal.byte_spans[at, 0]).tolist():
        others[place], shares[place], mass[place] = _inside(
            target.text, signal, mapping, int(at[place]), int(begins[place]), top[at[place]]
        )
    for place in np.flatnonzero(target.byte_spans[rows, 1] < signal.byte_spans[at, 1]).tolist():
        standing[place] += _longer(target, signal, mapping, int(rows[place]), int(at[place]), others[place],
                                   top[at[place]])  # fmt: skip
    good = mass > 0.0
    rows, others, shares, mass, standing = rows[good], others[good], shares[good], mass[good], standing[good]
    ids[rows, :k], probs[rows, :k] = others, shares / mass[:, None]
    ids[rows, k], probs[rows, k] = target.token_ids[rows], standing / mass
    same = np.where(others == target.token_ids[rows][:, None], shares, 0.0).sum(axis=1)
    with np.errstate(divide="ignore"):
        gold[rows] = np.log(standing + same) - np.log(mass)
    valid = np.zeros(count, dtype=np.bool_)
    valid[rows] = True
    ids, probs = _merged(ids, probs)
    return AlignedRows(ids, probs, _other(probs, valid), valid, gold)


def _through(target: TokenizedText, signal: TeacherSignal) -> tuple[I32, F64]:
    """For each target token the source token that holds its first byte [T], and the log-probability [T] of the source's
    tokens from there on until its last byte is covered; NaN where there is none or one is not known."""
    begins, ends = target.byte_spans[:, 0], target.byte_spans[:, 1]
    first = np.searchsorted(signal.byte_spans[:, 1], begins, side="right")
    last = np.searchsorted(signal.byte_spans[:, 1], ends, side="left")
    last = np.maximum(last, first)
    inside = last < len(signal.known)
    first, last = np.where(inside, first, 0), np.where(inside, last, 0)
    unknown = np.concatenate([[0], np.cumsum(~signal.known)])
    log = np.concatenate([[0.0], np.cumsum(np.where(signal.known, signal.gold_logprob, 0.0), dtype=np.float64)])
    told = inside & (unknown[np.where(inside, last + 1, 0)] == unknown[first])
    found = np.where(told, log[np.where(inside, last + 1, 0)] - log[first], np.nan)
    return first.astype(np.int32), found


def _beginning_here(signal: TeacherSignal, at: I32, top: F32, mapped: I32) -> tuple[I32, F32, F64]:
    """Where the source's tokens at `at` [R] begin where the target's do: target ids [R, k] and shares [R, k] of all of
    them but the one that stands there, and the mass [R] that the shares are of, near 1."""
    alike = signal.top_ids[at] == signal.token_ids[at][:, None]
    standing = np.exp(signal.gold_logprob[at].astype(np.float64))
    rest = np.where(alike, np.float32(0.0), top)
    tail = np.exp(signal.tail_logprob[at].astype(np.float32)) - np.where(alike.any(axis=1), 0.0, standing)
    mass = rest.sum(axis=1, dtype=np.float64) + standing + np.maximum(tail, 0.0)
    return np.where(alike, -1, mapped).astype(np.int32), rest, mass


def _inside(
    text: bytes, signal: TeacherSignal, mapping: VocabularyMap, at: int, begin: int, top: F32
) -> tuple[I32, F32, float]:
    """The same for one target token that begins inside a source token: of the source's tokens that begin with the bytes
    before, what they say comes next; the mass is theirs."""
    real = int(signal.token_ids[at])
    alike = signal.top_ids[at] == real
    lead = _lead(text, signal, mapping, at, begin)
    ids = np.full(len(top), -1, dtype=np.int32)
    shares = np.zeros(len(top), dtype=np.float32)
    for column, index in enumerate(signal.top_ids[at]):
        written = mapping.source_bytes[index] if index >= 0 and not alike[column] else None
        if written is not None and len(written) > len(lead) and written.startswith(lead):
            shares[column] = top[column]
            ids[column] = mapping.id_of.get(written[len(lead) :], -1)
    return ids, shares, float(shares.sum()) + float(np.exp(signal.gold_logprob[at]))


def _lead(text: bytes, signal: TeacherSignal, mapping: VocabularyMap, at: int, begin: int) -> bytes:
    """How the source token at `at` is written before byte `begin`: with a space that is not in the text, maybe."""
    before = text[int(signal.byte_spans[at, 0]) : begin]
    whole = mapping.source_bytes[int(signal.token_ids[at])] or b""
    return whole[: whole.find(before) + len(before)] if before in whole[: len(before) + 1] else before


def _longer(
    target: TokenizedText, signal: TeacherSignal, mapping: VocabularyMap, row: int, at: int, others: I32, top: F32
) -> float:
    """The mass of the source's longer tokens that begin with the target token that stands at `row`, and that the target
    has no token for: to write them, the target writes this one first."""
    begin, end = (int(edge) for edge in target.byte_spans[row])
    start = _lead(target.text, signal, mapping, at, begin) + target.text[begin:end]
    real, found = int(signal.token_ids[at]), 0.0
    for column, index in enumerate(signal.top_ids[at].tolist()):
        if others[column] < 0 <= index and index != real:
            written = mapping.source_bytes[index]
            if written is not None and written.startswith(start):
                found += float(top[column])
    return found


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
