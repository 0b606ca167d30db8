"""MiniLM through ONNX Runtime and through sentence-transformers: the same vectors, alone and in company."""

from __future__ import annotations

from collections.abc import Sequence
from hashlib import sha256
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest

from encoders import minilm, onnx_files
from encoders.catalogue import load_encoder
from encoders.onnx import OnnxEncoder
from encoders.protocol import EncoderUnavailable
from encoders.sentence import SentenceEncoder

TEXTS = (
    "What is the capital of France?",
    "Name the capital city of France.",
    "Integrate x^2 from 0 to 1 and show each step of the computation.",
    "def reverse(words): return words[::-1]  # what does this do? " * 40,
    "",
)

needs_weights = pytest.mark.skipif(
    find_spec(minilm.PACKAGE) is None or find_spec("sentence_transformers") is None,
    reason=f"needs the torch extra and MiniLM's weights: {minilm.INSTALL}",
)
needs_export = pytest.mark.skipif(
    any(find_spec(name) is None for name in ("onnx", "onnxruntime", "torch", "transformers", minilm.PACKAGE)),
    reason=f"needs onnx, onnxruntime, the torch extra and MiniLM's weights: {minilm.INSTALL}",
)


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from encoders.build_onnx import build

    return build(tmp_path_factory.mktemp("cache") / "minilm-int8")


@pytest.fixture(scope="module")
def onnx(built: Path) -> OnnxEncoder:
    return OnnxEncoder.load(built)


@pytest.fixture(scope="module")
def sentence() -> SentenceEncoder:
    return SentenceEncoder.load("minilm")


def _cosines(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    cosines: np.ndarray = (left * right).sum(1)
    return cosines


@needs_export
@pytest.mark.slow
@pytest.mark.fleet
def test_a_vector_does_not_depend_on_its_neighbours(onnx: OnnxEncoder) -> None:
    together = onnx.encode(TEXTS)
    assert together.shape == (len(TEXTS), 384)
    assert together.dtype == np.float32
    for text, row in zip(TEXTS, together, strict=True):
        assert np.array_equal(onnx.encode_one(text), row)
    assert np.array_equal(onnx.encode(TEXTS[::-1]), together[::-1])
    assert np.linalg.norm(together[:-1], axis=1) == pytest.approx(1.0, abs=1e-5)
    assert not together[-1].any()


@needs_export
@pytest.mark.slow
@pytest.mark.fleet
@pytest.mark.parametrize("text", [*TEXTS, "naïve 東京 \U0001f600 ok " + "x" * 120, "word " * 900])
def test_the_model_reads_the_tokens_of_its_own_tokenizer(
    onnx: OnnxEncoder, sentence: SentenceEncoder, text: str
) -> None:
    assert onnx.token_ids(text) == sentence._model.tokenizer(text, truncation=True, max_length=256)["input_ids"]


@needs_export
@pytest.mark.slow
@pytest.mark.fleet
def test_padding_is_masked_out_of_the_graph(onnx: OnnxEncoder) -> None:
    ids = [101, 3007, 1997, 2605, 102]
    bare = onnx._run(None, {"input_ids": np.array([ids]), "attention_mask": np.ones((1, 5), np.int64)})[0]
    padded_ids, mask = np.array([[*ids, 0, 0, 0, 0]]), np.array([[1] * 5 + [0] * 4])
    padded = onnx._run(None, {"input_ids": padded_ids, "attention_mask": mask})[0]
    unmasked = onnx._run(None, {"input_ids": padded_ids, "attention_mask": np.ones((1, 9), np.int64)})[0]
    assert _cosines(bare, padded)[0] > 0.99
    assert _cosines(bare, unmasked)[0] < _cosines(bare, padded)[0]


@needs_export
@pytest.mark.slow
@pytest.mark.fleet
def test_int8_stays_close_to_float32(onnx: OnnxEncoder, sentence: SentenceEncoder) -> None:
    assert _cosines(onnx.encode(TEXTS[:-1]), sentence.encode(TEXTS[:-1])).min() > 0.97


@needs_export
@pytest.mark.slow
@pytest.mark.fleet
def test_the_cache_folder_is_where_it_is_looked_for(
    onnx: OnnxEncoder, built: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(onnx_files.CACHE_VARIABLE, str(built.parent))
    found = load_encoder("onnx")
    assert (found.name, found.hash, found.dim, found.inline) == ("onnx", onnx.hash, 384, False)


@needs_export
def test_missing_and_damaged_files_name_the_command_that_builds_them(tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match=r"encoders\.build_onnx"):
        OnnxEncoder.load(tmp_path)
    (tmp_path / onnx_files.MODEL_FILE).write_bytes(b"no graph")
    (tmp_path / onnx_files.TOKENS_FILE).write_bytes(b"{}")
    with pytest.raises(EncoderUnavailable, match="damaged"):
        OnnxEncoder.load(tmp_path)


@needs_weights
@pytest.mark.slow
@pytest.mark.fleet
def test_the_packaged_sentence_encoder_keeps_the_contract(sentence: SentenceEncoder) -> None:
    found = load_encoder("st:minilm")
    assert (found.name, found.hash, found.dim, found.inline) == ("st:minilm", sentence.hash, 384, False)
    vectors = sentence.encode(TEXTS)
    assert np.linalg.norm(vectors[:-1], axis=1) == pytest.approx(1.0, abs=1e-5)
    assert not vectors[-1].any()
    assert np.array_equal(sentence.encode_one(TEXTS[0]), sentence.encode([TEXTS[0]])[0])
    assert np.allclose(sentence.encode_one(TEXTS[0]), vectors[0], atol=1e-5)
    assert vectors[0] @ vectors[1] > vectors[0] @ vectors[2] + 0.3


@needs_weights
@pytest.mark.slow
@pytest.mark.fleet
def test_a_model_that_is_not_there_says_what_to_give(tmp_path: Path) -> None:
    with pytest.raises(EncoderUnavailable, match="folder of a model"):
        load_encoder(f"st:{tmp_path / 'nothing'}")


def test_weights_of_another_hash_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "other_minilm"
    (package / "model").mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setattr(minilm, "PACKAGE", "other_minilm")
    with pytest.raises(EncoderUnavailable, match="lacks"):
        minilm.model_folder()
    names: Sequence[str] = list(minilm.SHA256)
    for name in names:
        (package / "model" / name).write_bytes(b"other")
    with pytest.raises(EncoderUnavailable, match=sha256(b"other").hexdigest()):
        minilm.model_folder()
    monkeypatch.setattr(minilm, "PACKAGE", "no_such_minilm")
    with pytest.raises(EncoderUnavailable, match="pip install"):
        minilm.model_folder()
