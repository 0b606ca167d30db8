"""The distillation's steps, on inputs small enough to see what each of them must do."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from encoders import fit_static
from encoders.build_static import directions, kept_tokens, quantise, rarity, unit
from encoders.protocol import Vectors


class Letters:
    """A teacher whose vectors count letters; knows how often it was asked."""

    name = "letters"
    hash = "0123456789abcdef"
    dim = 26
    inline = True

    def __init__(self) -> None:
        self.asked = 0

    def encode_one(self, text: str) -> Vectors:
        counts = np.array([text.count(chr(97 + i)) for i in range(26)], np.float32)
        vector: Vectors = unit(counts[None])[0]
        return vector

    def encode(self, texts: Sequence[str]) -> Vectors:
        self.asked += len(texts)
        return np.stack([self.encode_one(text) for text in texts])


def test_special_and_reserved_tokens_are_left_out() -> None:
    assert kept_tokens(["[PAD]", "[unused3]", "[", "]", "a", "##b", "[CLS]"]) == [2, 3, 4, 5]


def test_the_strongest_directions_come_first_and_do_not_flip() -> None:
    random = np.random.default_rng(0)
    rows = (random.normal(size=(500, 6)) * [1, 2, 9, 4, 5, 3]).astype(np.float32)
    found = directions(rows, 3)
    assert found.T @ found == pytest.approx(np.eye(3), abs=1e-5)
    assert list(np.abs(found).argmax(0)) == [2, 4, 3]
    assert np.array_equal(found, directions(rows[::-1].copy(), 3)) or found == pytest.approx(
        directions(rows[::-1].copy(), 3), abs=1e-4
    )


def test_frequent_tokens_weigh_less() -> None:
    weights = rarity(np.array([1e6, 1e3, 1.0]))[:, 0]
    assert 0 < weights[0] < weights[1] < weights[2] <= 1


def test_quantised_rows_point_where_the_rows_did() -> None:
    rows = np.random.default_rng(0).normal(size=(200, 64)).astype(np.float32)
    table = quantise(rows)
    assert table.dtype == np.int8
    assert (unit(rows) * unit(table.astype(np.float32))).sum(1).min() > 0.999


def test_zero_rows_stay_zero() -> None:
    assert not unit(np.zeros((2, 3), np.float32)).any()


def test_windows_hold_each_beginning_once_and_are_the_same_each_time() -> None:
    texts = ["short one", "short one", " ".join(f"w{i}" for i in range(200))]
    cut = fit_static.windows(texts)
    assert cut == fit_static.windows(texts)
    assert cut.count("short one") == 1
    assert max(len(text.split()) for text in cut) == fit_static.HEAD_WORDS
    assert len(cut) == 4


def test_texts_are_read_once_from_plain_files(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    (tmp_path / "b.txt").write_text("two\nthree\n")
    assert fit_static.read_texts([tmp_path / "a.txt", tmp_path / "b.txt"]) == ["one", "two", "three"]
    (tmp_path / "c.txt").write_text("\n  \n")
    with pytest.raises(ValueError, match="found no text"):
        fit_static.read_texts([tmp_path / "c.txt"])


@pytest.mark.skipif(find_spec("pyarrow") is None, reason="needs the learn extra")
def test_texts_are_read_from_parquet(tmp_path: Path) -> None:
    import pyarrow
    import pyarrow.parquet as parquet

    table = pyarrow.table({"query": ["one", None, "two", "one"], "score": [0.0, 1.0, 0.5, 0.0]})
    parquet.write_table(table, tmp_path / "log.parquet")
    assert fit_static.read_texts([tmp_path / "log.parquet"]) == ["one", "two"]


def test_the_teacher_is_asked_once_where_its_vectors_are_kept(tmp_path: Path) -> None:
    teacher, texts = Letters(), ["abc", "cab", "xyz"]
    first = fit_static.teach(teacher, texts, tmp_path / "kept")
    assert np.array_equal(fit_static.teach(teacher, texts, tmp_path / "kept"), first)
    assert teacher.asked == 3
    fit_static.teach(teacher, texts, None)
    assert teacher.asked == 6


@pytest.mark.slow
@pytest.mark.fleet
@pytest.mark.skipif(find_spec("torch") is None, reason="needs the torch extra")
def test_fitting_learns_the_teacher_and_moves_only_rows_that_occur() -> None:
    random = np.random.default_rng(0)
    letters = [random.integers(0, 20, random.integers(0, 12)).tolist() for _ in range(3000)]
    texts = ["".join(chr(97 + i) for i in found) for found in letters]
    start = (0.1 * random.normal(size=(26, 26))).astype(np.float32)
    fitted, cosine = fit_static.fit(start, letters, Letters().encode(texts))
    assert np.array_equal(fitted[20:], start[20:])
    sums = np.stack([start[found].sum(0) for found in letters])
    assert (unit(sums) * Letters().encode(texts)).sum(1).mean() < 0.2
    assert cosine > 0.6
