"""The shipped static encoder: exact, bounded, and agreeing with the reference tokenizer."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st
from safetensors.numpy import save
from tokenizers import Tokenizer
from tokenizers.models import WordPiece as ReferenceWordPiece
from tokenizers.normalizers import BertNormalizer
from tokenizers.pre_tokenizers import BertPreTokenizer

from encoders import static as static_module
from encoders.catalogue import load_encoder
from encoders.protocol import Encoder, EncoderUnavailable
from encoders.static import REMEMBERED_CHUNKS, TABLE_FILE, TOKENS_FILE, WEIGHTS, StaticEncoder
from encoders.wordpiece import WordPiece, parts

PROMPT = (
    "Which of the following statements about the electron configuration of copper (Cu, Z = 29) is correct? "
    "Answer with the letter only.\nA) [Ar] 3d9 4s2\nB) [Ar] 3d10 4s1\nÉcrivez `x = f(y) ** 2`; naïve café — 東京 2024!"
)

SEPARATORS = "\x0b\x0c\x1c\x1d\x1e\x1f"
"""White space to Python and to us, dropped without a trace by the reference tokenizer."""


@pytest.fixture(scope="module")
def encoder() -> StaticEncoder:
    return StaticEncoder.load()


@pytest.fixture(scope="module")
def tokens() -> list[str]:
    found: list[str] = orjson.loads((WEIGHTS / TOKENS_FILE).read_bytes())["tokens"]
    return found


@pytest.fixture(scope="module")
def segmenter(tokens: list[str]) -> WordPiece:
    return WordPiece(tokens)


@pytest.fixture(scope="module")
def reference(tokens: list[str]) -> Tokenizer:
    vocabulary = {token: row for row, token in enumerate([*tokens, "[UNK]"])}
    tokenizer = Tokenizer(ReferenceWordPiece(vocabulary, unk_token="[UNK]", max_input_chars_per_word=100))
    tokenizer.normalizer = BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = BertPreTokenizer()
    return tokenizer


def _rows(segmenter: WordPiece, text: str) -> list[int]:
    return [row for chunk in text.lower().split() for row in segmenter.rows(chunk)]


def _reference_rows(reference: Tokenizer, text: str) -> list[int]:
    unknown = reference.token_to_id("[UNK]")
    return [row for row in reference.encode(text).ids if row != unknown]


def _memory(encoder: StaticEncoder) -> dict[str, bytes]:
    memory: dict[str, bytes] = encoder._row_bytes.__self__  # type: ignore[attr-defined]
    return memory


def test_it_is_the_encoder_found_by_its_name(encoder: StaticEncoder) -> None:
    found: Encoder = load_encoder("static")
    assert (found.name, found.hash, found.dim, found.inline) == ("static", encoder.hash, 256, True)
    assert len(found.hash) == 16
    assert int(found.hash, 16) >= 0


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match="static, onnx"):
        load_encoder("word2vec")
    with pytest.raises(ValueError, match="st:minilm"):
        load_encoder("st:")


@given(texts=st.lists(st.text(), max_size=6))
def test_any_text_gives_finite_unit_rows_equal_alone_and_in_a_batch(encoder: StaticEncoder, texts: list[str]) -> None:
    vectors = encoder.encode(texts)
    assert vectors.shape == (len(texts), encoder.dim)
    assert vectors.dtype == np.float32
    for text, row in zip(texts, vectors, strict=True):
        alone = encoder.encode_one(text)
        assert alone.dtype == np.float32
        assert np.array_equal(alone, row)
        assert np.linalg.norm(row) == pytest.approx(1.0, abs=1e-6) or not row.any()


@given(text=st.text(max_size=60))
def test_what_was_read_before_does_not_change_a_vector(encoder: StaticEncoder, text: str) -> None:
    remembered = encoder.encode_one(text)
    _memory(encoder).clear()
    assert np.array_equal(encoder.encode_one(text), remembered)


@pytest.mark.parametrize("text", ["", " ", "\n\t", "\u2028", "\x00"])
def test_an_empty_text_is_the_zero_vector(encoder: StaticEncoder, text: str) -> None:
    assert not encoder.encode_one(text).any()


def test_no_texts_are_no_rows(encoder: StaticEncoder) -> None:
    assert encoder.encode([]).shape == (0, 256)


def test_meaning_is_closer_than_chance(encoder: StaticEncoder) -> None:
    asked, near, far = encoder.encode(
        ["integrate x squared from 0 to 1", "compute the integral of a polynomial", "who painted the mona lisa"]
    )
    assert asked @ near > asked @ far + 0.1


def test_lone_surrogates_are_read(encoder: StaticEncoder) -> None:
    assert np.array_equal(encoder.encode_one("red \ud800 apple"), encoder.encode_one("red apple"))


def test_case_and_accents_and_spacing_do_not_matter(encoder: StaticEncoder) -> None:
    assert np.array_equal(encoder.encode_one("Élan  Vital\n"), encoder.encode_one("elan vital"))


def test_a_huge_text_is_read_at_its_two_ends(encoder: StaticEncoder) -> None:
    half = static_module.MAX_CHARS // 2
    head, tail = ("alpha " * half)[:half], (" omega" * half)[-half:]
    huge = head + "noise " * 1_000_000 + tail
    assert np.array_equal(encoder.encode_one(huge), encoder.encode_one(head + "\n" + tail))


@pytest.mark.parametrize("count", [1, 258, 259, 300, 4128, 4129, 7000])
def test_rows_of_any_number_are_summed_without_overflow(count: int) -> None:
    table = np.array([[127, -127, 127, 1], [127, -127, 126, 0]], np.int8)
    encoder = StaticEncoder(table, ["a", "b"], "0" * 16)
    expected = table[[0] + [1] * (count - 1)].astype(np.float64).sum(0)
    got = encoder.encode_one("a" + " b" * (count - 1))
    assert got == pytest.approx(expected / np.linalg.norm(expected), rel=1e-6)


def test_the_shipped_weights_are_those_that_the_source_names(encoder: StaticEncoder) -> None:
    assert encoder.hash in (WEIGHTS / "SOURCE.md").read_text(encoding="utf-8")


def test_memory_of_words_is_bounded(encoder: StaticEncoder) -> None:
    for start in range(0, REMEMBERED_CHUNKS + 5000, 1000):
        encoder.encode_one(" ".join(f"w{i}" for i in range(start, start + 1000)))
    encoder.encode_one("x" * 5000)
    assert 0 < len(_memory(encoder)) <= REMEMBERED_CHUNKS
    assert "x" * 5000 not in _memory(encoder)


@given(text=st.text(st.characters(codec="ascii", exclude_characters=SEPARATORS), max_size=120))
def test_tokens_of_ascii_text_are_those_of_the_reference_tokenizer(
    segmenter: WordPiece, reference: Tokenizer, text: str
) -> None:
    assert _rows(segmenter, text) == _reference_rows(reference, text)


@pytest.mark.parametrize(
    "text", [PROMPT, "Straße ΑΘΗΝΑ Москва 日本語テキスト 한국어 ﬁancé “quoted” … €5 ½", "a\u200bb"]
)
def test_tokens_of_other_scripts_are_those_of_the_reference_tokenizer(
    segmenter: WordPiece, reference: Tokenizer, text: str
) -> None:
    assert _rows(segmenter, text) == _reference_rows(reference, text)


def test_missing_files_name_the_command_that_builds_them(tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match=r"encoders\.build_static"):
        StaticEncoder.load(tmp_path)


@pytest.mark.parametrize("damage", ["cut", "other tokens", "other type"])
def test_damaged_files_are_refused(tmp_path: Path, damage: str) -> None:
    weights, spelling = (WEIGHTS / TABLE_FILE).read_bytes(), (WEIGHTS / TOKENS_FILE).read_bytes()
    if damage == "cut":
        weights = weights[:100_000]
    elif damage == "other tokens":
        spelling = orjson.dumps({"tokens": ["a", "b"]})
    else:
        weights = save({"table": np.zeros((2, 4), np.float32)})
    (tmp_path / TABLE_FILE).write_bytes(weights)
    (tmp_path / TOKENS_FILE).write_bytes(spelling)
    with pytest.raises(EncoderUnavailable, match="damaged"):
        StaticEncoder.load(tmp_path)


def test_the_hash_follows_weights_and_tokens(tmp_path: Path) -> None:
    hashes = set()
    for value, tokens in [(1, ["a", "b"]), (2, ["a", "b"]), (1, ["a", "c"])]:
        (tmp_path / TABLE_FILE).write_bytes(save({"table": np.full((2, 4), value, np.int8)}))
        (tmp_path / TOKENS_FILE).write_bytes(orjson.dumps({"tokens": tokens}))
        hashes.add(StaticEncoder.load(tmp_path).hash)
    assert len(hashes) == 3


def test_it_loads_without_any_learning_library() -> None:
    probe = (
        "import sys; from encoders.catalogue import load_encoder; load_encoder('static').encode_one('hello');"
        "heavy = {'torch', 'transformers', 'sklearn', 'onnxruntime', 'tokenizers', 'scipy'} & set(sys.modules);"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    folder = WEIGHTS.parent.parent
    ran = subprocess.run([sys.executable, "-c", probe], check=False, cwd=folder, capture_output=True, text=True)
    assert (ran.returncode, ran.stderr) == (0, "")


@given(chunk=st.text(min_size=1, max_size=80).map(str.lower))
def test_the_parts_of_a_chunk_have_its_rows(segmenter: WordPiece, chunk: str) -> None:
    assert "".join(parts(chunk)) == chunk
    assert [row for part in parts(chunk) for row in segmenter.rows(part)] == segmenter.rows(chunk)


def test_unspaced_text_is_remembered_by_its_parts(encoder: StaticEncoder) -> None:
    unspaced = "totals=sum(values)/len(values)" * 50
    assert np.array_equal(encoder.encode_one(unspaced), encoder.encode_one(" ".join(parts(unspaced))))
    assert {"totals", "=", "values"} <= set(_memory(encoder))
