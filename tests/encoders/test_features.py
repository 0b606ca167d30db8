"""The feature block: hand-computed cues, and what must not matter."""

from __future__ import annotations

from math import log1p

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from encoders.features import NAMES, PLACES, READ_CHARS, SIGNS, TAG, Features, Shape, query_features, tag_code


def value(block: Features, name: str) -> float:
    return float(block[NAMES.index(name)])


def test_cues_of_a_short_question_by_hand() -> None:
    block = query_features("Who won, 1966?")
    assert value(block, "log_chars") == pytest.approx(log1p(14))
    assert value(block, "log_words") == pytest.approx(log1p(3))
    assert value(block, "log_lines") == 0
    assert value(block, "word_chars") == pytest.approx(12 / 3 / 10)
    assert value(block, "lower_share") == pytest.approx(5 / 14)
    assert value(block, "upper_share") == pytest.approx(1 / 14)
    assert value(block, "digit_share") == pytest.approx(4 / 14)
    assert value(block, "blank_share") == pytest.approx(2 / 14)
    assert value(block, "begins_upper") == 1
    assert value(block, "ends_question") == 1
    assert value(block, "ends_stop") == 0
    assert value(block, "count ,") == pytest.approx(log1p(1))
    assert value(block, "count (") == 0


def test_pairs_of_neighbouring_classes_show_options_and_code() -> None:
    block = query_features("Pick\nA. x\nB. y\nC. z")
    assert value(block, "newline upper") == pytest.approx(log1p(3))
    assert value(block, "upper stop") == pytest.approx(log1p(3))
    assert value(block, "stop blank") == pytest.approx(log1p(3))
    code = query_features("f(x)\n")
    assert value(code, "lower sign") == pytest.approx(log1p(2))
    assert value(code, "sign newline") == pytest.approx(log1p(1))


def test_the_first_and_last_two_words_fall_into_one_place_each() -> None:
    block = query_features("what is the capital of france")
    for word in ("first", "second", "last but one", "last"):
        places = [value(block, f"{word} word {place}") for place in range(PLACES)]
        assert sorted(map(abs, places)) == [0.0] * (PLACES - 1) + [1.0]
    alone = query_features("hello")
    assert sum(abs(value(alone, f"second word {place}")) for place in range(PLACES)) == 0
    assert sum(abs(value(alone, f"last word {place}")) for place in range(PLACES)) == 1


def test_the_first_and_last_words_are_known_again_in_another_query() -> None:
    first, second = query_features("Write a poem on rain please now"), query_features("write a short song please NOW")
    edges = slice(NAMES.index("first word 0"), TAG)
    assert np.array_equal(first[edges], second[edges])


def test_shape_and_tag_have_their_own_places() -> None:
    plain, full = query_features("hi"), query_features("hi", Shape(3, True, True, True), "sums")
    changed = {NAMES[index] for index in np.flatnonzero(plain != full)}
    assert changed == {"log_turns", "has_system", "tools", "json_wanted", "tag"}
    assert value(full, "log_turns") == pytest.approx(log1p(3))
    assert full[TAG] == tag_code("sums")
    assert plain[TAG] == 0
    assert 1 <= tag_code("sums") < 2**24


def test_an_empty_text_has_a_block_of_zeros_but_for_one_turn_and_one_word() -> None:
    block = query_features("")
    assert {NAMES[index] for index in np.flatnonzero(block)} == {"log_turns", "log_words"}


def test_what_lies_beyond_the_characters_read_does_not_matter() -> None:
    text = "ab c" * (READ_CHARS // 4)
    assert np.array_equal(query_features(text), query_features(text + "?!{}" * 50))


def test_other_scripts_count_as_other() -> None:
    assert value(query_features("数学の問題"), "other_share") == 1
    assert value(query_features("plain"), "other_share") == 0


@given(st.text(max_size=300))
def test_any_text_gives_a_finite_block_of_fixed_length(text: str) -> None:
    block = query_features(text)
    assert block.shape == (len(NAMES),)
    assert block.dtype == np.float32
    assert np.all(np.isfinite(block))
    assert np.array_equal(block, query_features(text))
    for sign in SIGNS:
        assert value(block, f"count {sign}") == pytest.approx(log1p(text.count(sign)))
