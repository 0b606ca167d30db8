"""FuseLLM's alignment, kept to compare with: its map by spelling, its warping path, and its copy bug."""

from __future__ import annotations

import numpy as np
import pytest

from offline.distill.mined import MinED, align_mined, matches
from tests.distill.tokenizers_of_all_kinds import ENGLISH, byte_level, signal, word_piece


def test_a_token_of_another_spelling_becomes_the_nearest_one() -> None:
    mapping = MinED(byte_level(), word_piece())
    source, target = byte_level().tokenizer.get_vocab(), word_piece().tokenizer.get_vocab()
    assert mapping.target_id(source["Ġthe"]) == target["the"]
    unknown = next(i for i, token in enumerate(mapping.source) if token and token not in mapping.target)
    found = mapping.target[mapping.target_id(unknown)]
    here = _distance(mapping.source[unknown], found)
    assert here == min(_distance(mapping.source[unknown], token) for token in mapping.target)


def _distance(one: str, other: str) -> int:
    """Written out, to compare with."""
    line = list(range(len(other) + 1))
    for row, a in enumerate(one, 1):
        before, line[0] = line[0], row
        for column, b in enumerate(other, 1):
            before, line[column] = line[column], min(line[column] + 1, line[column - 1] + 1, before + (a != b))
    return line[-1]


def test_the_warping_path_pairs_what_is_spelled_alike() -> None:
    assert matches(["the", " dog", " sleeps"], ["the", " dog", " sleeps"]) == [[0], [1], [2]]
    assert matches(["ab", "cd"], ["abcd"]) == [[0, 1]]


@pytest.mark.parametrize("copy_bug", [True, False])
def test_the_released_code_teaches_to_repeat_and_the_corrected_one_does_not(copy_bug: bool) -> None:
    source, target = word_piece(), byte_level()
    made = target.tokenized(ENGLISH)
    rows = align_mined(made, signal(source, ENGLISH), MinED(source, target), copy_bug=copy_bug)
    assert not rows.valid[0]
    assert rows.valid[1:].all()
    np.testing.assert_allclose(rows.probs[1:].sum(axis=1), 1.0, atol=1e-5)
    before, here = made.token_ids[:-1], made.token_ids[1:]
    copied = (rows.ids[1:, 0] == before) & (rows.probs[1:, 0] == 1.0) & (before != here)
    assert (copied.mean() > 0.3) if copy_bug else not copied.any()
