"""Distributions of one tokenizer read in another: nothing lost, nothing made up, nothing shifted."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from tokenizers import Tokenizer, models

from offline.distill.alignment import align
from offline.distill.signals import TeacherSignal
from offline.distill.token_bytes import TokenBytes, TokenizedText, TokenizerError
from offline.distill.vocabulary import map_vocabulary
from tests.distill.tokenizers_of_all_kinds import ALL, CHINESE, CODE, ENGLISH, TEXTS, byte_level, signal, word_piece

PAIRS = [(a, b) for a in ALL for b in ALL]


@pytest.mark.parametrize("kind", sorted(ALL))
@pytest.mark.parametrize("text", TEXTS)
def test_spans_cover_the_text_and_hold_the_bytes_of_their_tokens(kind: str, text: str) -> None:
    tokens = ALL[kind]()
    made = tokens.tokenized(text)
    assert made.byte_spans[0, 0] == 0
    assert made.byte_spans[-1, 1] == len(text.encode())
    np.testing.assert_array_equal(made.byte_spans[1:, 0], made.byte_spans[:-1, 1])
    held = [made.text[start:end] for start, end in made.byte_spans]
    written = [tokens.by_id[index] for index in made.token_ids]
    same = [a.strip() == (b or b"").strip() for a, b in zip(held, written, strict=True)]
    assert np.mean(same) > 0.97


def test_a_text_that_the_tokenizer_cannot_write_is_refused() -> None:
    with pytest.raises(TokenizerError, match="leave the text or this model out"):
        word_piece().tokenized("ЖЖЖ ЩЩЩ ЮЮЮ")


def test_equal_bytes_are_one_token_whatever_their_spelling() -> None:
    mapping = map_vocabulary(byte_level(), word_piece())
    source, target = byte_level().tokenizer, word_piece().tokenizer
    assert mapping.target_id[source.token_to_id("Ġthe")] == target.token_to_id("the")
    assert 0 < mapping.shared <= 1
    for index, found in enumerate(mapping.target_id):
        if found >= 0:
            assert word_piece().by_id[found] == byte_level().by_id[index]


@pytest.mark.parametrize(("source", "target"), PAIRS)
@pytest.mark.parametrize("text", [ENGLISH, CODE, CHINESE])
def test_nearly_all_positions_are_aligned_and_mass_is_kept(source: str, target: str, text: str) -> None:
    a, b = ALL[source](), ALL[target]()
    rows = align(b.tokenized(text), signal(a, text), map_vocabulary(a, b))
    assert rows.valid.mean() >= 0.99
    total = rows.probs.sum(axis=1) + rows.other
    np.testing.assert_allclose(total[rows.valid], 1.0, atol=2e-3)
    assert (rows.probs >= 0).all()
    assert (rows.other >= 0).all()
    assert np.isfinite(rows.gold_logprob[rows.valid]).all()
    assert (rows.gold_logprob[rows.valid] <= 1e-3).all()


def test_one_tokenizer_onto_itself_changes_nothing() -> None:
    tokens = byte_level()
    said = signal(tokens, ENGLISH)
    rows = align(tokens.tokenized(ENGLISH), said, map_vocabulary(tokens, tokens))
    np.testing.assert_allclose(rows.gold_logprob, said.gold_logprob, atol=2e-3)
    for row in range(len(rows.valid)):
        told = dict(zip(rows.ids[row].tolist(), rows.probs[row].tolist(), strict=True))
        for index, log in zip(said.top_ids[row].tolist(), said.top_logprobs[row].tolist(), strict=True):
            assert told[index] == pytest.approx(np.exp(log), rel=5e-3, abs=1e-5)


def test_the_published_copy_bug_is_not_repeated() -> None:
    """A source that is sure of the next token must never make the target sure of the current one."""
    source, target = word_piece(), byte_level()
    said = signal(source, ENGLISH)
    rows = align(target.tokenized(ENGLISH), said, map_vocabulary(source, target))
    ids = target.tokenized(ENGLISH).token_ids
    for row in range(1, len(ids)):
        if ids[row] != ids[row - 1] and rows.valid[row]:
            before = rows.probs[row][rows.ids[row] == ids[row - 1]].sum()
            assert before < 0.9


def test_what_the_source_does_not_know_is_not_taught() -> None:
    tokens = byte_level()
    said = signal(tokens, ENGLISH)
    known = said.known.copy()
    known[3] = False
    rows = align(tokens.tokenized(ENGLISH), dataclasses.replace(said, known=known), map_vocabulary(tokens, tokens))
    assert not rows.valid[3]
    assert rows.probs[3].sum() == 0
    assert np.isnan(rows.gold_logprob[3])
    assert rows.valid[4]


def test_the_chain_rule_gives_the_probability_of_a_longer_token() -> None:
    long, short = byte_level(420), byte_level(260)
    text = "the dog and the fox"
    said = signal(short, text)
    target = long.tokenized(text)
    rows = align(target, said, map_vocabulary(short, long))
    covered = [
        said.gold_logprob[(said.byte_spans[:, 0] >= start) & (said.byte_spans[:, 1] <= end)].sum()
        for start, end in target.byte_spans
    ]
    assert any(end - start > 1 for start, end in target.byte_spans)
    np.testing.assert_allclose(rows.gold_logprob, covered, atol=5e-3)


@settings(max_examples=40, deadline=None)
@given(
    text=st.text(st.sampled_from("the dog aé中 \n,.3x"), min_size=1, max_size=40).filter(
        lambda text: bool(text.strip())
    ),
    seed=st.integers(0, 5),
    pair=st.sampled_from(PAIRS),
)
def test_mass_is_kept_on_any_text(text: str, seed: int, pair: tuple[str, str]) -> None:
    a, b = ALL[pair[0]](), ALL[pair[1]]()
    try:
        target, said = b.tokenized(text), signal(a, text, seed=seed)
    except TokenizerError:
        return
    rows = align(target, said, map_vocabulary(a, b))
    np.testing.assert_allclose((rows.probs.sum(axis=1) + rows.other)[rows.valid], 1.0, atol=2e-3)
    assert (rows.probs[~rows.valid] == 0).all()


def test_a_map_of_another_tokenizer_is_refused() -> None:
    small, large = byte_level(260), byte_level(420)
    said = signal(large, ENGLISH)
    with pytest.raises(ValueError, match="another tokenizer"):
        align(small.tokenized(ENGLISH), said, map_vocabulary(small, small))


def test_spellings_are_read_from_the_tokenizer() -> None:
    assert {kind: make().spelling for kind, make in ALL.items()} == {
        "byte_level": "byte_level",
        "unigram": "marked_space",
        "word_piece": "word_piece",
    }
    assert isinstance(byte_level(), TokenBytes)


def test_the_end_of_a_message_is_one_token_of_all_tokenizers() -> None:
    source, target = TokenBytes(byte_level().tokenizer, end=7), TokenBytes(word_piece().tokenizer, end=0)
    made = target.tokenized(ENGLISH, ended=True)
    assert made.token_ids[-1] == 0
    assert tuple(made.byte_spans[-1]) == (len(ENGLISH.encode()), len(ENGLISH.encode()) + 1)
    mapping = map_vocabulary(source, target)
    assert mapping.target_id[7] == 0
    rows = align(made, signal(source, ENGLISH, ended=True), mapping)
    assert rows.valid[-1]
    assert 0 in rows.ids[-1]
    with pytest.raises(TokenizerError, match="ends a message"):
        word_piece().tokenized(ENGLISH, ended=True)


def test_the_end_of_a_message_is_not_the_byte_that_is_spelled_alike() -> None:
    """Byte-level alphabets have a token for the byte that stands for the end; its id is the lower one in GPT-2."""
    tokens = TokenBytes(byte_level().tokenizer, end=400)
    spelled_alike = byte_level().tokenizer.get_vocab()["ÿ"]
    mapping = map_vocabulary(tokens, tokens)
    assert spelled_alike < 400
    assert mapping.target_id[400] == 400
    assert mapping.target_id[spelled_alike] == -1


def test_longer_tokens_that_the_target_lacks_are_told_of_the_token_they_begin_with() -> None:
    pairs = _words(["aa", "ab", "ba", "bb"])
    letters = _words(["a", "b"])
    said = _said(pairs, [1, 2], [[0.2, 0.4, 0.1, 0.3], [0.25, 0.25, 0.4, 0.1]])
    target = TokenizedText(b"abba", np.array([0, 1, 1, 0], np.int32), _spans([1, 1, 1, 1]))
    rows = align(target, said, map_vocabulary(pairs, letters))
    # P(a), P(b after a), P(b), P(a after b)
    np.testing.assert_allclose(np.exp(rows.gold_logprob), [0.6, 0.4 / 0.6, 0.5, 0.4 / 0.5], atol=2e-3)
    told = [dict(zip(rows.ids[row].tolist(), rows.probs[row].tolist(), strict=True)) for row in range(4)]
    assert told[1][0] == pytest.approx(0.2 / 0.6, abs=2e-3)
    assert told[0].get(1, 0.0) == 0.0
    assert rows.other[0] == pytest.approx(0.4, abs=2e-3)


def _words(words: list[str]) -> TokenBytes:
    vocabulary = {word: index for index, word in enumerate(words)}
    return TokenBytes(Tokenizer(models.WordLevel(vocabulary, unk_token=words[0])))


def _spans(widths: list[int]) -> NDArray[np.int32]:
    ends = np.cumsum(widths)
    return np.stack([ends - widths, ends], axis=1).astype(np.int32)


def _said(tokens: TokenBytes, ids: list[int], distributions: list[list[float]]) -> TeacherSignal:
    """A signal of pairs of letters with these whole distributions."""
    probs = np.array(distributions)
    top = np.argsort(-probs, axis=1, kind="stable").astype(np.int32)
    return TeacherSignal(
        model_hash="model", tokenizer_hash=tokens.digest, text_hash="text", capability="logits",
        token_ids=np.array(ids, np.int32), byte_spans=_spans([2] * len(ids)), top_ids=top,
        top_logprobs=np.log(np.take_along_axis(probs, top, axis=1)).astype(np.float16),
        tail_logprob=np.full(len(ids), -np.inf, np.float16),
        gold_logprob=np.log(probs[np.arange(len(ids)), ids]).astype(np.float32),
        known=np.ones(len(ids), np.bool_),
    )  # fmt: skip
